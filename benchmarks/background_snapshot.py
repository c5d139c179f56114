#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Background snapshots: what they cost whoever writes the memory, and how long they take.

First a process that writes whole pages in random order at a given rate is snapshotted, and times each of its writes:
the `faults` longest of them are those that waited (haul says how many there were; it also says how long it held each
itself, which is "handler p99"). Bar: 99 % of them under 1 ms at 500 MB/s.

Then a Linux guest in QEMU (TCG) runs the same program, and is snapshotted by haul and by QEMU's capability
background-snapshot into a file, in turn. QEMU says nothing of the writes that it held, so both are measured by the
guest's own clock: all writes that took 50 microseconds or more count as waits. The stop is taken from QEMU's own STOP and
RESUME events; seconds end when the file is on the disk.
"""
import argparse
import contextlib
import glob
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import prediction
import versus_qemu as common

WAIT_NS = 50000
BOOT_SECONDS = 120


class Asked:
    """Asks a timed_writer, by its two streams."""

    def __init__(self, to, answers):
        self.to, self.answers = to, answers
        for line in self.answers:
            if "ready" in line:
                return
        raise RuntimeError("the writer did not begin")

    def forget(self):
        print("forget", file=self.to, flush=True)

    def report(self, count, least):
        print(f"report {count} {least}", file=self.to, flush=True)
        for line in self.answers:
            words = line.split()
            if words and words[0] == "report":
                found = dict(zip(words[1::2], map(float, words[2::2])))
                return {"waits": found["waits"], "p50": found["p50"] / 1e6, "p99": found["p99"] / 1e6,
                        "longest": found["longest"] / 1e6, "waited": found["total"] / 1e9,
                        "written": found["written"] / 1e6 / found["seconds"]}
        raise RuntimeError("the writer ended")


def haul_snapshot(options, path, machine):
    words = [options.haul, "snapshot", "file:" + path, "--channels", str(options.channels), "--json", "--quiet"] + machine
    ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode != 0:
        raise RuntimeError(f"haul snapshot failed: {ran.stdout}")
    return json.loads(ran.stdout)


def settle(path):
    """Nothing of one run is written to the disk during the next."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.sync()


def writer_run(options, rate):
    """One snapshot of a writing process."""
    memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-written")
    path = os.path.join(options.file_dir, f"haul-bench-{os.getpid()}.snapshot")
    writer = subprocess.Popen([options.writer, memory, str(options.size), str(rate)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        asked = Asked(writer.stdin, writer.stdout)
        time.sleep(0.3)
        asked.forget()
        report = haul_snapshot(options, path, ["--memory", memory, "--pid", str(writer.pid)])
        faults = report["write-faults"]["count"]
        # The longest of all is the stop itself.
        row = asked.report(faults + 1, 0)
        stop = report["downtime-detail"]["actual"]["total"]
        return {"stop": stop, "faults": faults, "seconds": report["total-time"] / 1e3, **row,
                "handler-p99": report["write-faults"]["p99"]}
    finally:
        writer.kill()
        writer.wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(memory)
        settle(path)


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


class Guest:
    """A QEMU machine whose guest is the writer."""

    def __init__(self, options, work, rate):
        self.monitors = [os.path.join(work, name) for name in ("haul.qmp", "events.qmp")]
        console = os.path.join(work, "console")
        size = f"{options.size}M"
        append = f"console=ttyS0 quiet panic=-1 rdinit=/init writer.mib={options.size - 160} writer.rate={rate}"
        command = [options.qemu, "-accel", "tcg", "-cpu", "max", "-machine", "q35,memory-backend=ram", "-m", size, "-object",
                   f"memory-backend-memfd,id=ram,size={size},share=on", "-nodefaults", "-display", "none",
                   "-kernel", options.kernel, "-initrd", os.path.join(work, "initrd"), "-append", append,
                   "-serial", f"unix:{console},server=on,wait=off"]
        for monitor in self.monitors:
            command += ["-qmp", f"unix:{monitor},server=on,wait=off"]
        self.process = subprocess.Popen(command)
        self.events = Events(self.monitors[1])
        self.console = socket.socket(socket.AF_UNIX)
        self.console.settimeout(BOOT_SECONDS)
        self.console.connect(console)
        self.asked = Asked(self.console.makefile("w"), self.console.makefile("r", errors="replace"))

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.console.close()


def qemu_snapshot(monitor, path):
    """QEMU's own, written straight to the file, and to the disk."""
    qmp = common.Qmp(monitor)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        qmp("migrate-set-capabilities", capabilities=[{"capability": "background-snapshot", "state": True}])
        qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        text = json.dumps({"execute": "getfd", "arguments": {"fdname": "file"}}) + "\n"
        socket.send_fds(qmp.socket, [text.encode()], [file])
        while "return" not in qmp.file.readline():
            pass
        qmp("migrate", uri="fd:file")
        while (info := qmp("query-migrate")).get("status") not in ("completed", "failed"):
            time.sleep(0.002)
        if info["status"] == "failed":
            raise RuntimeError(f"QEMU's background snapshot failed: {info.get('error-desc', info)}")
        os.fsync(file)
    finally:
        os.close(file)
        qmp.close()


def guest_run(options, work, rate, way):
    """One snapshot of a machine."""
    path = os.path.join(options.file_dir, f"haul-bench-{os.getpid()}.snapshot")
    guest = None
    try:
        guest = Guest(options, work, rate)
        time.sleep(0.3)
        guest.asked.forget()
        begun = time.monotonic()
        report = {}
        if way == "haul":
            report = haul_snapshot(options, path, ["--qemu", guest.monitors[0]])
        else:
            qemu_snapshot(guest.monitors[0], path)
        seconds = time.monotonic() - begun
        row = guest.asked.report(0, WAIT_NS)
        stamps = guest.events.stamps
        return {"stop": stamps["RESUME"] - stamps["STOP"], "seconds": seconds, **row,
                "handler-p99": report["write-faults"]["p99"] if report else 0}
    finally:
        if guest:
            guest.stop()
        for name in os.listdir(work):
            if name != "initrd":
                os.unlink(os.path.join(work, name))
        settle(path)


def medians(runs):
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to run and to compare with")
    parser.add_argument("--haul", help="the haul program (default: built)")
    parser.add_argument("--kernel", default=max(glob.glob("/boot/vmlinuz-*cloud*"), default=None),
                        help="a kernel for the guest (default %(default)s)")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="memory (default 1024)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each case (default 3)")
    parser.add_argument("--channels", type=int, default=2, help="haul's writers (default 2)")
    parser.add_argument("--rates", default="100,500", help="MB/s that are written, with commas (default 100,500)")
    parser.add_argument("--cases", default="process,guest", help="of process, guest; with commas (default both)")
    parser.add_argument("--memory-dir", default="/dev/shm", help="a tmpfs with room for the memory of the process")
    parser.add_argument("--file-dir", default="/var/tmp",
                        help="where the snapshot goes: a directory on the disk to measure, with room for it (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    return parser.parse_args()


HEAD = "     stop   faults      p50      p99  longest  handler p99  waited s  seconds"


def figures(row, count):
    handler = f"{row['handler-p99']:12.3f}" if row["handler-p99"] else " " * 12
    return (f"{row['written']:8.0f} {row['stop']:8.1f} {row[count]:8.0f} {row['p50']:8.3f} {row['p99']:8.3f} "
            f"{row['longest']:8.3f} {handler} {row['waited']:9.3f} {row['seconds']:8.2f}")


def processes(options, rows):
    print(f"a process\nMB/s wanted  written{HEAD}")
    for rate in map(int, options.rates.split(",")):
        row = medians([writer_run(options, rate) for _ in range(options.repeat)])
        rows.append({"case": "process", "rate": rate, **row})
        print(f"{rate:11} {figures(row, 'faults')}", flush=True)


def guests(options, rows):
    work = tempfile.mkdtemp(prefix="haul-bench-")
    print(f"\na guest\nMB/s wanted  way   written{HEAD.replace('faults', ' waits')}")
    try:
        prediction.make_initrd(os.path.join(work, "initrd"), options.writer, options.kernel)
        for rate in map(int, options.rates.split(",")):
            runs = {way: [] for way in ("haul", "qemu")}
            for _ in range(options.repeat):
                for way, done in runs.items():
                    done.append(guest_run(options, work, rate, way))
            for way, done in runs.items():
                row = medians(done)
                rows.append({"case": "guest", "rate": rate, "way": way, **row})
                print(f"{rate:11} {way:4} {figures(row, 'waits')}", flush=True)
    except RuntimeError as failure:
        print(f"left out: {failure}", file=sys.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def file_system(path):
    output = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True).stdout
    return output.strip()


def main():
    options = parse()
    wanted = options.haul
    version = common.prepare(options, "background_snapshot")
    options.haul = wanted or options.haul
    subprocess.run(["bazel", "build", "--config=release", "//benchmarks/engine:timed_writer"], cwd=common.ROOT, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    options.writer = os.path.join(common.ROOT, "bazel-bin/benchmarks/engine/timed_writer")
    rows = []
    print(f"{version}; {options.size} MiB; medians of {options.repeat}; {os.cpu_count()} CPUs; "
          f"to {options.file_dir} ({file_system(options.file_dir)}); milliseconds")
    if "process" in options.cases:
        processes(options, rows)
    if "guest" in options.cases:
        guests(options, rows)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"size-mib": options.size, "rows": rows}, out, indent=2)


if __name__ == "__main__":
    main()
