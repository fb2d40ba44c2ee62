"""Only Ruchu may change a storage in a directory: flags, a guard on this host, a tamper check.

Knows paths, inodes and processes, and nothing of how objects are read or written: `directory` and
`filesystem` import from here, never the other way round.
"""
