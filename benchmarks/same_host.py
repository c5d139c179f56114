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
import argparse
import contextlib
import json
import os
import shutil
import statistics
import tempfile

import versus_qemu as common

WAYS = ("handed", "same", "copied", "qemu")


def one_move(options, work, way, number):
    """Starts both machines, moves once, ends both."""
    source_memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-source")
    memory = source_memory if way == "same" else os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-new")
    if not os.path.exists(source_memory):
        common.fill(source_memory, options.size)
    unix = "unix:" + os.path.join(work, f"move-{number}")
    copies = way in ("copied", "qemu")
    machines = []
    try:
        machines.append(common.Machine(work, "source", options, source_memory, False, True))
        machines.append(common.Machine(work, "destination", options, memory, True, copies))
        for machine in machines:
            common.Qmp(machine.qmp_path).close()
        if way == "qemu":
            figures = common.qemu_move(options, "present", options.channels, *machines, uri=unix)
        else:
            mode = ("--mode", "normal" if copies else "cpr-transfer")
            figures = common.haul_move(options, "present", options.channels, *machines, memory, unix, mode)
        figures["room"] = 0 if way == "same" else common.allocated(memory)
        return figures
    finally:
        for machine in machines:
            machine.stop()
        if memory != source_memory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(memory)


def measure(options, work):
    """All ways at one size; returns the rows."""
    runs = {way: [] for way in WAYS}
    try:
        for turn in range(options.repeat):
            for place, way in enumerate(WAYS):
                runs[way].append(one_move(options, work, way, f"{options.size}-{turn}-{place}"))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-source"))
    rows = []
    for way in WAYS:
        row = {"size-mib": options.size, "way": way, "repeat": options.repeat}
        for key in ("seconds", "downtime_ms", "expected_ms", "sent", "room"):
            if key in runs[way][0]:
                row[key] = statistics.median(run[key] for run in runs[way])
        rows.append(row)
        expected = f"{row['expected_ms']:8.1f}" if "expected_ms" in row else " " * 8
        print(f"{options.size:6}  {way:<8}{row['seconds'] * 1e3:9.0f} {row['downtime_ms']:9.1f} {expected} "
              f"{row['sent'] / 2**20:10.1f} {row['room'] / 2**20:8.0f}", flush=True)
    return rows


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to run and to compare with")
    parser.add_argument("--sizes", default="512,4096", metavar="MIB", help="memory of the machine (default 512,4096)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way per size (default 3)")
    parser.add_argument("--channels", type=int, default=2, help="for those that copy (default 2)")
    parser.add_argument("--memory-dir", default="/dev/shm", help="a tmpfs with room for twice the memory")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    return parser.parse_args()


def main():
    options = parse()
    version = common.prepare(options, "same_host")
    print(f"{version}; medians of {options.repeat}; {os.cpu_count()} CPUs")
    print("   MiB  way      total ms   down ms  expected   sent MiB room MiB")
    rows = []
    work = tempfile.mkdtemp(prefix="haul-bench-")
    try:
        for options.size in map(int, options.sizes.split(",")):
            rows += measure(options, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"qemu": version, "rows": rows}, out, indent=2)


if __name__ == "__main__":
    main()
