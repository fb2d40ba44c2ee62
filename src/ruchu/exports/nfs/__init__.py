"""Serves disks as files over NFS version 3, for hypervisors that start machines from them."""
