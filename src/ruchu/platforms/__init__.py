"""Virtualization platforms: one package each, behind the protocols in `contract`."""
