#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Moves a QEMU machine over loopback by rdma: and by tcp:, at several channel counts.

All memory is present on both sides. The two ways take turns; prints medians, and how the total times compare.
With --provider tcp;ofi_rxm, the default, libfabric itself uses TCP: what is compared is the cost of its way,
not that of a card.
"""
import harness

WAYS = ("tcp", "rdma")


def one_move(bench, way, channels):
    arguments = ("--rdma-provider", bench.options.provider) if way == "rdma" else ()
    with bench.pair(bench.random_memory(bench.options.size), bench.memory("destination")) as machines:
        return bench.haul_move(machines, channels, way + ":127.0.0.1:0", arguments)


def measure(bench, channels):
    """Both ways at one number of channels; returns the row."""
    runs = {way: [] for way in WAYS}
    for _ in range(bench.options.repeat):
        for way, results in runs.items():
            results.append(one_move(bench, way, channels))
    row = {"channels": channels}
    for way, results in runs.items():
        for key in ("seconds", "downtime_ms"):
            row[f"{way}-{key}"] = harness.median(results, key)
    row["ratio"] = row["rdma-seconds"] / row["tcp-seconds"]
    print(f"{channels:8} {row['tcp-seconds'] * 1e3:9.0f} {row['tcp-downtime_ms']:9.1f} {row['rdma-seconds'] * 1e3:9.0f} "
          f"{row['rdma-downtime_ms']:9.1f} {row['ratio']:7.2f}", flush=True)
    return row


def main():
    parser = harness.parser(__doc__, repeat=3, size=2048, channels="1,2,4")
    parser.add_argument("--provider", default="tcp;ofi_rxm", help="libfabric's provider (default %(default)s)")
    options = parser.parse_args()
    with harness.Bench(options) as bench:
        print(f"{bench.title}; {options.size} MiB; provider {options.provider}\n"
              "channels    tcp ms   down ms   rdma ms   down ms    rdma/tcp")
        rows = [measure(bench, channels) for channels in harness.counts(options.channels)]
        bench.save(rows, provider=options.provider, **{"size-mib": options.size})


if __name__ == "__main__":
    main()
