# SPDX-License-Identifier: Apache-2.0
"""A drive for a machine, and QEMU's own way to copy it to another machine's."""
import harness


def drive(image):
    return ("-drive", f"if=none,id=disk0,format=raw,file={image}", "-device", "virtio-blk-pci,drive=disk0")


def node(qmp):
    return qmp("query-block")[0]["inserted"]["node-name"]


def start_mirror(here, there, port):
    """Mirrors the one drive to the other machine's, and returns when both hold the same."""
    address = {"host": "127.0.0.1", "port": str(port)}
    there("nbd-server-start", addr={"type": "inet", "data": address})
    there("block-export-add", **{"type": "nbd", "id": "e", "name": "e", "node-name": node(there), "writable": True})
    here("blockdev-add", driver="nbd", server={"type": "inet", **address}, export="e", **{"node-name": "target"})
    here("blockdev-mirror", device=node(here), target="target", sync="full", **{"job-id": "mirror"})
    harness.wait_for(lambda: here("query-block-jobs"), lambda jobs: jobs[0]["ready"])


def end_mirror(here):
    here("block-job-cancel", device="mirror")
    harness.wait_for(lambda: here("query-block-jobs"), lambda jobs: not jobs)
    here("blockdev-del", **{"node-name": "target"})
