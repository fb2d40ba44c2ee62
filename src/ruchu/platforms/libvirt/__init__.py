"""libvirt with QEMU/KVM: the driver is `driver.LibvirtPlatform`."""
