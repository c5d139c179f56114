#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves the reference guest with a disk, and copies the same image by plain means, side by side on one host.

Ways take turns; prints medians. Every way ends when the copy is on the disk.

  haul      haul send and haul receive over loopback TCP; the guest's memory is small and it does not write its disk
  haul-busy the same while the guest writes --rate bytes per second to its disk
  qemu      QEMU's own mirror of the same image, over loopback TCP, between two machines that do not run: blockdev-mirror
            to an export of the other one, both with holes kept; without a move of any memory
  dd        dd of the image into a TCP connection, and out of it with conv=fsync: one stream, holes are sent as zeros
  cp        cp --sparse=always and fsync, without a network

`downtime` is what haul says that the guest stood still, `predicted` what it expected. The image's pages are dropped
from the page cache before each run.
"""
import filecmp
import os
import socket
import subprocess
import time

import harness
import mirror

WAYS = ("haul", "haul-busy", "qemu", "dd", "cp")
GUEST = ["--guest", "--guest-memory", "16M", "--guest-vcpu", "thread"]


def drop_cache(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def by_haul(bench, image, copy, channels, rate):
    """One move; the destination proves every block afterwards, which is not timed."""
    size = f",size={bench.options.size}M"
    with bench.receive("tcp:127.0.0.1:0", "--run-for", "1", "--disk", copy + size, *GUEST) as receive:
        report = bench.run_haul("send", receive.uri, "--channels", str(channels), "--disk", f"{image},rate={rate}", *GUEST,
                                "--guest-dirty-rate", "0")
    if receive.returncode != 0:
        raise RuntimeError(f"the guest did not prove its disk: {receive.report}")
    return {"seconds": report["total-time"] / 1e3, "sent": report["disk"]["transferred"] / (1 << 20),
            "downtime": report["downtime-detail"]["actual"]["total"],
            "predicted": report["downtime-detail"]["predicted"]["total"]}


def by_qemu(bench, image, copy):
    """QEMU's mirror until it is ready, its end, and the flush; the machines have memory, and never run."""
    with open(copy, "wb") as out:
        out.truncate(bench.options.size << 20)
    with bench.pair(None, None, (False, False), [mirror.drive(path) for path in (image, copy)], 16) as machines:
        with harness.monitors(*machines) as (here, there):
            begun = time.monotonic()
            mirror.start_mirror(here, there, harness.free_port())
            mirror.end_mirror(here)
            there("nbd-server-stop")
            with open(copy, "rb+") as file:
                os.fsync(file.fileno())
            return {"seconds": time.monotonic() - begun, "sent": harness.allocated(image) / (1 << 20)}


def by_dd(bench, image, copy):
    listener = socket.create_server(("127.0.0.1", 0))
    begun = time.monotonic()
    with socket.create_connection(listener.getsockname()) as near:
        far, _ = listener.accept()
        listener.close()
        reader = bench.start(["dd", f"of={copy}", "bs=1M", "conv=fsync", "iflag=fullblock", "status=none"],
                             stdin=far.fileno())
        far.close()
        subprocess.run(["dd", f"if={image}", "bs=1M", "status=none"], stdout=near.fileno(), check=True)
    if reader.wait() != 0:
        raise RuntimeError("dd failed")
    return {"seconds": time.monotonic() - begun, "sent": os.path.getsize(image) / (1 << 20)}


def by_cp(image, copy):
    begun = time.monotonic()
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    with open(copy, "rb+") as file:
        os.fsync(file.fileno())
    return {"seconds": time.monotonic() - begun, "sent": harness.allocated(image) / (1 << 20)}


def one_run(bench, way, channels, image, copy):
    drop_cache(image)
    try:
        if way == "qemu":
            figures = by_qemu(bench, image, copy)
        elif way == "dd":
            figures = by_dd(bench, image, copy)
        elif way == "cp":
            figures = by_cp(image, copy)
        else:
            figures = by_haul(bench, image, copy, channels, bench.options.rate if way == "haul-busy" else 0)
        if way != "haul-busy" and not filecmp.cmp(image, copy, shallow=False):
            raise RuntimeError(f"{way}: the copy differs")
        figures["allocated"] = harness.allocated(copy) / (1 << 20)
        return figures
    finally:
        harness.remove(copy)


def make_image(bench, image, copy):
    """A disk of the reference guest: about half of it has content, the rest are holes."""
    size = f",size={bench.options.size}M"
    with bench.receive("tcp:127.0.0.1:0", "--run-for", "0", "--disk", copy + size, *GUEST) as receive:
        bench.run_haul("send", receive.uri, "--disk", f"{image}{size},rate=0", *GUEST, "--guest-dirty-rate", "0")
    os.unlink(copy)


def measure(bench, image, copy):
    """All ways at all channel counts in turns; returns the rows."""
    runs = {}
    for _ in range(bench.options.repeat):
        for channels in harness.counts(bench.options.channels):
            for way in ("haul", "haul-busy"):
                runs.setdefault((way, channels), []).append(one_run(bench, way, channels, image, copy))
        for way in ("qemu", "dd", "cp"):
            runs.setdefault((way, 1), []).append(one_run(bench, way, 1, image, copy))
    rows = []
    for (way, channels), figures in sorted(runs.items(), key=lambda item: WAYS.index(item[0][0])):
        row = harness.medians(figures)
        rows.append({"way": way, "channels": channels, **row})
        tail = f"{row['downtime']:9.2f} {row['predicted']:10.2f}" if "downtime" in row else ""
        print(f"{way:10} {channels:2} {row['seconds']:8.2f} {row['sent']:6.0f} {row['allocated']:10.0f} {tail}", flush=True)
    return rows


def main():
    parser = harness.parser(__doc__, repeat=3, channels="1,2,4", memory_dir=None)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="size of the disk (default %(default)s)")
    parser.add_argument("--rate", default="20M", help="what a busy guest writes per second (default %(default)s)")
    parser.add_argument("--dir", default="/var/tmp", help="where image and copy are: a disk with room for both")
    options = parser.parse_args()
    with harness.Bench(options) as bench:
        image, copy = bench.path(options.dir, "image"), bench.path(options.dir, "copy")
        make_image(bench, image, copy)
        print(f"{bench.title}; {options.size} MiB, {harness.allocated(image) >> 20} MiB of it with content; seconds and MiB, "
              "downtime in ms\nway        ch  seconds   sent  allocated  downtime  predicted")
        bench.save(measure(bench, image, copy), **{"size-mib": options.size})


if __name__ == "__main__":
    main()
