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
import getpass
import os
import shutil
import subprocess
import time

import harness

WAYS = ("tcp", "exec", "ssh", "qemu-exec", "qemu-ssh")
SSHD = "/usr/sbin/sshd"


class Sshd:
    """A server for this user alone, with keys of its own, at a free port."""

    def __init__(self, bench):
        work, port = bench.work, harness.free_port()
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(work, name)], check=True)
        config = os.path.join(work, "config")
        with open(config, "w", encoding="ascii") as out:
            out.write(f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {work}/host\nAuthorizedKeysFile {work}/key.pub\n"
                      "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
                      "MaxStartups 200\n")
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # sshd insists on it
        bench.start([SSHD, "-D", "-f", config, "-E", os.path.join(work, "log")])
        self.client = (f"ssh -F none -i {work}/key -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR "
                       f"-o UserKnownHostsFile={work}/known")
        self.uri = f"ssh:{getpass.getuser()}@127.0.0.1:{port}"
        self.login = f"{self.client} -p {port} {getpass.getuser()}@127.0.0.1"
        for _ in range(50):
            if subprocess.run(self.login + " true", shell=True, check=False, stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        bench.refuse("sshd does not let this user in")


def haul_send(bench, channels, source, uri, *arguments):
    figures = bench.run_haul("send", uri, "--qemu", source.qmp_path, "--channels", str(channels), *arguments)
    return {"seconds": figures["total-time"] / 1e3, "downtime_ms": figures["downtime-detail"]["actual"]["total"]}


def by_haul(bench, sshd, way, channels, machines, path):
    """Moves by haul in one of its three ways."""
    if way == "ssh":
        return haul_send(bench, channels, machines[0], sshd.uri, "--ssh", sshd.client, "--remote-haul", bench.haul, "--",
                         "--qemu", machines[1].qmp_path)
    if way == "tcp":
        return bench.haul_move(machines, channels)
    with bench.receive("unix:" + path, "--qemu", machines[1].qmp_path):
        return haul_send(bench, channels, machines[0], f"exec:{bench.haul} relay unix:{path}")


def by_qemu(bench, sshd, way, machines, path):
    """Moves by QEMU alone, whose other side waits at a unix socket."""
    command = f"{bench.haul} relay unix:{path}"
    with harness.monitors(*machines) as (here, there):
        here("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        there("migrate-incoming", uri="unix:" + path)
        here("migrate", uri="exec:" + (f"{sshd.login} {command}" if way == "qemu-ssh" else command))
        info = here.migrated()
    return {"seconds": info["total-time"] / 1e3, "downtime_ms": info["downtime"]}


def one_move(bench, sshd, way, channels):
    path = os.path.join(bench.work, "move")
    with bench.pair(bench.random_memory(bench.options.size), bench.memory("destination")) as machines:
        try:
            if way.startswith("qemu"):
                return by_qemu(bench, sshd, way, machines, path)
            return by_haul(bench, sshd, way, channels, machines, path)
        finally:
            harness.remove(path)


def measure(bench, sshd):
    """All ways at all channel counts in turns; returns the rows."""
    options = bench.options
    counts = harness.counts(options.channels)
    cases = [(way, count) for way in WAYS for count in (counts[:1] if way.startswith("qemu") else counts)]
    runs = {case: [] for case in cases}
    for _ in range(options.repeat):
        for case in cases:
            runs[case].append(one_move(bench, sshd, *case))
    rows = []
    for way, channels in cases:
        row = {"way": way, "channels": 1 if way.startswith("qemu") else channels, **harness.medians(
            [{key: run[key] for key in ("seconds", "downtime_ms")} for run in runs[way, channels]])}
        rows.append(row)
        print(f"{way:<10} {row['channels']:3} {row['seconds'] * 1e3:9.0f} {row['downtime_ms']:8.1f} "
              f"{options.size * 1.048576e-3 / row['seconds']:7.2f}", flush=True)
    return rows


def main():
    options = harness.parser(__doc__, repeat=3, size=512, channels="1,2").parse_args()
    with harness.Bench(options) as bench:
        if not os.access(SSHD, os.X_OK) or not shutil.which("ssh"):
            bench.refuse("Debian's openssh-server and openssh-client are not installed; run tools/setup")
        print(f"{bench.title}; {options.size} MiB\nway         ch  total ms  down ms    GB/s")
        rows = measure(bench, Sshd(bench))
        bench.save(rows, **{"size-mib": options.size})


if __name__ == "__main__":
    main()
