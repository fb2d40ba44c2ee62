"""Ruchu, an open disaster recovery system: back up, restore, run, replicate and rehearse.

Nothing but the version lives here. ARCHITECTURE.md says which package holds what.
"""

__version__ = "0.1.0"
