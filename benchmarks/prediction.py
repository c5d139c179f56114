#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves live guests again and again and compares the downtime that haul predicted with what it was.

  guest        the reference guest at two dirty rates over two numbers of channels
  guest-disk   the same with little memory and a disk that moves along, at rest and while the guest writes it
  qemu         a Linux guest in QEMU (TCG) that rewrites its memory, moved to and fro
  disk         the same with two disks under load by direct I/O, for which haul stops it at every scan
  drives       the same with two drives at rest that move along (--disks)
  drives-busy  and with two that the guest writes, flushes and reads all the time

Prints per case the median and the worst error of the prediction, in percent of the actual downtime, the median
of each part, predicted and actual, and how often a move that the engine chose to finish exceeded its limit.
"""
import os
import statistics
import subprocess
import sys
import time

import harness
import linux_guest

CASES = ("guest", "guest-disk", "qemu", "disk", "drives", "drives-busy")
PARTS = ("stop", "last-pass", "device", "start")
BOOT_SECONDS = 300
DRIVE_BYTES = 32 << 20


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


class Guest:
    """A machine with a Linux guest that rewrites and checks its memory."""

    def __init__(self, bench, name, initrd, incoming, disks, load, cache):
        self.console = os.path.join(bench.work, name + ".log")
        extra = ["-serial", f"file:{self.console}",
                 *linux_guest.words(bench.options.kernel, initrd,
                                    f"haul.mib=96 haul.rate={bench.options.rate} haul.disk={load}")]
        for i, disk in enumerate(disks):
            extra += ["-drive", f"if=none,format=raw,id=d{i},file={disk}{cache}",
                      "-device", f"virtio-blk-pci,drive=d{i}"]
        self.machine = bench.machine(name, size=256, incoming=incoming, extra=extra)

    def expect(self, text, seconds):
        """Waits for `text` to come (once more) on the console."""
        start = os.path.getsize(self.console)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.machine.process.poll() is None:
            said = linux_guest.read(self.console)
            if b"BAD" in said:
                raise RuntimeError(f"the guest found its memory wrong: {said[-500:]}")
            if text in said[start:]:
                return
            time.sleep(0.05)
        raise RuntimeError(f"the guest did not say {text}: {linux_guest.read(self.console)[-500:]}")


def move(bench, case, source, destination):
    """One move by haul; returns its report."""
    with bench.receive("tcp:127.0.0.1:0", *destination) as receive:
        return bench.run_haul("send", receive.uri, *source, "--channels", str(case["channels"]), "--downtime-limit",
                              str(case["limit"]), quiet=False, timeout=bench.options.patience)


def guest_moves(bench, case):
    for _ in range(bench.options.repeat):
        guest = ["--guest", "--guest-memory", "512M", "--guest-dirty-rate", case["rate"], "--guest-hot-set", "128M"]
        yield move(bench, case, guest, ["--guest", "--guest-memory", "512M", "--run-for", "1"])


def guest_disk_moves(bench, case):
    guest = ["--guest", "--guest-memory", "64M"]
    for _ in range(bench.options.repeat):
        images = [bench.path(bench.options.dir, side) for side in ("from", "to")]
        yield move(bench, case, [*guest, "--guest-dirty-rate", "20M", "--guest-hot-set", "16M", "--disk",
                                 f"{images[0]},size=64M,rate={case['rate']}"],
                   [*guest, "--run-for", "1", "--disk", f"{images[1]},size=64M"])
        harness.remove(*images)


def make_images(bench, machine):
    """Empty ones for the drives of a machine that are to move along."""
    images = [bench.path(bench.options.dir, f"{machine}-{drive}") for drive in ("a", "b")]
    for image in images:
        with open(image, "wb") as out:
            out.truncate(DRIVE_BYTES)
    return images


def machine_moves(bench, case):
    along = ["--disks"] if case["name"].startswith("drives") else []
    load = {"disk": 1, "drives-busy": 2}.get(case["name"], 0)
    cache = ",cache=none,aio=native" if case["name"] == "disk" else ""
    initrd = os.path.join(bench.work, "initrd")
    linux_guest.make_initrd(initrd, bench.built("tests/machines/guest_init"), bench.options.kernel)
    disks = make_disks(bench.work) if case["name"] == "disk" else make_images(bench, "m0") if along else []
    source = Guest(bench, "m0", initrd, False, disks, load, cache)
    source.expect((b"sweep", b"files", b"vda")[load], BOOT_SECONDS)
    for i in range(1, bench.options.repeat + 1):
        before, disks = disks, make_images(bench, f"m{i}") if along else disks
        destination = Guest(bench, f"m{i}", initrd, True, disks, load, cache)
        yield move(bench, case, ["--qemu", source.machine.qmp_path, *along],
                   ["--qemu", destination.machine.qmp_path, *along])
        source.machine.stop()
        harness.remove(*(before if along else []))
        source = destination
        source.expect(b"ok", 30)
    source.machine.stop()


def describe(case):
    return f"{case['name']}, {case['channels']} ch" + (f", {case['rate']}/s" if "rate" in case else "") + f", {case['limit']} ms"


def measure(bench, case):
    options = bench.options
    rows = []
    how = {"guest": guest_moves, "guest-disk": guest_disk_moves}.get(case["name"], machine_moves)
    for report in how(bench, case):
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

    print(f"{name:<32}{len(rows):>4}{statistics.median(errors):8.1f} %{max(errors):8.1f} %{over:6}   {parts('predicted')}")
    print(f"{'':<64}{parts('actual')}", flush=True)


def cases(options):
    wanted = options.cases.split(",")
    if not set(wanted) <= set(CASES):
        sys.exit(f"prediction: --cases takes {', '.join(CASES)}")
    for name in wanted:
        if name == "guest":
            for rate in ("100M", "1000M"):
                for channels in (1, 4):
                    yield {"name": name, "rate": rate, "channels": channels, "limit": options.limit or 100}
        elif name == "guest-disk":
            for rate in ("0M", "20M"):
                for channels in (1, 4):
                    yield {"name": name, "rate": rate, "channels": channels, "limit": options.limit or 100}
        else:
            yield {"name": name, "channels": 2, "limit": options.limit or 300}


def enter_link(rate):
    """Goes on in a network namespace whose loopback carries no more than `rate`."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"], check=True)


def main():
    parser = harness.parser(__doc__, repeat=7, memory_dir=None)
    parser.add_argument("--cases", default="guest,qemu", help="of " + ", ".join(CASES) + " (default %(default)s)")
    parser.add_argument("--limit", type=int, metavar="MS", help="downtime limit (default 100 for the guest, 300 for QEMU)")
    parser.add_argument("--rate", type=int, default=64, metavar="MIB",
                        help="memory a second that the QEMU guest rewrites (default %(default)s)")
    parser.add_argument("--link", metavar="RATE", help="a network of this rate between the two sides, as tc writes it (1gbit); "
                        "default: loopback as it is")
    parser.add_argument("--kernel", default=linux_guest.default_kernel(), help="a kernel for the QEMU guest (default %(default)s)")
    parser.add_argument("--dir", default="/var/tmp", help="where images that move along are: a disk (default %(default)s)")
    parser.add_argument("--patience", type=int, default=60, metavar="S", help="longest move (default %(default)s)")
    parser.add_argument("--verbose", "-v", action="count", default=0, help="a line per move; twice: what haul said")
    options = parser.parse_args()
    if options.link and "HAUL_PREDICTION_LINK" not in os.environ:
        os.environ["HAUL_PREDICTION_LINK"] = options.link
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    if options.link:
        enter_link(options.link)
    if not options.kernel:
        sys.exit("prediction: a cloud kernel is not installed; run tools/setup")
    with harness.Bench(options, ["//tests/machines:guest_init"]) as bench:
        print(f"{bench.title}\n{'case':<32}{'n':>4}{'median':>10}{'worst':>10}{'over':>6}      total     stop last pass   device    start"
              "   (ms, predicted then actual)")
        everything = {}
        for case in cases(options):
            everything[describe(case)] = measure(bench, case)
            print_case(describe(case), everything[describe(case)])
        if len(everything) > 1:
            print_case("all", [row for rows in everything.values() for row in rows])
        bench.save(everything)


if __name__ == "__main__":
    main()
