"""A mount of a point: its disks as files, its file systems as trees (FUSE, see fuse(4))."""
