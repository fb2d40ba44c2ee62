"""The control plane: what runs where, and the services behind the command line, API and console.

A module holds the services of one noun. A service is one call: it opens what it needs from the
local state, carries out one workflow, and returns a value to print.
"""
