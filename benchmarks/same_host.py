#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Changes the QEMU process of a machine on one host, in every way there is, at several sizes.

All of the machine's memory is present, and so is the destination's where it is copied to. Ways take turns;
prints medians.

  handed    haul --mode cpr-transfer, the new QEMU with a file of its own
  same      haul --mode cpr-transfer, the new QEMU on the same file
  copied    haul --mode normal over a unix socket
  qemu      QEMU's own migrate (multifd) over a unix socket

Time is what each reports as its total time; `room` is the memory that the destination's own file took.
"""
import os

import harness

WAYS = ("handed", "same", "copied", "qemu")


def one_move(bench, size, way, number):
    source = bench.random_memory(size)
    memory = source if way == "same" else bench.memory("new")
    unix = "unix:" + os.path.join(bench.work, f"move-{number}")
    copies = way in ("copied", "qemu")
    with bench.pair(source, memory, (True, copies), size=size) as machines:
        if way == "qemu":
            figures = bench.qemu_move(machines, bench.options.channels, unix)
        else:
            mode = ("--mode", "normal" if copies else "cpr-transfer")
            figures = bench.haul_move(machines, bench.options.channels, unix, mode)
        figures["room"] = 0 if way == "same" else harness.allocated(memory)
    return figures


def measure(bench, size):
    """All ways at one size; returns the rows."""
    runs = {way: [] for way in WAYS}
    for turn in range(bench.options.repeat):
        for place, way in enumerate(WAYS):
            runs[way].append(one_move(bench, size, way, f"{size}-{turn}-{place}"))
    harness.remove(bench.random_memory(size))
    rows = []
    for way in WAYS:
        row = {"size-mib": size, "way": way, **harness.medians(runs[way])}
        rows.append(row)
        expected = f"{row['expected_ms']:8.1f}" if "expected_ms" in row else " " * 8
        print(f"{size:6}  {way:<8}{row['seconds'] * 1e3:9.0f} {row['downtime_ms']:9.1f} {expected} "
              f"{row['sent'] / 2**20:10.1f} {row['room'] / 2**20:8.0f}", flush=True)
    return rows


def main():
    parser = harness.parser(__doc__, repeat=3, channels=2)
    parser.add_argument("--sizes", default="512,4096", metavar="MIB", help="memory of the machine (default %(default)s)")
    options = parser.parse_args()
    with harness.Bench(options) as bench:
        print(f"{bench.title}\n   MiB  way      total ms   down ms  expected   sent MiB room MiB")
        rows = []
        for size in harness.counts(options.sizes):
            rows += measure(bench, size)
        bench.save(rows)


if __name__ == "__main__":
    main()
