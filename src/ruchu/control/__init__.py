"""The control plane: when, where and for whom an operation runs, and what became of it.

A package for each term of the business; each owns its tables and its services. Services are
synchronous and are called from threads; nothing here waits for the network within a transaction.
"""
