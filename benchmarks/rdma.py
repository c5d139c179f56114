#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves a QEMU machine over loopback by rdma: and by tcp:, at several channel counts.

All memory is present on both sides. The two ways take turns; prints medians, and how the total times compare.
With --provider tcp;ofi_rxm, the default, libfabric itself uses TCP: what is compared is the cost of its way,
not that of a card.
"""
import argparse
import contextlib
import json
import os
import shutil
import statistics
import tempfile

import versus_qemu as common


def one_move(options, work, way, channels):
    """Starts both machines, moves once, ends both."""
    source_memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-source")
    memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-destination")
    if not os.path.exists(source_memory):
        common.fill(source_memory, options.size)
    machines = []
    try:
        machines.append(common.Machine(work, "source", options, source_memory, False, True))
        machines.append(common.Machine(work, "destination", options, memory, True, True))
        for machine in machines:
            common.Qmp(machine.qmp_path).close()
        arguments = ("--rdma-provider", options.provider) if way == "rdma" else ()
        return common.haul_move(options, "present", channels, *machines, memory, way + ":127.0.0.1:0", arguments)
    finally:
        for machine in machines:
            machine.stop()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(memory)


def measure(options, work, channels):
    """Both ways at one number of channels; returns the row."""
    runs = {"tcp": [], "rdma": []}
    for _ in range(options.repeat):
        for way, results in runs.items():
            results.append(one_move(options, work, way, channels))
    row = {"channels": channels, "size-mib": options.size, "repeat": options.repeat}
    for way, results in runs.items():
        for key in ("seconds", "downtime_ms"):
            row[f"{way}-{key}"] = statistics.median(run[key] for run in results)
    row["ratio"] = row["rdma-seconds"] / row["tcp-seconds"]
    print(f"{channels:8} {row['tcp-seconds'] * 1e3:9.0f} {row['tcp-downtime_ms']:9.1f} {row['rdma-seconds'] * 1e3:9.0f} "
          f"{row['rdma-downtime_ms']:9.1f} {row['ratio']:7.2f}", flush=True)
    return row


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to run")
    parser.add_argument("--provider", default="tcp;ofi_rxm", help="libfabric's provider (default tcp;ofi_rxm)")
    parser.add_argument("--size", type=int, default=2048, metavar="MIB", help="memory of the machine (default 2048)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way (default 3)")
    parser.add_argument("--channels", default="1,2,4", help="channel counts, with commas (default 1,2,4)")
    parser.add_argument("--memory-dir", default="/dev/shm", help="a tmpfs with room for twice the memory")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    return parser.parse_args()


def main():
    options = parse()
    version = common.prepare(options, "rdma")
    print(f"{version}; provider {options.provider}; medians of {options.repeat}; {os.cpu_count()} CPUs")
    print("channels    tcp ms   down ms   rdma ms   down ms    rdma/tcp")
    work = tempfile.mkdtemp(prefix="haul-bench-")
    try:
        rows = [measure(options, work, int(channels)) for channels in options.channels.split(",")]
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-source"))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"qemu": version, "provider": options.provider, "rows": rows}, out, indent=2)


if __name__ == "__main__":
    main()
