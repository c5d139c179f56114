# SPDX-License-Identifier: Apache-2.0
"""A Linux guest for a machine: Debian's cloud kernel, and a program of ours that runs in place of init."""
import glob
import os

MODULES = ("virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci_legacy_dev",
           "virtio/virtio_pci", "block/virtio_blk")


def default_kernel():
    return max(glob.glob("/boot/vmlinuz-*cloud*"), default=None)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def archive_entry(name, mode, content, inode):
    """One file of an initial RAM disk in cpio's "newc" format."""
    fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)


def make_initrd(path, init, kernel):
    drivers = "/lib/modules/" + os.path.basename(kernel).removeprefix("vmlinuz-") + "/kernel/drivers/"
    files = [("init", 0o100755, read(init)), ("dev", 0o040755, b"")]
    files += [(os.path.basename(name) + ".ko", 0o100644, read(drivers + name + ".ko")) for name in MODULES]
    files.append(("TRAILER!!!", 0, b""))
    with open(path, "wb") as out:
        out.write(b"".join(archive_entry(*file, inode) for inode, file in enumerate(files)))


def words(kernel, initrd, arguments):
    """QEMU's options for it; what the guest says comes from its first serial port.

    It has one CPU and room for another: QEMU before 8.1 leaves out the memory barriers of a guest that can only have one,
    which then misses an interrupt of virtio once in a while.
    """
    return ["-cpu", "max", "-smp", "1,maxcpus=2", "-kernel", kernel, "-initrd", initrd, "-append",
            "console=ttyS0 quiet panic=-1 rdinit=/init " + arguments]
