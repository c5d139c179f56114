#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves live guests again and again and compares the downtime that haul predicted with what it was.

  guest  the reference guest at two dirty rates over two numbers of channels
  qemu   a Linux guest in QEMU (TCG) that rewrites its memory, moved to and fro
  disk   the same with two disks under load by direct I/O, for which haul stops it at every scan

Prints per case the median and the worst error of the prediction, in percent of the actual downtime, the median
of each part, predicted and actual, and how often a move that the engine chose to finish exceeded its limit.
"""
import argparse
import contextlib
import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from versus_qemu import Qmp

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CASES = ("guest", "qemu", "disk")
PARTS = ("stop", "last-pass", "device", "start")
MODULES = ("virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci_legacy_dev",
           "virtio/virtio_pci", "block/virtio_blk")
BOOT_SECONDS = 300


def read(path):
    with open(path, "rb") as file:
        return file.read()


def archive_entry(name, mode, content, inode):
    """One file of an initial RAM disk in cpio's "newc" format."""
    fields = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)


def make_initrd(path, init, kernel):
    drivers = "/lib/modules/" + os.path.basename(kernel).removeprefix("vmlinuz-") + "/kernel/drivers/"
    files = [("init", 0o100755, read(init)), ("dev", 0o040755, b"")]
    files += [(os.path.basename(name) + ".ko", 0o100644, read(drivers + name + ".ko")) for name in MODULES]
    files.append(("TRAILER!!!", 0, b""))
    with open(path, "wb") as out:
        out.write(b"".join(archive_entry(*file, inode) for inode, file in enumerate(files)))


def make_disks(work):
    """The pattern that guest_init reads directly, and a file system for it to write in."""
    mask = (1 << 64) - 1

    def mix(x):
        x ^= x >> 30
        x = x * 0xbf58476d1ce4e5b9 & mask
        x ^= x >> 27
        x = x * 0x94d049bb133111eb & mask
        return x ^ x >> 31

    disks = [os.path.join(work, "disk"), os.path.join(work, "fs")]
    with open(disks[0], "wb") as out:
        for block in range(64):
            first = mix(block)
            out.write(b"".join(((first + i) & mask).to_bytes(8, "little") for i in range(8192)))
    subprocess.run(["truncate", "-s", "64M", disks[1]], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", disks[1]], check=True)
    return disks


class Machine:
    """A QEMU process with a Linux guest that rewrites and checks its memory."""

    def __init__(self, options, work, name, incoming, disks):
        self.qmp_path = os.path.join(work, name + ".qmp")
        self.console = os.path.join(work, name + ".log")
        append = f"console=ttyS0 quiet panic=-1 rdinit=/init haul.mib=96 haul.rate={options.rate} haul.disk={int(bool(disks))}"
        command = [
            options.qemu, "-accel", "tcg", "-cpu", "max", "-machine", "q35,memory-backend=ram", "-m", "256",
            "-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-nodefaults", "-display", "none",
            "-qmp", f"unix:{self.qmp_path},server=on,wait=off", "-serial", f"file:{self.console}",
            "-kernel", options.kernel, "-initrd", os.path.join(work, "initrd"), "-append", append,
        ]
        for i, disk in enumerate(disks):
            command += ["-drive", f"if=none,format=raw,cache=none,aio=native,id=d{i},file={disk}",
                        "-device", f"virtio-blk-pci,drive=d{i}"]
        self.process = subprocess.Popen(command + (["-incoming", "defer", "-S"] if incoming else []))
        Qmp(self.qmp_path).close()

    def expect(self, text, seconds):
        """Waits for `text` to come (once more) on the console."""
        start = os.path.getsize(self.console)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            said = read(self.console)
            if b"BAD" in said:
                raise RuntimeError(f"the guest found its memory wrong: {said[-500:]}")
            if text in said[start:]:
                return
            time.sleep(0.05)
        raise RuntimeError(f"the guest did not say {text}: {read(self.console)[-500:]}")

    def stop(self):
        self.process.kill()
        self.process.wait()


def move(options, source, destination, channels, limit):
    """One move by haul; returns its report."""
    receive = subprocess.Popen([options.haul, "receive", "--listen", "tcp:127.0.0.1:0", *destination],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in receive.stderr:
            said.append(line)
            if "listening on " in line:
                uri = line.split("listening on ")[1].split()[0].rstrip(";,")
                break
        else:
            raise RuntimeError("haul receive did not listen: " + "".join(said))
        threading.Thread(target=receive.stderr.read, daemon=True).start()
        send = subprocess.run([options.haul, "send", uri, *source, "--channels", str(channels), "--downtime-limit", str(limit),
                               "--json"], capture_output=True, text=True, timeout=options.patience, check=False)
        receive.wait(timeout=30)
    finally:
        receive.kill()
        receive.wait()
    if send.returncode != 0:
        raise RuntimeError(f"haul send failed: {send.stdout} {send.stderr}")
    report = json.loads(send.stdout)
    report["said"] = send.stderr
    return report


def guest_moves(options, case):
    for _ in range(options.repeat):
        guest = ["--guest", "--guest-memory", "512M", "--guest-dirty-rate", case["rate"], "--guest-hot-set", "128M"]
        yield move(options, guest, ["--guest", "--guest-memory", "512M", "--run-for", "1"], case["channels"], case["limit"])


def machine_moves(options, case):
    work = tempfile.mkdtemp(prefix="haul-prediction-")
    machines = []
    try:
        make_initrd(os.path.join(work, "initrd"), options.init, options.kernel)
        disks = make_disks(work) if case["name"] == "disk" else []
        machines.append(Machine(options, work, "m0", False, disks))
        machines[0].expect(b"files" if disks else b"sweep", BOOT_SECONDS)
        for i in range(1, options.repeat + 1):
            machines.append(Machine(options, work, f"m{i}", True, disks))
            yield move(options, ["--qemu", machines[-2].qmp_path], ["--qemu", machines[-1].qmp_path], case["channels"],
                       case["limit"])
            machines[-2].stop()
            machines[-1].expect(b"ok", 30)
    finally:
        for machine in machines:
            machine.stop()
        shutil.rmtree(work, ignore_errors=True)


def describe(case):
    return f"{case['name']}, {case['channels']} ch" + (f", {case['rate']}/s" if "rate" in case else "") + f", {case['limit']} ms"


def measure(options, case):
    rows = []
    for report in (guest_moves if case["name"] == "guest" else machine_moves)(options, case):
        predicted, actual = (report["downtime-detail"][key] for key in ("predicted", "actual"))
        rows.append({"predicted": predicted, "actual": actual, "limit": case["limit"], "seconds": report["total-time"] / 1e3,
                     "rounds": report["ram"]["dirty-sync-count"], "error": (predicted["total"] / actual["total"] - 1) * 100})
        if options.verbose:
            parts = "  ".join(f"{part} {predicted[part]:.1f}/{actual[part]:.1f}" for part in PARTS)
            print(f"    {predicted['total']:7.1f} {actual['total']:7.1f} ms {rows[-1]['error']:+6.1f} %  {parts}  "
                  f"{rows[-1]['rounds']} rounds, {rows[-1]['seconds']:.1f} s  {report.get('summary', '')}", flush=True)
            if options.verbose > 1:
                print(report["said"])
    return rows


def print_case(name, rows):
    errors = [abs(row["error"]) for row in rows]
    over = sum(row["actual"]["total"] > row["limit"] for row in rows)

    def parts(key):
        return " ".join(f"{statistics.median(row[key][part] for row in rows):8.1f}" for part in ("total", *PARTS))

    print(f"{name:<28}{len(rows):>4}{statistics.median(errors):8.1f} %{max(errors):8.1f} %{over:6}   {parts('predicted')}")
    print(f"{'':<60}{parts('actual')}", flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to run")
    parser.add_argument("--haul", help="the haul program (default: built)")
    parser.add_argument("--repeat", type=int, default=7, help="moves per case (default 7)")
    parser.add_argument("--cases", default="guest,qemu", help="of " + ", ".join(CASES) + " (default guest,qemu)")
    parser.add_argument("--limit", type=int, metavar="MS", help="downtime limit (default 100 for the guest, 300 for QEMU)")
    parser.add_argument("--rate", type=int, default=64, metavar="MIB", help="memory a second that the QEMU guest rewrites (default 64)")
    parser.add_argument("--link", metavar="RATE", help="a network of this rate between the two sides, as tc writes it (1gbit); "
                        "default: loopback as it is")
    parser.add_argument("--patience", type=int, default=60, metavar="S", help="longest move (default 60)")
    parser.add_argument("--verbose", "-v", action="count", default=0, help="a line per move; twice: what haul said")
    parser.add_argument("--json", metavar="FILE", help="also write every move to FILE")
    return parser.parse_args()


def cases(options):
    wanted = options.cases.split(",")
    if not set(wanted) <= set(CASES):
        sys.exit(f"prediction: --cases takes {', '.join(CASES)}")
    for name in wanted:
        if name == "guest":
            for rate in ("100M", "1000M"):
                for channels in (1, 4):
                    yield {"name": name, "rate": rate, "channels": channels, "limit": options.limit or 100}
        else:
            yield {"name": name, "channels": 2, "limit": options.limit or 300}


def enter_link(rate):
    """Goes on in a network namespace whose loopback carries no more than `rate`."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"], check=True)


def main():
    options = parse()
    if options.link and "HAUL_PREDICTION_LINK" not in os.environ:
        os.environ["HAUL_PREDICTION_LINK"] = options.link
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    if options.link:
        enter_link(options.link)
    options.kernel = max(glob.glob("/boot/vmlinuz-*cloud*"), default=None)
    if not options.kernel or not shutil.which(options.qemu):
        sys.exit("prediction: QEMU or a cloud kernel is not installed; run tools/setup")
    targets = ["//tests/machines:guest_init"] + ([] if options.haul else ["//tools/haul"])
    subprocess.run(["bazel", "build", "--config=release", *targets], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    options.haul = options.haul or os.path.join(ROOT, "bazel-bin/tools/haul/haul")
    options.init = os.path.join(ROOT, "bazel-bin/tests/machines/guest_init")
    print(f"{'case':<28}{'n':>4}{'median':>10}{'worst':>10}{'over':>6}      total     stop last pass   device    start   (ms, predicted then actual)")
    everything = {}
    state = tempfile.TemporaryDirectory(prefix="haul-prediction-", dir="/dev/shm")
    os.environ["HAUL_STATE_DIR"] = state.name  # records in memory, as in /run on most hosts
    with contextlib.suppress(KeyboardInterrupt):
        for case in cases(options):
            everything[describe(case)] = measure(options, case)
            print_case(describe(case), everything[describe(case)])
    if len(everything) > 1:
        print_case("all", [row for rows in everything.values() for row in rows])
    state.cleanup()
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(everything, out, indent=2)


if __name__ == "__main__":
    main()
