#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves the same QEMU machine at rest with haul and with QEMU's own multifd, side by side.

Each case is repeated; haul, QEMU and the plain-socket limit take turns, so that a machine whose speed
drifts slows all of them alike. Prints medians, and ratios of the medians, one row per case. The limit is
measured twice: `plain`, with the host's own socket options and memory that the sender has mapped, as QEMU has
its own; and `as-haul`, with haul's options and memory that it maps on the way, as a program beside QEMU must.
What congestion control the host chose (net.ipv4.tcp_congestion_control) matters to QEMU and to `plain`, so it
is printed; a network namespace of its own (unshare -n) can have another one.

  present   destination memory exists before the move (prealloc=on)
  waiting   fresh memory; the destination was started earlier (haul populates it meanwhile, QEMU cannot)
  together  fresh memory; destination and source start at the same moment
  untouched memory that the source never touched

Time is what each side reports as its total time: from the start of the migration until the destination has
the machine. For `together` it runs from the start of the destination's side.
"""
import json
import subprocess
import sys

import harness

CASES = ("present", "waiting", "together", "untouched")


def one_move(bench, by, case, channels, program=None):
    """Starts both machines, of QEMU's binary `program` if one is given, moves once, ends both."""
    size = bench.options.size
    destination = bench.memory("destination")
    untouched = case == "untouched"
    source = bench.memory("untouched") if untouched else bench.random_memory(size)
    try:
        with bench.pair(source, destination, (not untouched, case == "present"), program=program) as machines:
            if by == "haul":
                figures = bench.haul_move(machines, channels, wait=case in ("present", "waiting"),
                                          populated=destination if case == "waiting" else None)
            else:
                figures = bench.qemu_move(machines, channels)
    finally:
        if untouched:
            harness.remove(source)
    if case == "together":
        figures["seconds"] += figures["before"]
    return figures


def limit(bench, case, channels, *how):
    output = subprocess.run([bench.built("benchmarks/channels/loopback_limit"), str(channels), str(bench.options.size),
                             "fresh" if case == "together" else "present", *how],
                            check=True, capture_output=True, text=True).stdout
    return {"seconds": json.loads(output)["seconds"]}


def measure(bench, case, channels):
    runs = {"haul": [], "qemu": [], "second-qemu": [], "limit": [], "as-haul": []}
    for _ in range(bench.options.repeat):
        runs["haul"].append(one_move(bench, "haul", case, channels))
        runs["qemu"].append(one_move(bench, "qemu", case, channels))
        if bench.options.second_qemu:
            runs["second-qemu"].append(one_move(bench, "qemu", case, channels, bench.options.second_qemu))
        if case != "untouched":
            runs["limit"].append(limit(bench, case, channels))
            runs["as-haul"].append(limit(bench, case, channels, "as-haul"))
    row = {"case": case, "channels": channels, "repeat": bench.options.repeat}
    for by, results in runs.items():
        if results:
            row[by + "-seconds"] = round(harness.median(results, "seconds"), 3)
    row["haul-memory-mib"] = round(max(run["memory_mib"] for run in runs["haul"]), 1)
    row["haul-coordinator-share"] = round(harness.median(runs["haul"], "coordinator"), 3)
    row["haul-downtime-ms"] = round(harness.median(runs["haul"], "downtime_ms"), 2)
    row["qemu-downtime-ms"] = round(harness.median(runs["qemu"], "downtime_ms"), 2)
    return row


def congestion_control():
    with open("/proc/sys/net/ipv4/tcp_congestion_control", encoding="ascii") as setting:
        return setting.read().strip()


def speed(options, row, by):
    seconds = row.get(by + "-seconds")
    return f"{seconds:7.3f} s {options.size * 1.048576e-3 / seconds:6.2f} GB/s" if seconds else " " * 21


HEADING = (f"{'case':<10}{'ch':>3}  {'haul':<21}  {'qemu multifd':<21}  {'plain sockets':<21}"
           f"{'qemu/haul':>11}{'plain/haul':>12}{'as-haul/haul':>14}{'MiB':>8}{'coord%':>8}")


def ratio(row, by):
    return f"{row[by + '-seconds'] / row['haul-seconds']:.2f}" if by + "-seconds" in row else ""


def print_row(options, row):
    print(f"{row['case']:<10}{row['channels']:>3}  {speed(options, row, 'haul')}  {speed(options, row, 'qemu')}  "
          f"{speed(options, row, 'limit')}{ratio(row, 'qemu'):>11}{ratio(row, 'limit'):>12}{ratio(row, 'as-haul'):>14}"
          f"{row['haul-memory-mib']:>8.1f}{row['haul-coordinator-share'] * 100:>8.1f}", flush=True)
    if "second-qemu-seconds" in row:
        print(f"{'second QEMU':<38}{speed(options, row, 'second-qemu')}{'':<23}{ratio(row, 'second-qemu'):>11}", flush=True)


def main():
    parser = harness.parser(__doc__, repeat=5, size=4096, channels="1,2,4,8")
    parser.add_argument("--cases", default=",".join(CASES), help="of " + ", ".join(CASES))
    parser.add_argument("--second-qemu", metavar="QEMU", help="another QEMU, whose multifd takes turns with the first one's")
    options = parser.parse_args()
    cases = options.cases.split(",")
    if not set(cases) <= set(CASES):
        sys.exit(f"versus_qemu: --cases takes {', '.join(CASES)}")
    rows = []
    with harness.Bench(options, ["//benchmarks/channels:loopback_limit"]) as bench:
        second = bench.qemu_version(options.second_qemu) if options.second_qemu else None
        print(f"{bench.title}; {options.size} MiB; congestion control: {congestion_control()}"
              + (f"\nsecond: {second}" if second else "") + f"\n{HEADING}")
        for case in cases:
            for channels in harness.counts(options.channels):
                rows.append(measure(bench, case, channels))
                print_row(options, rows[-1])
        bench.save(rows, **{"size-mib": options.size, "congestion-control": congestion_control()},
                   **({"second-qemu": second} if second else {}))


if __name__ == "__main__":
    main()
