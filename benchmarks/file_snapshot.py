#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Saves the same QEMU machine at rest into a file and restores it, with haul and with QEMU, side by side.

Ways take turns; prints medians. All of the machine's memory is present, and so is that of the new machine.

  haul         haul send file: and haul restore file:
  haul-direct  the same with --direct-io
  qemu-exec    QEMU's migrate to exec:cat > FILE, and -incoming exec:cat FILE
  qemu-mapped  QEMU's migrate to file: with mapped-ram and multifd, where the program has it

A save ends when the file is on the disk: QEMU does not flush it, so its time is shown without and with a flush.
"""
import os
import time

import harness

WAYS = ("haul", "haul-direct", "qemu-exec", "qemu-mapped")


def has_mapped_ram(bench):
    machine = bench.machine("probe", size=16, extra=("-S",))
    try:
        with harness.monitors(machine) as (qmp,):
            return "mapped-ram" in [item["capability"] for item in qmp("query-migrate-capabilities")]
    finally:
        machine.stop()


def by_haul(bench, command, machine, path, channels, direct):
    figures = bench.run_haul(command, "file:" + path, "--qemu", machine.qmp_path, "--channels", str(channels),
                             *(["--direct-io"] if direct else []))
    return figures["total-time"] / 1e3


def by_qemu(command, machine, path, channels, mapped):
    """Runs `migrate` or `migrate-incoming` to the end."""
    with harness.monitors(machine) as (qmp,):
        uri = f"exec:cat > {path}" if command == "migrate" else f"exec:cat {path}"
        if mapped:
            qmp("migrate-set-capabilities", capabilities=[{"capability": "mapped-ram", "state": True},
                                                          {"capability": "multifd", "state": True}])
            qmp("migrate-set-parameters", **{"multifd-channels": channels})
            uri = "file:" + path
        if command == "migrate":
            qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        begun = time.monotonic()
        qmp(command, uri=uri)
        qmp.migrated()
        return time.monotonic() - begun


def started(bench, name, file, incoming):
    """A machine with all of its memory present.

    The page cache will take free memory. Where this runs in a virtual machine itself, memory that was not used for a
    while is slow the first time, and whoever comes first would pay: so as much as is needed is used once before.
    """
    machine = bench.machine(name, file=file, incoming=incoming, prealloc=True, extra=() if incoming else ("-S",))
    scratch = bench.memory("scratch")
    with open(scratch, "wb") as out:
        for _ in range(bench.options.size // 16 + 4):
            out.write(bytes(16 << 20))
    os.unlink(scratch)
    return machine


def save(bench, way, channels, path):
    machine = started(bench, "source", bench.random_memory(bench.options.size), False)
    try:
        if way.startswith("haul"):
            seconds = by_haul(bench, "send", machine, path, channels, way != "haul")
            return {"save": seconds, "flushed": seconds}
        begun = time.monotonic()
        seconds = by_qemu("migrate", machine, path, channels, way == "qemu-mapped")
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        return {"save": seconds, "flushed": time.monotonic() - begun}
    finally:
        machine.stop()


def restore(bench, way, channels, path):
    memory = bench.memory("new")
    machine = started(bench, "new", memory, True)
    try:
        if way.startswith("haul"):
            return by_haul(bench, "restore", machine, path, channels, way != "haul")
        return by_qemu("migrate-incoming", machine, path, channels, way == "qemu-mapped")
    finally:
        machine.stop()
        harness.remove(memory)


def one_run(bench, way, channels):
    """Saves and restores once; returns the figures."""
    path = bench.path(bench.options.file_dir, "snapshot")
    try:
        figures = save(bench, way, channels, path)
        figures["disk_mib"] = harness.allocated(path) / (1 << 20)
        figures["restore"] = restore(bench, way, channels, path)
        return figures
    finally:
        harness.remove(path)


def measure(bench, ways, channels):
    runs = {way: [] for way in ways}
    for _ in range(bench.options.repeat):
        for way in ways:
            runs[way].append(one_run(bench, way, channels))
    rows = []
    for way in ways:
        row = {"way": way, "channels": channels, **harness.medians(runs[way])}
        rows.append(row)
        print(f"{way:12} {channels:2} {row['save']:7.2f} {row['flushed']:8.2f} {row['restore']:8.2f} "
              f"{row['disk_mib']:5.0f}", flush=True)
    return rows


def main():
    parser = harness.parser(__doc__, repeat=3, size=1024, channels="1,2,4",
                            memory_dir="a tmpfs with room for three times the memory")
    parser.add_argument("--file-dir", default="/var/tmp", help="where the snapshot goes: a disk with room for it")
    options = parser.parse_args()
    rows = []
    with harness.Bench(options) as bench:
        mapped = has_mapped_ram(bench)
        if not mapped:
            print(f"{options.qemu} has no mapped-ram: qemu-mapped is left out")
        print(f"{bench.title}; {options.size} MiB; seconds\nway          ch    save  on disk  restore  MiB")
        for channels in harness.counts(options.channels):
            rows += measure(bench, [way for way in WAYS if mapped or way != "qemu-mapped"], channels)
        bench.save(rows, **{"size-mib": options.size})


if __name__ == "__main__":
    main()
