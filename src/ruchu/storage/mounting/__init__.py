"""File systems that Ruchu mounts for its storages: disks, shares, iSCSI targets."""
