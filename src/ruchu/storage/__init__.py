"""Targets: where backups lie, behind the protocol in `contract`."""
