"""A node: carries out the orders of its server, each in a process of its own, and reports.

What a task says lies on disk until the server has it, so that a node that loses its server goes
on and reports later.
"""
