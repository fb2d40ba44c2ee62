"""What a backup is: packs, points, chains, maps, merge, verify (the VDS format)."""
