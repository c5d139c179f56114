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
import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

import versus_qemu as common

WAYS = ("haul", "haul-direct", "qemu-exec", "qemu-mapped")


def has_mapped_ram(options, work, memory):
    machine = common.Machine(work, "probe", options, memory, False, False)
    try:
        qmp = common.Qmp(machine.qmp_path)
        names = [item["capability"] for item in qmp("query-migrate-capabilities")]
        qmp.close()
        return "mapped-ram" in names
    finally:
        machine.stop()


def by_haul(options, command, machine, path, channels, direct):
    words = [options.haul, command, "file:" + path, "--qemu", machine.qmp_path, "--channels", str(channels), "--json",
             "--quiet"] + (["--direct-io"] if direct else [])
    ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode != 0:
        raise RuntimeError(f"haul {command} failed: {ran.stdout}")
    return json.loads(ran.stdout)["total-time"] / 1e3


def by_qemu(command, machine, path, channels, mapped):
    """Runs `migrate` or `migrate-incoming` to the end."""
    qmp = common.Qmp(machine.qmp_path)
    if mapped:
        qmp("migrate-set-capabilities", capabilities=[{"capability": "mapped-ram", "state": True},
                                                      {"capability": "multifd", "state": True}])
        qmp("migrate-set-parameters", **{"multifd-channels": channels})
        uri = "file:" + path
    else:
        uri = f"exec:cat > {path}" if command == "migrate" else f"exec:cat {path}"
    if command == "migrate":
        qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    begun = time.monotonic()
    qmp(command, uri=uri)
    while True:
        info = qmp("query-migrate")
        if info.get("status") in ("completed", "failed"):
            break
        time.sleep(0.002)
    seconds = time.monotonic() - begun
    qmp.close()
    if info["status"] == "failed":
        raise RuntimeError(f"QEMU's {command} failed: {info}")
    return seconds


def started(work, name, options, memory, incoming):
    """A machine with all of its memory present, whose monitor answers.

    The page cache will take free memory. Where this runs in a virtual machine itself, memory that was not used for a
    while is slow the first time, and whoever comes first would pay: so as much as is needed is used once before.
    """
    machine = common.Machine(work, name, options, memory, incoming, True)
    common.Qmp(machine.qmp_path).close()
    scratch = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-scratch")
    try:
        with open(scratch, "wb") as out:
            for _ in range(options.size // 16 + 4):
                out.write(bytes(16 << 20))
    finally:
        os.unlink(scratch)
    return machine


def one_run(options, work, way, channels):
    """Saves and restores once; returns the figures."""
    memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-")
    path = os.path.join(options.file_dir, f"haul-bench-{os.getpid()}.snapshot")
    if not os.path.exists(memory + "source"):
        common.fill(memory + "source", options.size)
    mapped = way == "qemu-mapped"
    figures = {}
    machine = None
    try:
        machine = started(work, "source", options, memory + "source", False)
        if way.startswith("haul"):
            figures["save"] = figures["flushed"] = by_haul(options, "send", machine, path, channels, way != "haul")
        else:
            begun = time.monotonic()
            figures["save"] = by_qemu("migrate", machine, path, channels, mapped)
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
            figures["flushed"] = time.monotonic() - begun
        machine.stop()
        figures["disk_mib"] = common.allocated(path) / (1 << 20)
        machine = started(work, "new", options, memory + "new", True)
        if way.startswith("haul"):
            figures["restore"] = by_haul(options, "restore", machine, path, channels, way != "haul")
        else:
            figures["restore"] = by_qemu("migrate-incoming", machine, path, channels, mapped)
        return figures
    finally:
        if machine:
            machine.stop()
        for name in (path, memory + "new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to run and to compare with")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="memory of the machine (default 1024)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way (default 3)")
    parser.add_argument("--channels", default="1,2,4", help="channel counts, with commas (default 1,2,4)")
    parser.add_argument("--memory-dir", default="/dev/shm", help="a tmpfs with room for three times the memory")
    parser.add_argument("--file-dir", default="/var/tmp", help="where the snapshot goes: a disk with room for it")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    return parser.parse_args()


def main():
    options = parse()
    common.prepare(options, "file_snapshot")
    work = tempfile.mkdtemp(prefix="haul-bench-")
    memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-source")
    rows = []
    try:
        mapped = has_mapped_ram(options, work, memory)
        ways = [way for way in WAYS if mapped or way != "qemu-mapped"]
        if not mapped:
            print(f"{options.qemu} has no mapped-ram: qemu-mapped is left out")
        os.unlink(memory)
        print(f"{options.size} MiB; medians of {options.repeat}; {os.cpu_count()} CPUs; seconds\n"
              "way          ch    save  on disk  restore  MiB")
        for channels in map(int, options.channels.split(",")):
            runs = {way: [] for way in ways}
            for _ in range(options.repeat):
                for way in ways:
                    runs[way].append(one_run(options, work, way, channels))
            for way in ways:
                row = {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]}
                rows.append({"way": way, "channels": channels, **row})
                print(f"{way:12} {channels:2} {row['save']:7.2f} {row['flushed']:8.2f} {row['restore']:8.2f} "
                      f"{row['disk_mib']:5.0f}", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(memory)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"size-mib": options.size, "rows": rows}, out, indent=2)


if __name__ == "__main__":
    main()
