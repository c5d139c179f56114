#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Background snapshots: what they cost whoever writes the memory, and how long they take.

First a process that writes whole pages in random order at a given rate is snapshotted, and times each of its writes:
the `faults` longest of them are those that waited (haul says how many there were; it also says how long each waited as
far as it knows, which is "handler p99").

Bar: 99 % of the waits under 1 ms (p99) at 500 MB/s. What counts is not what the writer was asked for but what it wrote
while the snapshot ran, "written": each wait costs it time. The writer is measured from before haul starts until after it
ended; of that, "written" is the least in any span as long as haul's own total time. So it is asked for twice as much
again and again until it writes as much as that, up to --most. Each row says "pass", "FAIL", or "rate not reached".

The exit status is 0 where each case that was asked for passed, 1 where one failed, and else 3: one was not measured, as
the rate was not reached or asked for, or as it could not run.

Then a Linux guest in QEMU (TCG) runs the same program, and is snapshotted by haul and by QEMU's capability
background-snapshot into a file, in turn. QEMU says nothing of the writes that it held, so both are measured by the
guest's own clock: all writes that took 50 microseconds or more count as waits ("held p99" is that of as many of the
longest writes as haul held, as for the process). That clock also runs while the vCPU is ready but has no CPU: "no CPU s"
says for how long that was, as the kernel counts it, and the way "none" what the guest sees without any snapshot. The
stop is taken from QEMU's own STOP and RESUME events; seconds end when the file is on the disk.
"""
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import harness
import linux_guest

WRITER = "benchmarks/engine/timed_writer"
WAIT_NS = 50000
LONG_NS = 1000000
FAILED, NOT_MEASURED = 1, 3
BAR_MS = 1.0
BAR_RATE = 500
NONE_SECONDS = 2
BOOT_SECONDS = 120


def without_cpu(pid, tid):
    """Seconds that a thread was ready to run and had no CPU."""
    with open(f"/proc/{pid}/task/{tid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[1]) / 1e9


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

    def report(self, count, least, seconds):
        """Of the longest writes; "written" is of the span of so many seconds in which the least was, in MB/s."""
        print(f"report {count} {least} {seconds * 1e9:.0f}", file=self.to, flush=True)
        for line in self.answers:
            words = line.split()
            if words and words[0] == "report":
                found = dict(zip(words[1::2], map(float, words[2::2])))
                return {"waits": found["waits"], "p50": found["p50"] / 1e6, "p99": found["p99"] / 1e6,
                        "longest": found["longest"] / 1e6, "waited": found["total"] / 1e9,
                        "written": found["written"] / 1e6 / found["seconds"]}
        raise RuntimeError("the writer ended")


def haul_snapshot(bench, path, *machine):
    return bench.run_haul("snapshot", "file:" + path, "--channels", str(bench.options.channels), *machine)


def settle(path):
    """Nothing of one run is written to the disk during the next."""
    harness.remove(path)
    os.sync()


def writer_run(bench, rate):
    """One snapshot of a writing process."""
    memory = bench.memory("written")
    path = bench.path(bench.options.file_dir, "snapshot")
    writer = bench.start([bench.built(WRITER), memory, str(bench.options.size), str(rate)], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
    try:
        asked = Asked(writer.stdin, writer.stdout)
        time.sleep(0.3)
        asked.forget()
        before = without_cpu(writer.pid, writer.pid)
        report = haul_snapshot(bench, path, "--memory", memory, "--pid", str(writer.pid))
        faults = report["write-faults"]["count"]
        no_cpu = without_cpu(writer.pid, writer.pid) - before
        seconds = report["total-time"] / 1e3
        # The longest of all is the stop itself.
        row = asked.report(faults + 1, 0, seconds)
        row.update({"held-p99": row["p99"], "long": asked.report(0, LONG_NS, seconds)["waits"] - 1})
        stop = report["downtime-detail"]["actual"]["total"]
        return {"stop": stop, "faults": faults, "seconds": seconds, **row,
                "handler-p99": report["write-faults"]["p99"], "no-cpu": no_cpu}
    finally:
        bench.end(writer)
        harness.remove(memory)
        settle(path)


class Events(threading.Thread):
    """Follows a second monitor for STOP and RESUME."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.qmp = harness.Qmp(path)
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
    """A machine whose guest is the writer."""

    def __init__(self, bench, initrd, rate):
        size = bench.options.size
        events, console = (os.path.join(bench.work, name) for name in ("events.qmp", "console"))
        self.machine = bench.machine("haul", extra=[
            "-qmp", f"unix:{events},server=on,wait=off", "-serial", f"unix:{console},server=on,wait=off",
            *linux_guest.words(bench.options.kernel, initrd, f"writer.mib={size - 160} writer.rate={rate}")])
        with harness.monitors(self.machine) as (qmp,):
            self.cpus = [cpu["thread-id"] for cpu in qmp("query-cpus-fast")]
        self.events = Events(events)
        self.console = socket.socket(socket.AF_UNIX)
        self.console.settimeout(BOOT_SECONDS)
        self.console.connect(console)
        self.asked = Asked(self.console.makefile("w"), self.console.makefile("r", errors="replace"))

    def without_cpu(self):
        return sum(without_cpu(self.machine.process.pid, thread) for thread in self.cpus)

    def stop(self):
        self.machine.stop()
        self.console.close()


def qemu_snapshot(machine, path):
    """QEMU's own, written straight to the file, and to the disk."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with harness.monitors(machine) as (qmp,):
            qmp("migrate-set-capabilities", capabilities=[{"capability": "background-snapshot", "state": True}])
            qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            text = json.dumps({"execute": "getfd", "arguments": {"fdname": "file"}}) + "\n"
            socket.send_fds(qmp.socket, [text.encode()], [file])
            qmp.answer("getfd")
            qmp("migrate", uri="fd:file")
            qmp.migrated()
            os.fsync(file)
    finally:
        os.close(file)


def guest_run(bench, initrd, rate, way):
    """One snapshot of a machine."""
    path = bench.path(bench.options.file_dir, "snapshot")
    guest = Guest(bench, initrd, rate)
    try:
        time.sleep(0.3)
        guest.asked.forget()
        begun = time.monotonic()
        before = guest.without_cpu()
        report = {}
        if way == "haul":
            report = haul_snapshot(bench, path, "--qemu", guest.machine.qmp_path)
        elif way == "qemu":
            qemu_snapshot(guest.machine, path)
        else:
            time.sleep(NONE_SECONDS)
        seconds = time.monotonic() - begun
        no_cpu = guest.without_cpu() - before
        span = report["total-time"] / 1e3 if report else seconds
        row = guest.asked.report(0, WAIT_NS, span)
        row["long"] = guest.asked.report(0, LONG_NS, span)["waits"]  # the guest's clock stands still with the machine
        row["held-p99"] = guest.asked.report(report["write-faults"]["count"], 0, span)["p99"] if report else 0
        stamps = guest.events.stamps
        return {"stop": stamps["RESUME"] - stamps["STOP"] if way != "none" else 0, "seconds": seconds, **row,
                "handler-p99": report["write-faults"]["p99"] if report else 0, "no-cpu": no_cpu}
    finally:
        guest.stop()
        settle(path)


HEAD = "     stop   faults      p50      p99  longest  over 1 ms  held p99  handler p99  waited s  no CPU s  seconds  bar"
NOT_REACHED = "rate not reached"


def verdict(rate, row):
    """Nothing for a row that is not about the bar."""
    if row["written"] < BAR_RATE:
        return NOT_REACHED if rate >= BAR_RATE else ""
    return "pass" if row["p99"] < BAR_MS else "FAIL"


def rates(bench, rows):
    """Those of --rates, and then more where they are about the bar, until one of `rows` reached its rate."""
    wanted = harness.counts(bench.options.rates)
    yield from wanted
    rate = 2 * max(wanted)
    while max(wanted) >= BAR_RATE and all(row["bar"] in ("", NOT_REACHED) for row in rows) and rate <= bench.options.most:
        yield rate
        rate *= 2


def conclude(case, rows):
    """Says how a case went; returns the exit status for it."""
    judged = [row["bar"] for row in rows if row["bar"]]
    bar = f"{case}: 99 % of the waits under {BAR_MS:.0f} ms while {BAR_RATE} MB/s are written"
    if "FAIL" in judged:
        print(f"{bar}: FAIL")
        return FAILED
    if "pass" in judged:
        print(f"{bar}: pass")
        return 0
    most = max((row["written"] for row in rows if row["bar"]), default=None)
    why = "no row is about it" if most is None else f"the rate was not reached, {most:.0f} MB/s at most"
    print(f"{bar}: not measured, {why}")
    return NOT_MEASURED


def figures(row, count):
    held, handler = (f"{row[key]:{width}.3f}" if row[key] else " " * width for key, width in (("held-p99", 9), ("handler-p99", 12)))
    return (f"{row['written']:8.0f} {row['stop']:8.1f} {row[count]:8.0f} {row['p50']:8.3f} {row['p99']:8.3f} "
            f"{row['longest']:8.3f} {row['long']:10.0f} {held} {handler} {row['waited']:9.3f} {row['no-cpu']:9.3f} "
            f"{row['seconds']:8.2f}  {row['bar']}")


def processes(bench):
    print(f"a process\nMB/s wanted  written{HEAD}")
    rows = []
    for rate in rates(bench, rows):
        row = harness.medians([writer_run(bench, rate) for _ in range(bench.options.repeat)])
        rows.append({"case": "process", "rate": rate, **row, "bar": verdict(rate, row)})
        print(f"{rate:11} {figures(rows[-1], 'faults')}", flush=True)
    return rows


def guests(bench):
    print(f"\na guest\nMB/s wanted  way   written{HEAD.replace('faults', ' waits')}")
    initrd = os.path.join(bench.work, "initrd")
    rows = []
    try:
        if not bench.options.kernel:
            raise RuntimeError("there is no cloud kernel in /boot; give another by --kernel")
        linux_guest.make_initrd(initrd, bench.built(WRITER), bench.options.kernel)
        for rate in rates(bench, rows):
            runs = {way: [] for way in ("haul", "qemu", "none")}
            for _ in range(bench.options.repeat):
                for way, done in runs.items():
                    done.append(guest_run(bench, initrd, rate, way))
            for way, done in runs.items():
                row = harness.medians(done)
                rows.append({"case": "guest", "rate": rate, "way": way, **row, "bar": verdict(rate, row) if way == "haul" else ""})
                print(f"{rate:11} {way:4} {figures(rows[-1], 'waits')}", flush=True)
    except (RuntimeError, OSError) as failure:
        print(f"left out: {failure}", file=sys.stderr)
    return rows


def file_system(path):
    output = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True).stdout
    return output.strip()


def main():
    parser = harness.parser(__doc__, repeat=3, size=1024, channels=2,
                            memory_dir="a tmpfs with room for the memory of the process")
    parser.add_argument("--kernel", default=linux_guest.default_kernel(), help="a kernel for the guest (default %(default)s)")
    parser.add_argument("--rates", default="100,500", help="MB/s that are written, with commas (default %(default)s)")
    parser.add_argument("--most", type=int, default=4000,
                        help="MB/s that are asked for at most to reach the rate of the bar (default %(default)s)")
    parser.add_argument("--cases", default="process,guest", help="of process, guest; with commas (default both)")
    parser.add_argument("--file-dir", default="/var/tmp",
                        help="where the snapshot goes: a directory on the disk to measure, with room for it (default %(default)s)")
    options = parser.parse_args()
    rows = []
    with harness.Bench(options, ["//benchmarks/engine:timed_writer"]) as bench:
        print(f"{bench.title}; {options.size} MiB; to {options.file_dir} ({file_system(options.file_dir)}); milliseconds")
        ends = []
        for case, measure in (("process", processes), ("guest", guests)):
            if case in options.cases:
                measured = measure(bench)
                ends.append(conclude(case, measured))
                rows += measured
        bench.save(rows, **{"size-mib": options.size})
    return FAILED if FAILED in ends else max(ends, default=NOT_MEASURED)


if __name__ == "__main__":
    sys.exit(main())
