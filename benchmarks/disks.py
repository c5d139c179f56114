#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves a QEMU machine with its drive, by haul --disks and by QEMU alone, side by side: at rest, and while it writes.

QEMU alone: the destination exports the drive on a TCP port of its own (nbd-server-start), the source mirrors
to it (blockdev-mirror), and its migration follows when the mirror is ready. haul carries the mirror through
its own connections. Both take turns; prints medians, and compares the images after each move.

Time is from the start of the mirror (haul: of the migration) until the destination has the machine.
"""
import contextlib
import filecmp
import os
import sys
import time

import harness
import linux_guest
import mirror

BUSY_MIB = 192  # of memory, which a Linux guest needs
BUSY_SECONDS = 5  # of writing before the move
BOOT_SECONDS = 300


def qemu_move(machines, channels):
    """Returns the figures of one move by QEMU alone."""
    uri = f"tcp:127.0.0.1:{harness.free_port()}"
    with harness.monitors(*machines) as (here, there):
        for side in (here, there):
            side("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
            side("migrate-set-parameters", **{"multifd-channels": channels, "max-bandwidth": 1 << 40})
        here("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
        begun = time.monotonic()
        mirror.start_mirror(here, there, harness.free_port())
        there("migrate-incoming", uri=uri)
        here("migrate", uri=uri)
        harness.wait_for(lambda: here("query-migrate"), lambda info: info["status"] == "pre-switchover")
        mirror.end_mirror(here)
        here("migrate-continue", state="pre-switchover")
        info = here.migrated()
        there("nbd-server-stop")
        return {"seconds": time.monotonic() - begun, "downtime_ms": info["downtime"]}


def move(bench, by, machines):
    if by == "qemu":
        return qemu_move(machines, bench.options.channels)
    return bench.haul_move(machines, bench.options.channels, arguments=("--disks",))


def expect(console, text, seconds):
    """Waits for `text` to come once more."""
    start = os.path.getsize(console)
    deadline = time.monotonic() + seconds
    while text not in linux_guest.read(console)[start:]:
        if time.monotonic() > deadline or b"BAD" in linux_guest.read(console):
            raise RuntimeError(f"the guest does not say {text}: {linux_guest.read(console)[-500:]}")
        time.sleep(0.05)


def busy_move(bench, by):
    """The same with a guest that writes the drive from its first block to its last, which are zero at first."""
    options = bench.options
    initrd = os.path.join(bench.work, "initrd")
    linux_guest.make_initrd(initrd, bench.built("tests/machines/guest_init"), options.kernel)
    with contextlib.ExitStack() as stack:
        machines, consoles = [], []
        for side in ("from", "to"):
            image = bench.path(options.disk_dir, f"busy-{side}")
            stack.callback(harness.remove, image)
            with open(image, "wb") as out:
                for _ in range(options.disk):
                    out.write(bytes(1 << 20))
            consoles.append(os.path.join(bench.work, f"console-{side}"))
            machines.append(bench.machine(side, size=BUSY_MIB, incoming=side == "to", extra=[
                *mirror.drive(image), "-serial", f"file:{consoles[-1]}",
                *linux_guest.words(options.kernel, initrd, "haul.mib=16 haul.rate=1 haul.disk=3")]))
            stack.callback(machines[-1].stop)
        expect(consoles[0], b"ready", BOOT_SECONDS)
        time.sleep(BUSY_SECONDS)
        figures = move(bench, by, machines)
        if by == "qemu":
            with harness.monitors(machines[1]) as (there,):
                there("cont")
        for _ in range(4 * BUSY_SECONDS):
            expect(consoles[1], b"ok", 30)
        return figures


def one_move(bench, by):
    """Starts both machines, moves once, compares the images, ends both."""
    options = bench.options
    images = [bench.path(options.disk_dir, f"image-{side}") for side in ("from", "to")]
    with open(images[1], "wb") as out:
        out.truncate(options.disk << 20)
    with bench.pair(bench.random_memory(options.size), bench.memory("destination"),
                    extra=[mirror.drive(image) for image in images]) as machines:
        figures = move(bench, by, machines)
    if not filecmp.cmp(*images, shallow=False):
        raise RuntimeError(f"{by}: the images differ")
    return figures


def main():
    parser = harness.parser(__doc__, repeat=5, size=64, channels=2)
    parser.add_argument("--disk", type=int, default=512, metavar="MIB", help="the machine's drive (default %(default)s)")
    parser.add_argument("--disk-dir", default="/dev/shm",
                        help="where the images are; on a tmpfs (the default) no disk's speed is measured")
    parser.add_argument("--kernel", default=linux_guest.default_kernel(), help="a kernel for the guest (default %(default)s)")
    options = parser.parse_args()
    if not options.kernel:
        sys.exit("disks: a cloud kernel is not installed; run tools/setup")
    with harness.Bench(options, ["//tests/machines:guest_init"]) as bench:
        print(f"{bench.title}; drive of {options.disk} MiB, memory of {options.size} MiB")
        harness.fill(bench.path(options.disk_dir, "image-from"), options.disk)
        runs = {}
        for _ in range(options.repeat):
            for guest, one in (("at rest", one_move), ("writes", busy_move)):
                for by in ("haul", "qemu"):
                    runs.setdefault((guest, by), []).append(one(bench, by))
        print("guest    by     total ms    MiB/s   down ms")
        rows = []
        for (guest, by), results in runs.items():
            row = {"guest": guest, "by": by, **{key: harness.median(results, key) for key in ("seconds", "downtime_ms")}}
            rows.append(row)
            size = options.disk + (BUSY_MIB if guest == "writes" else options.size)
            print(f"{guest:<9}{by:<6}{row['seconds'] * 1e3:9.0f} {size / row['seconds']:8.0f} {row['downtime_ms']:9.1f}")
        bench.save(rows, **{"disk-mib": options.disk, "size-mib": options.size})


if __name__ == "__main__":
    main()
