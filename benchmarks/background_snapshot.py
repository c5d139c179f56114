#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Background snapshots: what they cost whoever writes the memory, and how long a machine stands still.

First a process that writes pages in random order at a given rate is snapshotted, and times each of its writes: the
`faults` longest of them are those that waited (haul says how many there were). Bar: 99 % of them under 1 ms at 500 MB/s.
Then a QEMU machine, whose stop is taken from QEMU's own STOP and RESUME events, by haul and by QEMU's capability
background-snapshot, in turn. QEMU says nothing of the writes that it held.
"""
import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import versus_qemu as common


def percentile(values, share):
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0


def haul_snapshot(options, path, machine):
    words = [options.haul, "snapshot", "file:" + path, "--channels", str(options.channels), "--json", "--quiet"] + machine
    ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    if ran.returncode != 0:
        raise RuntimeError(f"haul snapshot failed: {ran.stdout}")
    return json.loads(ran.stdout)


def writer_run(options, rate):
    """One snapshot of a writing process."""
    memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-written")
    path = os.path.join(options.file_dir, f"haul-bench-{os.getpid()}.snapshot")
    writer = subprocess.Popen([options.writer, memory, str(options.size), str(rate)], stdout=subprocess.PIPE, text=True)
    try:
        writer.stdout.readline()
        time.sleep(0.5)
        writer.send_signal(signal.SIGUSR1)
        report = haul_snapshot(options, path, ["--memory", memory, "--pid", str(writer.pid)])
        writer.send_signal(signal.SIGTERM)
        times = sorted(map(int, writer.stdout.readline().split()))
        words = writer.stdout.readline().split()
    finally:
        writer.kill()
        writer.wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(memory)
    # The stop itself is a write that takes long, too: it is no fault.
    faults = report["write-faults"]["count"]
    waited = times[:-1][-faults:] if faults else []
    return {"stop": report["downtime-detail"]["actual"]["total"], "faults": faults, "seconds": report["total-time"] / 1e3,
            "p50": percentile(waited, 0.5) / 1e6, "p99": percentile(waited, 0.99) / 1e6,
            "longest": (waited[-1] if waited else 0) / 1e6, "handler-p99": report["write-faults"]["p99"],
            "written": int(words[1]) * 4096 / 1e6 / float(words[3])}


class Events(threading.Thread):
    """Follows a second monitor for STOP and RESUME."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.qmp = common.Qmp(path)
        self.stamps = {}
        self.start()

    def run(self):
        with contextlib.suppress(OSError, ValueError):
            for line in self.qmp.file:
                event = json.loads(line)
                if "event" in event:
                    stamp = event["timestamp"]
                    self.stamps.setdefault(event["event"], stamp["seconds"] * 1e3 + stamp["microseconds"] / 1e3)


def machine_run(options, work, way):
    """One snapshot of a QEMU machine that runs (its firmware, under TCG) with all memory present."""
    path = os.path.join(options.file_dir, f"haul-bench-{os.getpid()}.snapshot")
    monitors = [os.path.join(work, name) for name in ("haul.qmp", "events.qmp")]
    command = [options.qemu, "-accel", "tcg", "-machine", "q35,memory-backend=ram", "-m", f"{options.size}M", "-object",
               f"memory-backend-memfd,id=ram,size={options.size}M,share=on,prealloc=on", "-nodefaults", "-display", "none"]
    for monitor in monitors:
        command += ["-qmp", f"unix:{monitor},server=on,wait=off"]
    process = subprocess.Popen(command)
    try:
        events = Events(monitors[1])
        time.sleep(1)
        begun = time.monotonic()
        if way == "haul":
            haul_snapshot(options, path, ["--qemu", monitors[0]])
        else:
            qmp = common.Qmp(monitors[0])
            qmp("migrate-set-capabilities", capabilities=[{"capability": "background-snapshot", "state": True}])
            qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            qmp("migrate", uri=f"exec:cat > {path}")
            while (info := qmp("query-migrate")).get("status") not in ("completed", "failed"):
                time.sleep(0.002)
            qmp.close()
            if info["status"] == "failed":
                raise RuntimeError(f"QEMU's background snapshot failed: {info.get('error-desc', info)}")
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        seconds = time.monotonic() - begun
        time.sleep(0.1)
        return {"stop": events.stamps["RESUME"] - events.stamps["STOP"], "seconds": seconds}
    finally:
        process.kill()
        process.wait()
        for name in monitors + [path]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def medians(runs):
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to run and to compare with")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="memory (default 1024)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each case (default 3)")
    parser.add_argument("--channels", type=int, default=2, help="haul's writers (default 2)")
    parser.add_argument("--rates", default="100,500", help="MB/s that the process writes, with commas (default 100,500)")
    parser.add_argument("--memory-dir", default="/dev/shm", help="a tmpfs with room for the memory")
    parser.add_argument("--file-dir", default="/var/tmp", help="where the snapshot goes: a disk with room for it")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    return parser.parse_args()


def main():
    options = parse()
    version = common.prepare(options, "background_snapshot")
    subprocess.run(["bazel", "build", "--config=release", "//benchmarks/engine:timed_writer"], cwd=common.ROOT, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    options.writer = os.path.join(common.ROOT, "bazel-bin/benchmarks/engine/timed_writer")
    rows = []
    print(f"{options.size} MiB; medians of {options.repeat}; {os.cpu_count()} CPUs; milliseconds\n"
          "MB/s wanted  written     stop   faults      p50      p99  longest  handler p99  seconds")
    for rate in map(int, options.rates.split(",")):
        row = medians([writer_run(options, rate) for _ in range(options.repeat)])
        rows.append({"rate": rate, **row})
        print(f"{rate:11} {row['written']:8.0f} {row['stop']:8.1f} {row['faults']:8.0f} {row['p50']:8.3f} {row['p99']:8.3f} "
              f"{row['longest']:8.3f} {row['handler-p99']:12.3f} {row['seconds']:8.2f}", flush=True)
    work = tempfile.mkdtemp(prefix="haul-bench-")
    print(f"\n{version}\nmachine      stop  seconds")
    try:
        runs = {way: [] for way in ("haul", "qemu")}
        for _ in range(options.repeat):
            for way, done in runs.items():
                done.append(machine_run(options, work, way))
        for way, done in runs.items():
            row = medians(done)
            rows.append({"way": way, **row})
            print(f"{way:8} {row['stop']:8.1f} {row['seconds']:8.2f}", flush=True)
    except RuntimeError as failure:
        print(f"left out: {failure}", file=sys.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"size-mib": options.size, "rows": rows}, out, indent=2)


if __name__ == "__main__":
    main()
