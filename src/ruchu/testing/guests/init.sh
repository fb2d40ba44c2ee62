#!/bin/busybox sh
# PID 1 of the test guest: load drivers, mount the disks, keep the guest agent running.
/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /run /tmp /mnt /etc
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
if grep -q ruchu.probe /proc/cmdline; then
    echo RUCHU PROBE
    poweroff -f
fi
ln -s /proc/mounts /etc/mtab
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
/bin/mount-disks
port() {
    for link in /sys/class/virtio-ports/*; do
        [ "$(cat $link/name 2>/dev/null)" = org.qemu.guest_agent.0 ] && basename $link
    done
}
while [ -z "$(port)" ]; do usleep 20000; done
echo "RUCHU GUEST READY $(cat /proc/uptime)"
while :; do
    qemu-ga -m virtio-serial -p /dev/$(port) -t /run
    sleep 1
done
