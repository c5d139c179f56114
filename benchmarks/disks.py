#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves a QEMU machine at rest with its drive, by haul --disks and by QEMU alone, side by side.

QEMU alone: the destination exports the drive on a TCP port of its own (nbd-server-start), the source mirrors
to it (blockdev-mirror), and its migration follows when the mirror is ready. haul carries the mirror through
its own connections. Both take turns; prints medians, and compares the images after each move.

Time is from the start of the mirror (haul: of the migration) until the destination has the machine.
"""
import filecmp
import time

import harness
import mirror


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


def one_move(bench, by):
    """Starts both machines, moves once, compares the images, ends both."""
    options = bench.options
    images = [bench.path(options.disk_dir, f"image-{side}") for side in ("from", "to")]
    with open(images[1], "wb") as out:
        out.truncate(options.disk << 20)
    with bench.pair(bench.random_memory(options.size), bench.memory("destination"),
                    extra=[mirror.drive(image) for image in images]) as machines:
        if by == "qemu":
            figures = qemu_move(machines, options.channels)
        else:
            figures = bench.haul_move(machines, options.channels, arguments=("--disks",))
    if not filecmp.cmp(*images, shallow=False):
        raise RuntimeError(f"{by}: the images differ")
    return figures


def main():
    parser = harness.parser(__doc__, repeat=5, size=64, channels=2)
    parser.add_argument("--disk", type=int, default=512, metavar="MIB", help="the machine's drive (default %(default)s)")
    parser.add_argument("--disk-dir", default="/dev/shm",
                        help="where the images are; on a tmpfs (the default) no disk's speed is measured")
    options = parser.parse_args()
    with harness.Bench(options) as bench:
        print(f"{bench.title}; drive of {options.disk} MiB, memory of {options.size} MiB")
        harness.fill(bench.path(options.disk_dir, "image-from"), options.disk)
        runs = {"haul": [], "qemu": []}
        for _ in range(options.repeat):
            for by, results in runs.items():
                results.append(one_move(bench, by))
        print("by     total ms    MiB/s   down ms")
        rows = []
        for by, results in runs.items():
            row = {"by": by, **{key: harness.median(results, key) for key in ("seconds", "downtime_ms")}}
            rows.append(row)
            print(f"{by:<6}{row['seconds'] * 1e3:9.0f} {(options.disk + options.size) / row['seconds']:8.0f} "
                  f"{row['downtime_ms']:9.1f}")
        bench.save(rows, **{"disk-mib": options.disk, "size-mib": options.size})


if __name__ == "__main__":
    main()
