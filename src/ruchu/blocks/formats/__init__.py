"""Disk image formats: reading a disk out of an image, and showing a disk as an image."""
