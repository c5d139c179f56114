# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: machines, moves, and a place for processes and files that nothing of them outlives."""
import argparse
import contextlib
import glob
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
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def parser(description, repeat, size=None, channels=None, memory_dir="a tmpfs with room for twice the memory"):
    """The options that benchmarks have in common; without a default, `size` and `channels` are left out."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to run and to compare with")
    made.add_argument("--haul", help="the haul program (default: built)")
    made.add_argument("--repeat", type=int, default=repeat, help="runs of each (default %(default)s)")
    if size:
        made.add_argument("--size", type=int, default=size, metavar="MIB", help="memory of the machine (default %(default)s)")
    if isinstance(channels, int):
        made.add_argument("--channels", type=int, default=channels, help="of haul (default %(default)s)")
    elif channels:
        made.add_argument("--channels", default=channels, help="channel counts, with commas (default %(default)s)")
    if memory_dir:
        made.add_argument("--memory-dir", default="/dev/shm", help=memory_dir)
    made.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    return made


def counts(text):
    return [int(count) for count in text.split(",")]


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def medians(runs):
    return {key: median(runs, key) for key in runs[0]}


def fill(path, megabytes):
    """A file of pseudo-random bytes; LZ4 and zero detection find nothing in it."""
    with open(path, "wb") as out:
        for _ in range(megabytes // 16):
            out.write(os.urandom(16 << 20))
        out.write(os.urandom(megabytes % 16 << 20))


def allocated(path):
    return os.stat(path).st_blocks * 512


def remove(*paths):
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(question, ready):
    """Asks again and again; returns the first answer that is `ready`."""
    while True:
        answer = question()
        if ready(answer):
            return answer
        time.sleep(0.002)


class Qmp:
    """The smallest QMP client that this needs."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.socket.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError) as absent:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"QEMU does not listen on its monitor {path}") from absent
            time.sleep(0.01)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        return self.answer(command)

    def answer(self, command):
        while True:
            line = self.file.readline()
            if not line:
                raise RuntimeError(f"QEMU closed the monitor during {command}")
            reply = json.loads(line)
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]

    def migrated(self):
        """Waits for the end of QEMU's own migration, and returns what it says of it."""
        info = wait_for(lambda: self("query-migrate"), lambda answer: answer.get("status") in ("completed", "failed"))
        if info["status"] == "failed":
            raise RuntimeError(f"QEMU's migration failed: {info.get('error-desc', info)}")
        return info

    def close(self):
        self.file.close()
        self.socket.close()


def is_populating(pid):
    """Whether the destination is still preparing its memory, as QEMU does by prealloc before it listens."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/task/{task}/comm", encoding="ascii") as comm:
                if comm.read().strip() == "populate":
                    return True
    return False


@contextlib.contextmanager
def monitors(*machines):
    """A client for each machine's monitor, for as long as it is needed."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Qmp(machine.qmp_path))) for machine in machines]


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


class Machine:
    """One QEMU process; `file` is a file for its memory, without which it is a memfd.

    With `prealloc` QEMU maps all of its memory, as it does memory that a guest has used; what is in the file stays.
    """

    def __init__(self, bench, name, size, file=None, incoming=False, prealloc=False, extra=(), program=None):
        self.bench = bench
        self.qmp_path = os.path.join(bench.work, name + ".qmp")
        memory = f"memory-backend-{'file' if file else 'memfd'},id=ram,size={size << 20},share=on"
        memory += f",mem-path={file}" if file else ""
        memory += ",prealloc=on" if prealloc else ""
        command = [program or bench.options.qemu, "-accel", "tcg", "-machine", "q35,memory-backend=ram", "-m", f"{size}M",
                   "-object", memory, "-nodefaults", "-display", "none", "-qmp", f"unix:{self.qmp_path},server=on,wait=off", *extra]
        self.process = bench.start(command + (["-incoming", "defer", "-S"] if incoming else []))
        Qmp(self.qmp_path).close()

    def stop(self):
        self.bench.end(self.process)
        remove(self.qmp_path)


class Bench:
    """One run of a benchmark: its programs, and all that it starts and writes.

    However the run ends, also by a signal, what it started is ended and what it wrote is removed.
    """

    def __init__(self, options, targets=()):
        self.options = options
        self.program = os.path.basename(sys.argv[0]).removesuffix(".py")
        self.processes, self.folders = [], set()
        self.deaf, self.signal = False, 0  # a signal while it is deaf is heard afterwards
        self.version = self.qemu_version(options.qemu)
        self.build([*targets] + ([] if options.haul else ["//tools/haul"]))
        self.haul = options.haul or self.built("tools/haul/haul")
        self.title = f"{self.version}; medians of {options.repeat}; {os.cpu_count()} CPUs"

    def refuse(self, why):
        sys.exit(f"{self.program}: {why}")

    def qemu_version(self, program):
        if not shutil.which(program):
            self.refuse(f"{program} is not installed; tools/setup installs Debian's QEMU")
        output = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        return output.split("\n")[0]

    def build(self, targets):
        if targets:
            done = subprocess.run(["bazel", "build", "--config=release", *targets], cwd=ROOT, check=False,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if done.returncode != 0:
                self.refuse(f"bazel could not build {' '.join(targets)}:\n{done.stderr}")

    def built(self, path):
        return os.path.join(ROOT, "bazel-bin", path)

    # ---- begin and end ----

    def __enter__(self):
        self.deaf = True
        for number in SIGNALS:
            signal.signal(number, self.interrupt)
        self.work = tempfile.mkdtemp(prefix="haul-bench-")
        state = self.path(getattr(self.options, "memory_dir", "/dev/shm"), "state")
        os.mkdir(state)
        os.environ["HAUL_STATE_DIR"] = state  # records in memory, as in /run on most hosts
        self.deaf = False
        if self.signal:
            self.__exit__()
            sys.exit(128 + self.signal)
        return self

    def interrupt(self, number, _):
        self.signal = number
        if not self.deaf:
            sys.exit(128 + number)

    def __exit__(self, *_):
        self.deaf = True
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.work, ignore_errors=True)
        for folder in self.folders:
            for path in glob.glob(self.path(glob.escape(folder), "*")):
                if os.path.isdir(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    remove(path)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def path(self, folder, name):
        """A name in a folder of the user's, for a file that must not outlive the run."""
        self.folders.add(folder)
        return os.path.join(folder, f"haul-bench-{os.getpid()}-{name}")

    def memory(self, name):
        return self.path(self.options.memory_dir, name)

    def random_memory(self, megabytes):
        """A file with the source's memory, made once for each size."""
        path = self.memory(f"random-{megabytes}")
        if not os.path.exists(path):
            fill(path, megabytes)
        return path

    # ---- processes ----

    def start(self, command, **how):
        # A signal between the start of a process and its place in the list would leave it behind.
        self.deaf = True
        try:
            self.processes.append(subprocess.Popen(command, **how))
        finally:
            self.deaf = False
        if self.signal:
            sys.exit(128 + self.signal)
        return self.processes[-1]

    def end(self, process):
        process.kill()
        process.wait()
        self.processes.remove(process)

    def run_haul(self, command, uri, *arguments, peak=None, quiet=True, timeout=None):
        """Runs haul to its end; returns its report, with what it said as the member `said`."""
        words = [self.haul, command, uri, "--json", *(["--quiet"] if quiet else []), *arguments]
        process = self.start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if peak:
            peak.pids.append(process.pid)
        try:
            report, said = process.communicate(timeout=timeout)
        finally:
            self.end(process)
        if process.returncode != 0:
            raise RuntimeError(f"haul {command} {uri} failed: {said}")
        return {**json.loads(report), "said": said}

    @contextlib.contextmanager
    def receive(self, listen, *arguments):
        """A haul receive that waits at its member `uri`; it is waited for at the end."""
        words = [self.haul, "receive", "--listen", listen, *arguments]
        process = self.start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            said = ""
            while "listening on " not in said:
                line = process.stderr.readline()
                if not line:
                    raise RuntimeError(f"haul receive did not listen: {said}")
                said += line
            process.uri = said.split("listening on ")[1].split()[0].rstrip(";,")
            drain = threading.Thread(target=process.stderr.read, daemon=True)
            drain.start()
            yield process
            process.report = process.stdout.read()
            drain.join()
            process.wait(timeout=60)
        finally:
            self.end(process)

    # ---- machines and moves ----

    def machine(self, name, **how):
        return Machine(self, name, how.pop("size", None) or self.options.size, **how)

    @contextlib.contextmanager
    def pair(self, source, destination, prealloc=(True, True), extra=((), ()), size=None, program=None):
        """Two machines that never run, one to move to the other, with these files, if any, for their memory."""
        with contextlib.ExitStack() as stack:
            machines = []
            if destination and destination != source:
                stack.callback(remove, destination)
            for i, (name, file) in enumerate((("source", source), ("destination", destination))):
                more = extra[i] if i else (*extra[i], "-S")
                machines.append(self.machine(name, file=file, incoming=i == 1, prealloc=prealloc[i], extra=more, size=size,
                                             program=program))
                stack.callback(machines[i].stop)
            yield machines

    def haul_move(self, machines, channels, listen="tcp:127.0.0.1:0", arguments=(), wait=True, populated=None):
        """Moves by haul; both sides get `arguments`.

        With `wait` the source starts when the destination has its memory ready, and all of the file `populated` if one is
        given. `before` is the time from the start of the destination's side to that of the source's.
        """
        begun = time.monotonic()
        with self.receive(listen, "--qemu", machines[1].qmp_path, *arguments) as receive:
            while wait and (is_populating(receive.pid) or (populated and allocated(populated) < os.path.getsize(populated))):
                time.sleep(0.05)
            before = time.monotonic() - begun
            peak = PeakMemory([receive.pid])
            figures = self.run_haul("send", receive.uri, "--qemu", machines[0].qmp_path, "--channels", str(channels), *arguments,
                                    peak=peak)
        downtime = figures["downtime-detail"]
        return {"before": before, "seconds": figures["total-time"] / 1e3, "memory_mib": peak.finish(),
                "downtime_ms": downtime["actual"]["total"], "expected_ms": downtime["predicted"]["total"],
                "sent": figures["ram"]["transferred"],
                "coordinator": figures["migration-thread-cpu-time"] / max(figures["total-time"], 1)}

    def qemu_move(self, machines, channels, uri=None):
        """Moves by QEMU's own multifd."""
        begun = time.monotonic()
        uri = uri or f"tcp:127.0.0.1:{free_port()}"
        with monitors(*machines) as (here, there):
            for side in (here, there):
                side("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
                side("migrate-set-parameters", **{"multifd-channels": channels, "max-bandwidth": 1 << 40})
            there("migrate-incoming", uri=uri)
            before = time.monotonic() - begun
            here("migrate", uri=uri)
            info = here.migrated()
        return {"before": before, "seconds": info["total-time"] / 1e3, "downtime_ms": info["downtime"],
                "sent": info["ram"]["transferred"]}

    # ---- results ----

    def save(self, rows, **about):
        """Writes the rows where --json says."""
        if self.options.json:
            with open(self.options.json, "w", encoding="utf-8") as out:
                json.dump({"qemu": self.version, "repeat": self.options.repeat, **about, "rows": rows}, out, indent=2)
