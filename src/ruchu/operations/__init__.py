"""One operation on this machine, from the names of things to its end.

A name becomes a registered storage or platform, a workflow runs, the result becomes a document.
The command line calls this, and so do the tasks of a node; when, where and for whom an operation
runs is the business of `ruchu.control`.
"""
