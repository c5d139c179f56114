#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves the same QEMU machine at rest with haul and with QEMU's own multifd, side by side.

Each case is repeated; haul, QEMU and the plain-socket limit take turns, so that a machine whose speed
drifts slows all of them alike. Prints medians, and ratios of the medians, one row per case. The limit is
measured twice: with memory that the sender has mapped, as QEMU has its own, and with memory that it maps
on the way (`unmapped`), as a program beside QEMU must.

  present   destination memory exists before the move (prealloc=on)
  waiting   fresh memory; the destination was started earlier (haul populates it meanwhile, QEMU cannot)
  together  fresh memory; destination and source start at the same moment
  untouched memory that the source never touched

Time is what each side reports as its total time: from the start of the migration until the destination has
the machine. For `together` it runs from the start of the destination's side.
"""
import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CASES = ("present", "waiting", "together", "untouched")


class Qmp:
    """The smallest QMP client that this needs."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(200):
            with contextlib.suppress(OSError):
                self.socket.connect(path)
                break
            time.sleep(0.05)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise RuntimeError(f"QEMU closed the monitor during {command}")
            reply = json.loads(line)
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]

    def close(self):
        self.file.close()
        self.socket.close()


class Machine:
    """One QEMU process that never runs: `-S` at the source, `-incoming defer` at the destination.

    With `prealloc` QEMU maps all of its memory, as it does memory that a guest has used; what is in the file stays.
    """

    def __init__(self, work, name, options, memory, incoming, prealloc, extra=()):
        self.qmp_path = os.path.join(work, name + ".qmp")
        size = options.size << 20
        command = [
            options.qemu, "-accel", "tcg", "-machine", "q35,memory-backend=ram", "-m", f"{options.size}M",
            "-object", f"memory-backend-file,id=ram,size={size},mem-path={memory},share=on"
            + (",prealloc=on" if prealloc else ""),
            "-nodefaults", "-display", "none", "-qmp", f"unix:{self.qmp_path},server=on,wait=off", "-S", *extra,
        ]
        if incoming:
            command += ["-incoming", "defer"]
        self.process = subprocess.Popen(command)

    def stop(self):
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.qmp_path)


def fill(path, megabytes):
    """A file of pseudo-random bytes; LZ4 and zero detection find nothing in it."""
    with open(path, "wb") as out:
        for _ in range(megabytes // 16):
            out.write(os.urandom(16 << 20))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PeakMemory(threading.Thread):
    """Samples the private memory of processes: what the engine itself uses, guest memory left out."""

    def __init__(self, pids):
        super().__init__(daemon=True)
        self.pids, self.peak, self.done = pids, 0, threading.Event()
        self.start()

    def run(self):
        while not self.done.wait(0.02):
            total = 0
            for pid in self.pids:
                with contextlib.suppress(OSError):
                    with open(f"/proc/{pid}/status", encoding="ascii") as status:
                        total += sum(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
            self.peak = max(self.peak, total)

    def finish(self):
        self.done.set()
        self.join()
        return self.peak / 1024


def is_populating(pid):
    """Whether the destination is still preparing its memory, as QEMU does by prealloc before it listens."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/task/{task}/comm", encoding="ascii") as comm:
                if comm.read().strip() == "populate":
                    return True
    return False


def allocated(path):
    return os.stat(path).st_blocks * 512


def haul_move(options, case, channels, source, destination, memory, listen="tcp:127.0.0.1:0", arguments=()):
    """Returns the figures of one move by haul; both sides get `arguments`."""
    receive_command = [options.haul, "receive", "--listen", listen, "--qemu", destination.qmp_path, *arguments]
    begun = time.monotonic()
    receive = subprocess.Popen(receive_command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    uri = None
    for line in receive.stderr:
        if "listening on " in line:
            uri = line.split("listening on ")[1].split()[0].rstrip(";,")
            break
    if not uri:
        raise RuntimeError("haul receive did not listen")
    threading.Thread(target=receive.stderr.read, daemon=True).start()
    if case in ("present", "waiting"):
        while is_populating(receive.pid) or (case == "waiting" and allocated(memory) < options.size << 20):
            time.sleep(0.05)
    waited = time.monotonic() - begun if case == "together" else 0
    send = subprocess.Popen([options.haul, "send", uri, "--qemu", source.qmp_path, "--channels", str(channels),
                             "--json", "--quiet", *arguments], stdout=subprocess.PIPE, text=True)
    peak = PeakMemory([send.pid, receive.pid])
    report, _ = send.communicate()
    receive.wait()
    if send.returncode != 0:
        raise RuntimeError(f"haul send failed: {report}")
    figures = json.loads(report)
    return {"seconds": waited + figures["total-time"] / 1e3, "memory_mib": peak.finish(), "downtime_ms": figures["downtime-detail"]["actual"]["total"],
            "expected_ms": figures["downtime-detail"]["predicted"]["total"], "sent": figures["ram"]["transferred"],
            "coordinator": figures["migration-thread-cpu-time"] / max(figures["total-time"], 1)}


def qemu_move(options, case, channels, source, destination, uri=None):
    """Returns the figures of one move by QEMU's multifd."""
    uri = uri or f"tcp:127.0.0.1:{free_port()}"
    begun = time.monotonic()
    qmp = Qmp(source.qmp_path), Qmp(destination.qmp_path)
    for side in qmp:
        side("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
        side("migrate-set-parameters", **{"multifd-channels": channels, "max-bandwidth": 1 << 40})
    qmp[1]("migrate-incoming", uri=uri)
    waited = time.monotonic() - begun if case == "together" else 0
    qmp[0]("migrate", uri=uri)
    while True:
        info = qmp[0]("query-migrate")
        if info["status"] in ("completed", "failed"):
            break
        time.sleep(0.002)
    for side in qmp:
        side.close()
    if info["status"] == "failed":
        raise RuntimeError(f"QEMU's migration failed: {info}")
    return {"seconds": waited + info["total-time"] / 1e3, "downtime_ms": info["downtime"], "sent": info["ram"]["transferred"]}


def one_move(options, work, by, case, channels):
    """Starts both machines, moves once, ends both."""
    source_memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-source")
    memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-destination")
    if case == "untouched":
        source_memory += "-untouched"
    elif not os.path.exists(source_memory):
        fill(source_memory, options.size)
    source = destination = None
    try:
        source = Machine(work, "source", options, source_memory, False, case != "untouched")
        destination = Machine(work, "destination", options, memory, True, case == "present")
        Qmp(source.qmp_path).close()
        Qmp(destination.qmp_path).close()
        if by == "haul":
            return haul_move(options, case, channels, source, destination, memory)
        return qemu_move(options, case, channels, source, destination)
    finally:
        for machine in (source, destination):
            if machine:
                machine.stop()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(memory)
        if case == "untouched":
            os.unlink(source_memory)


def limit(options, case, channels, *how):
    output = subprocess.run([options.limit, str(channels), str(options.size),
                             "fresh" if case == "together" else "present", *how],
                            check=True, capture_output=True, text=True).stdout
    return {"seconds": json.loads(output)["seconds"]}


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def measure(options, work, case, channels):
    runs = {"haul": [], "qemu": [], "limit": [], "unmapped": []}
    for _ in range(options.repeat):
        runs["haul"].append(one_move(options, work, "haul", case, channels))
        runs["qemu"].append(one_move(options, work, "qemu", case, channels))
        if case != "untouched":
            runs["limit"].append(limit(options, case, channels))
            runs["unmapped"].append(limit(options, case, channels, "unmapped"))
    row = {"case": case, "channels": channels, "repeat": options.repeat}
    for by, results in runs.items():
        if results:
            row[by + "-seconds"] = round(median(results, "seconds"), 3)
    row["haul-memory-mib"] = round(max(run["memory_mib"] for run in runs["haul"]), 1)
    row["haul-coordinator-share"] = round(median(runs["haul"], "coordinator"), 3)
    row["haul-downtime-ms"] = round(median(runs["haul"], "downtime_ms"), 2)
    row["qemu-downtime-ms"] = round(median(runs["qemu"], "downtime_ms"), 2)
    return row


def speed(options, row, by):
    seconds = row.get(by + "-seconds")
    return f"{seconds:7.3f} s {options.size * 1.048576e-3 / seconds:6.2f} GB/s" if seconds else " " * 21


HEADING = (f"{'case':<10}{'ch':>3}  {'haul':<21}  {'qemu multifd':<21}  {'plain sockets':<21}"
           f"{'qemu/haul':>11}{'plain/haul':>12}{'unmapped/haul':>15}{'MiB':>8}{'coord%':>8}")


def ratio(row, by):
    return f"{row[by + '-seconds'] / row['haul-seconds']:.2f}" if by + "-seconds" in row else ""


def print_row(options, row):
    print(f"{row['case']:<10}{row['channels']:>3}  {speed(options, row, 'haul')}  {speed(options, row, 'qemu')}  "
          f"{speed(options, row, 'limit')}{ratio(row, 'qemu'):>11}{ratio(row, 'limit'):>12}{ratio(row, 'unmapped'):>15}"
          f"{row['haul-memory-mib']:>8.1f}{row['haul-coordinator-share'] * 100:>8.1f}", flush=True)


def build():
    subprocess.run(["bazel", "build", "--config=release", "//tools/haul", "//benchmarks/channels:loopback_limit"],
                   cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    binaries = os.path.join(ROOT, "bazel-bin")
    return os.path.join(binaries, "tools/haul/haul"), os.path.join(binaries, "benchmarks/channels/loopback_limit")


def prepare(options, program):
    """Builds haul and checks for QEMU, whose version is returned; a SIGTERM cleans up from now on."""
    if not shutil.which(options.qemu):
        sys.exit(f"{program}: {options.qemu} is not installed; run tools/setup")
    options.haul, options.limit = build()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    output = subprocess.run([options.qemu, "--version"], capture_output=True, text=True, check=True).stdout
    return output.split("\n")[0]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to run and to compare with")
    parser.add_argument("--size", type=int, default=4096, metavar="MIB", help="memory of the machine (default 4096)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each side per case (default 5)")
    parser.add_argument("--channels", default="1,2,4,8", help="channel counts, with commas (default 1,2,4,8)")
    parser.add_argument("--cases", default=",".join(CASES), help="of " + ", ".join(CASES))
    parser.add_argument("--memory-dir", default="/dev/shm", help="a tmpfs with room for twice the memory")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    return parser.parse_args()


def main():
    options = parse()
    cases = options.cases.split(",")
    if not set(cases) <= set(CASES):
        sys.exit(f"versus_qemu: --cases takes {', '.join(CASES)}")
    version = prepare(options, "versus_qemu")
    print(f"{version}; {options.size} MiB; medians of {options.repeat}; {os.cpu_count()} CPUs")
    print(HEADING)
    rows = []
    work = tempfile.mkdtemp(prefix="haul-bench-")
    try:
        for case in cases:
            for channels in map(int, options.channels.split(",")):
                rows.append(measure(options, work, case, channels))
                print_row(options, rows[-1])
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-source"))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"qemu": version, "size-mib": options.size, "rows": rows}, out, indent=2)


if __name__ == "__main__":
    main()
