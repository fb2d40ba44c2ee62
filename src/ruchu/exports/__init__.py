"""Serving a disk to those who read and write disks: NBD, NFS, iSCSI."""
