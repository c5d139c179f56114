#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves a QEMU machine at rest over loopback through commands and ssh, with haul and with QEMU, side by side.

All memory is present on both sides. Ways take turns; prints medians.

  tcp        haul over tcp:, to compare with
  exec       haul over exec:, with `haul relay` as the command
  ssh        haul over ssh:, to an sshd of this benchmark's own
  qemu-exec  QEMU's migrate to exec: with the same command, which is one connection whatever --channels says
  qemu-ssh   QEMU's migrate to exec:ssh ... with the same command on the other side

Everything runs on one machine: each ssh encrypts on one CPU, and its sshd decrypts on another one.
"""
import argparse
import contextlib
import getpass
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import versus_qemu as common

WAYS = ("tcp", "exec", "ssh", "qemu-exec", "qemu-ssh")
SSHD = "/usr/sbin/sshd"


class Sshd:
    """A server for this user alone, with keys of its own, at a free port."""

    def __init__(self, work):
        self.port = common.free_port()
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(work, name)], check=True)
        config = os.path.join(work, "config")
        with open(config, "w", encoding="ascii") as out:
            out.write(f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {work}/host\nAuthorizedKeysFile {work}/key.pub\n"
                      "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
                      "MaxStartups 200\n")
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # sshd insists on it
        self.process = subprocess.Popen([SSHD, "-D", "-f", config, "-E", os.path.join(work, "log")])
        self.client = (f"ssh -F none -i {work}/key -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR "
                       f"-o UserKnownHostsFile={work}/known")
        self.place = f"{getpass.getuser()}@127.0.0.1"
        words = f"{self.client} -p {self.port} {self.place} true"
        for _ in range(50):
            if subprocess.run(words, shell=True, check=False, stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        self.stop()
        sys.exit("exec_ssh: sshd does not let this user in")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def haul_send(options, channels, source, uri, *arguments):
    """One `haul send`; returns its figures."""
    words = [options.haul, "send", uri, "--qemu", source.qmp_path, "--channels", str(channels), "--json", "--quiet", *arguments]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise RuntimeError(f"haul send {uri} failed: {ran.stderr}")
    figures = json.loads(ran.stdout)
    return {"seconds": figures["total-time"] / 1e3, "downtime_ms": figures["downtime-detail"]["actual"]["total"]}


def by_haul(options, sshd, way, channels, source, destination, path):
    """Moves by haul in one of its three ways."""
    if way == "ssh":
        return haul_send(options, channels, source, f"ssh:{sshd.place}:{sshd.port}", "--ssh", sshd.client, "--remote-haul",
                         options.haul, "--", "--qemu", destination.qmp_path)
    if way == "tcp":
        return common.haul_move(options, "present", channels, source, destination, None)
    receive = subprocess.Popen([options.haul, "receive", "--listen", "unix:" + path, "--qemu", destination.qmp_path],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not os.path.exists(path) and receive.poll() is None:
            time.sleep(0.01)
        return haul_send(options, channels, source, f"exec:{options.haul} relay unix:{path}")
    finally:
        receive.wait()


def by_qemu(options, sshd, way, source, destination, path):
    """Moves by QEMU alone, whose other side waits at a unix socket."""
    command = f"{options.haul} relay unix:{path}"
    if way == "qemu-ssh":
        command = f"{sshd.client} -p {sshd.port} {sshd.place} {command}"
    qmp = common.Qmp(source.qmp_path), common.Qmp(destination.qmp_path)
    qmp[0]("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    qmp[1]("migrate-incoming", uri="unix:" + path)
    qmp[0]("migrate", uri="exec:" + command)
    while True:
        info = qmp[0]("query-migrate")
        if info.get("status") in ("completed", "failed"):
            break
        time.sleep(0.002)
    for side in qmp:
        side.close()
    if info["status"] == "failed":
        raise RuntimeError(f"QEMU's migrate failed: {info}")
    return {"seconds": info["total-time"] / 1e3, "downtime_ms": info["downtime"]}


def one_move(options, work, sshd, way, channels):
    """Starts both machines, moves once, ends both."""
    source_memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-source")
    memory = os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-destination")
    path = os.path.join(work, "move")
    if not os.path.exists(source_memory):
        common.fill(source_memory, options.size)
    machines = []
    try:
        machines.append(common.Machine(work, "source", options, source_memory, False, True))
        machines.append(common.Machine(work, "destination", options, memory, True, True))
        for machine in machines:
            common.Qmp(machine.qmp_path).close()
        if way.startswith("qemu"):
            return by_qemu(options, sshd, way, *machines, path)
        return by_haul(options, sshd, way, channels, *machines, path)
    finally:
        for machine in machines:
            machine.stop()
        for name in (memory, path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def measure(options, work, sshd):
    """All ways at all channel counts in turns; returns the rows."""
    counts = [int(count) for count in options.channels.split(",")]
    cases = [(way, count) for way in WAYS for count in (counts[:1] if way.startswith("qemu") else counts)]
    runs = {case: [] for case in cases}
    for _ in range(options.repeat):
        for case in cases:
            runs[case].append(one_move(options, work, sshd, *case))
    rows = []
    for way, channels in cases:
        row = {"way": way, "channels": 1 if way.startswith("qemu") else channels}
        for key in ("seconds", "downtime_ms"):
            row[key] = statistics.median(run[key] for run in runs[way, channels])
        rows.append(row)
        print(f"{way:<10} {row['channels']:3} {row['seconds'] * 1e3:9.0f} {row['downtime_ms']:8.1f} "
              f"{options.size * 1.048576e-3 / row['seconds']:7.2f}", flush=True)
    return rows


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to run and to compare with")
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="memory of the machine (default 512)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way (default 3)")
    parser.add_argument("--channels", default="1,2", help="channel counts of haul, with commas (default 1,2)")
    parser.add_argument("--memory-dir", default="/dev/shm", help="a tmpfs with room for twice the memory")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    return parser.parse_args()


def main():
    options = parse()
    version = common.prepare(options, "exec_ssh")
    if not os.access(SSHD, os.X_OK) or not shutil.which("ssh"):
        sys.exit("exec_ssh: Debian's openssh-server and openssh-client are not installed; run tools/setup")
    print(f"{version}; {options.size} MiB; medians of {options.repeat}; {os.cpu_count()} CPUs")
    print("way         ch  total ms  down ms    GB/s")
    work = tempfile.mkdtemp(prefix="haul-bench-")
    sshd = None
    try:
        sshd = Sshd(work)
        rows = measure(options, work, sshd)
    finally:
        if sshd:
            sshd.stop()
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(options.memory_dir, f"haul-bench-{os.getpid()}-source"))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"qemu": version, "size-mib": options.size, "rows": rows}, out, indent=2)


if __name__ == "__main__":
    main()
