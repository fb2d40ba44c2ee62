"""What is inside disks: partitions, volumes, file systems, which bytes count, single files."""
