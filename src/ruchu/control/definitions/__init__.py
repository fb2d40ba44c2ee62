"""Everything that people defined on a server, as documents: exported, imported, kept in files.

A definition is a kind, a name and fields; secrets stand beside them and are never shown. What an
import and a plan have in common is here: what differs, and how it is written in one transaction.
"""
