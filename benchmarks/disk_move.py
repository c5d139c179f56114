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
import argparse
import contextlib
import filecmp
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time

import disks
import versus_qemu as common

WAYS = ("haul", "haul-busy", "qemu", "dd", "cp")
GUEST = ["--guest", "--guest-memory", "16M", "--guest-dirty-rate", "0", "--guest-vcpu", "thread"]


def drop_cache(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def by_haul(options, image, copy, channels, rate):
    """One move; the destination proves every block afterwards, which is not timed."""
    receive = subprocess.Popen([options.haul, "receive", "--listen", "tcp:127.0.0.1:0", "--run-for", "1", "--disk",
                                f"{copy},size={options.size}M", "--guest", "--guest-memory", "16M", "--guest-vcpu",
                                "thread"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = receive.stderr.readline()
        while "listening on " not in line:
            if not line:
                raise RuntimeError("haul receive did not start")
            line = receive.stderr.readline()
        uri = line.split("listening on ")[1].split()[0]
        drain = threading.Thread(target=receive.stderr.read)
        drain.start()
        sent = subprocess.run([options.haul, "send", uri, "--json", "--quiet", "--channels", str(channels), "--disk",
                               f"{image},rate={rate}"] + GUEST, stdout=subprocess.PIPE, text=True, check=False)
        proof = receive.stdout.read()
        drain.join()
        if sent.returncode != 0 or receive.wait() != 0:
            raise RuntimeError(f"the move failed: {sent.stdout}\n{proof}")
        report = json.loads(sent.stdout)
        return {"seconds": report["total-time"] / 1e3, "sent": report["disk"]["transferred"] / (1 << 20),
                "downtime": report["downtime-detail"]["actual"]["total"],
                "predicted": report["downtime-detail"]["predicted"]["total"]}
    finally:
        if receive.poll() is None:
            receive.kill()
        receive.wait()


def by_qemu(options, work, image, copy):
    """QEMU's mirror until it is ready, its end, and the flush; the machines have memory, and never run."""
    machine = argparse.Namespace(qemu=options.qemu, size=16)
    memory = [os.path.join(work, f"memory-{side}") for side in ("from", "to")]
    machines = []
    try:
        with open(copy, "wb") as out:
            out.truncate(options.size << 20)
        for i, path in enumerate((image, copy)):
            machines.append(common.Machine(work, f"qemu{i}", machine, memory[i], i == 1, False, disks.drive(path)))
            common.Qmp(machines[i].qmp_path).close()
        here, there = (common.Qmp(one.qmp_path) for one in machines)
        begun = time.monotonic()
        disks.start_mirror(here, there, common.free_port())
        disks.end_mirror(here)
        there("nbd-server-stop")
        with open(copy, "rb+") as file:
            os.fsync(file.fileno())
        seconds = time.monotonic() - begun
        here.close()
        there.close()
        return {"seconds": seconds, "sent": common.allocated(image) / (1 << 20)}
    finally:
        for one in machines:
            one.stop()
        for path in memory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def by_dd(image, copy):
    listener = socket.create_server(("127.0.0.1", 0))
    begun = time.monotonic()
    with socket.create_connection(listener.getsockname()) as near:
        far, _ = listener.accept()
        listener.close()
        reader = subprocess.Popen(["dd", f"of={copy}", "bs=1M", "conv=fsync", "iflag=fullblock", "status=none"],
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
    return {"seconds": time.monotonic() - begun, "sent": common.allocated(image) / (1 << 20)}


def one_run(options, work, way, channels):
    image, copy = os.path.join(work, "image"), os.path.join(work, "copy")
    drop_cache(image)
    try:
        if way == "qemu":
            figures = by_qemu(options, work, image, copy)
        elif way == "dd":
            figures = by_dd(image, copy)
        elif way == "cp":
            figures = by_cp(image, copy)
        else:
            figures = by_haul(options, image, copy, channels, options.rate if way == "haul-busy" else 0)
        if way != "haul-busy" and not filecmp.cmp(image, copy, shallow=False):
            raise RuntimeError(f"{way}: the copy differs")
        figures["allocated"] = common.allocated(copy) / (1 << 20)
        return figures
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)


def make_image(options, work):
    """A disk of the reference guest: about half of it has content, the rest are holes."""
    copy = os.path.join(work, "copy")
    receive = [options.haul, "receive", "--listen", f"unix:{work}/first", "--quiet", "--run-for", "0", "--guest",
               "--guest-memory", "16M", "--guest-vcpu", "thread", "--disk", f"{copy},size={options.size}M"]
    with subprocess.Popen(receive, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:
        while not os.path.exists(f"{work}/first"):
            time.sleep(0.01)
        subprocess.run([options.haul, "send", f"unix:{work}/first", "--quiet", "--disk",
                        f"{work}/image,size={options.size}M,rate=0"] + GUEST, stdout=subprocess.DEVNULL, check=True)
        other.wait()
    os.unlink(copy)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU program to compare with")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="size of the disk (default 1024)")
    parser.add_argument("--rate", default="20M", help="what a busy guest writes per second (default 20M)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way (default 3)")
    parser.add_argument("--channels", default="1,2,4", help="haul's channel counts, with commas (default 1,2,4)")
    parser.add_argument("--dir", default="/var/tmp", help="where image and copy are: a disk with room for both")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    return parser.parse_args()


def main():
    options = parse()
    version = common.prepare(options, "disk_move")
    work = tempfile.mkdtemp(prefix="haul-bench-", dir=options.dir)
    rows = []
    try:
        make_image(options, work)
        print(f"{version}; {options.size} MiB, {common.allocated(work + '/image') >> 20} MiB of it with content; medians of "
              f"{options.repeat}; {os.cpu_count()} CPUs; seconds and MiB, downtime in ms\n"
              "way        ch  seconds   sent  allocated  downtime  predicted")
        runs = {}
        for _ in range(options.repeat):
            for channels in map(int, options.channels.split(",")):
                for way in ("haul", "haul-busy"):
                    runs.setdefault((way, channels), []).append(one_run(options, work, way, channels))
            for way in ("qemu", "dd", "cp"):
                runs.setdefault((way, 1), []).append(one_run(options, work, way, 1))
        for (way, channels), figures in sorted(runs.items(), key=lambda item: WAYS.index(item[0][0])):
            row = {key: statistics.median(figure[key] for figure in figures) for key in figures[0]}
            rows.append({"way": way, "channels": channels, **row})
            tail = f"{row['downtime']:9.2f} {row['predicted']:10.2f}" if "downtime" in row else ""
            print(f"{way:10} {channels:2} {row['seconds']:8.2f} {row['sent']:6.0f} {row['allocated']:10.0f} {tail}",
                  flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"size-mib": options.size, "rows": rows}, out, indent=2)


if __name__ == "__main__":
    main()
