#!/bin/busybox sh
# Mounts each disk that has a serial and a file system at /mnt/<serial>. May be run again.
for disk in /sys/block/vd* /sys/block/sd*; do
    [ -e "$disk" ] || continue
    name=$(basename $disk)
    serial=$(cat $disk/serial 2>/dev/null)
    [ -n "$serial" ] || continue
    grep -q " /mnt/$serial " /proc/mounts && continue
    mkdir -p /mnt/$serial
    mount -t ext4 -o discard /dev/$name /mnt/$serial 2>/dev/null || rmdir /mnt/$serial
done
exit 0
