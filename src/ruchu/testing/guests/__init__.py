"""A small real guest: Debian's kernel, busybox, and the QEMU guest agent, booted by libvirt."""
