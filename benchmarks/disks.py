#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves a QEMU machine at rest with its drive, by haul --disks and by QEMU alone, side by side.

QEMU alone: the destination exports the drive on a TCP port of its own (nbd-server-start), the source mirrors
to it (blockdev-mirror), and its migration follows when the mirror is ready. haul carries the mirror through
its own connections. Both take turns; prints medians, and compares the images after each move.

Time is from the start of the mirror (haul: of the migration) until the destination has the machine.
"""
import argparse
import contextlib
import filecmp
import json
import os
import shutil
import statistics
import tempfile
import time

import versus_qemu as common


def drive(image):
    return ("-drive", f"if=none,id=disk0,format=raw,file={image}", "-device", "virtio-blk-pci,drive=disk0")


def wait_for(question, ready):
    while True:
        answer = question()
        if ready(answer):
            return answer
        time.sleep(0.002)


def node(qmp):
    return qmp("query-block")[0]["inserted"]["node-name"]


def start_mirror(here, there, port):
    """Mirrors the one drive to the other machine's, and returns when both hold the same."""
    address = {"host": "127.0.0.1", "port": str(port)}
    there("nbd-server-start", addr={"type": "inet", "data": address})
    there("block-export-add", **{"type": "nbd", "id": "e", "name": "e", "node-name": node(there), "writable": True})
    here("blockdev-add", driver="nbd", server={"type": "inet", **address}, export="e", **{"node-name": "target"})
    here("blockdev-mirror", device=node(here), target="target", sync="full", **{"job-id": "mirror"})
    wait_for(lambda: here("query-block-jobs"), lambda jobs: jobs[0]["ready"])


def end_mirror(here):
    here("block-job-cancel", device="mirror")
    wait_for(lambda: here("query-block-jobs"), lambda jobs: not jobs)
    here("blockdev-del", **{"node-name": "target"})


def qemu_move(options, source, destination):
    """Returns the figures of one move by QEMU alone."""
    here, there = common.Qmp(source.qmp_path), common.Qmp(destination.qmp_path)
    uri = f"tcp:127.0.0.1:{common.free_port()}"
    for side in (here, there):
        side("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
        side("migrate-set-parameters", **{"multifd-channels": options.channels, "max-bandwidth": 1 << 40})
    here("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    begun = time.monotonic()
    start_mirror(here, there, common.free_port())
    mirrored = time.monotonic() - begun
    there("migrate-incoming", uri=uri)
    here("migrate", uri=uri)
    wait_for(lambda: here("query-migrate"), lambda info: info["status"] == "pre-switchover")
    end_mirror(here)
    here("migrate-continue", state="pre-switchover")
    info = wait_for(lambda: here("query-migrate"), lambda answer: answer["status"] in ("completed", "failed"))
    there("nbd-server-stop")
    seconds = time.monotonic() - begun
    here.close()
    there.close()
    if info["status"] == "failed":
        raise RuntimeError(f"QEMU's migration failed: {info}")
    return {"seconds": seconds, "downtime_ms": info["downtime"], "mirror_seconds": mirrored}


def one_move(options, work, by):
    """Starts both machines, moves once, compares the images, ends both."""
    images = [os.path.join(options.disk_dir, f"haul-bench-{os.getpid()}-image-{side}") for side in ("from", "to")]
    memory = [os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-{side}") for side in ("from", "to")]
    machines = []
    try:
        if not os.path.exists(images[0]):
            common.fill(images[0], options.disk)
        with open(images[1], "wb") as out:
            out.truncate(options.disk << 20)
        common.fill(memory[0], options.size)
        for i, name in enumerate(("source", "destination")):
            machines.append(common.Machine(work, name, options, memory[i], i == 1, True, drive(images[i])))
            common.Qmp(machines[i].qmp_path).close()
        if by == "qemu":
            figures = qemu_move(options, *machines)
        else:
            figures = common.haul_move(options, "present", options.channels, *machines, memory[1],
                                       arguments=("--disks",))
        if not filecmp.cmp(*images, shallow=False):
            raise RuntimeError(f"{by}: the images differ")
        return figures
    finally:
        for machine in machines:
            machine.stop()
        for path in (*memory, images[1]):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to run and to compare with")
    parser.add_argument("--size", type=int, default=64, metavar="MIB", help="memory of the machine (default 64)")
    parser.add_argument("--disk", type=int, default=512, metavar="MIB", help="its drive (default 512)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--channels", type=int, default=2, help="for the memory (default 2)")
    parser.add_argument("--memory-dir", default="/dev/shm", help="a tmpfs with room for twice the memory")
    parser.add_argument("--disk-dir", default="/dev/shm",
                        help="where the images are; on a tmpfs (the default) no disk's speed is measured")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    return parser.parse_args()


def main():
    options = parse()
    version = common.prepare(options, "disks")
    print(f"{version}; drive of {options.disk} MiB, memory of {options.size} MiB; medians of {options.repeat}; "
          f"{os.cpu_count()} CPUs")
    runs = {"haul": [], "qemu": []}
    work = tempfile.mkdtemp(prefix="haul-bench-")
    try:
        for _ in range(options.repeat):
            for by, results in runs.items():
                results.append(one_move(options, work, by))
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(options.disk_dir, f"haul-bench-{os.getpid()}-image-from"))
    print("by     total ms    MiB/s   down ms")
    rows = []
    for by, results in runs.items():
        row = {"by": by, "disk-mib": options.disk, "size-mib": options.size}
        for key in ("seconds", "downtime_ms"):
            row[key] = statistics.median(run[key] for run in results)
        rows.append(row)
        print(f"{by:<6}{row['seconds'] * 1e3:9.0f} {(options.disk + options.size) / row['seconds']:8.0f} "
              f"{row['downtime_ms']:9.1f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"qemu": version, "rows": rows}, out, indent=2)


if __name__ == "__main__":
    main()
