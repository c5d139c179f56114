#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the machines of the topology and placement tests as hwloc XML into this folder.

Hardware threads are numbered as Linux does it: every core's first thread, then every core's second. The card is
ens1f0 on node 1; usb0 hangs off the whole machine, on no node.
"""

import os
from xml.etree import ElementTree

GIB = 1 << 30


class Machine:
    def __init__(self, nodes, cores, threads, allowed=None, cpuless=0):
        self.nodes, self.cores, self.threads, self.cpuless = nodes, cores, threads, cpuless
        self.cpus = nodes * cores * threads
        self.allowed = range(self.cpus) if allowed is None else allowed
        self.objects = 0

    def add(self, parent, kind, cpus=None, nodes=None, **attributes):
        self.objects += 1
        element = ElementTree.SubElement(parent, "object", type=kind)
        for prefix, numbers in (("cpuset", cpus), ("nodeset", nodes)):
            if numbers is not None:
                mask = "0x%08x" % sum(1 << number for number in numbers)
                element.set(prefix, mask)
                element.set("complete_" + prefix, mask)
        for name, value in attributes.items():
            element.set(name, str(value))
        element.set("gp_index", str(self.objects))
        return element

    def core(self, number):
        return [number + thread * self.nodes * self.cores for thread in range(self.threads)]

    def card(self, parent, name, bus, speed):
        bridge = self.add(parent, "Bridge", bridge_type="0-1", depth=0, bridge_pci="0000:[%02x-%02x]" % (bus, bus))
        pci = self.add(bridge, "PCIDev", pci_busid="0000:%02x:00.0" % bus,
                       pci_type="0200 [8086:1592] [8086:0002] 02", pci_link_speed="%.6f" % speed)
        self.add(pci, "OSDev", name=name, osdev_type=2)

    def node(self, machine, number):
        cores = [self.core(number * self.cores + index) for index in range(self.cores)]
        cpus = [cpu for core in cores for cpu in core]
        package = self.add(machine, "Package", cpus, [number], os_index=number)
        self.add(package, "NUMANode", cpus, [number], os_index=number, local_memory=16 * GIB)
        for index, core in enumerate(cores):
            element = self.add(package, "Core", core, [number], os_index=index)
            for cpu in core:
                self.add(element, "PU", [cpu], [number], os_index=cpu)
        if number == 1:
            self.card(package, "ens1f0", 0x81, 15.753846)

    def write(self, name):
        root = ElementTree.Element("topology", version="2.0")
        nodes = range(self.nodes + self.cpuless)
        machine = self.add(root, "Machine", range(self.cpus), nodes, os_index=0)
        machine.set("allowed_cpuset", "0x%08x" % sum(1 << cpu for cpu in self.allowed))
        machine.set("allowed_nodeset", machine.get("nodeset"))
        for number in range(self.nodes, self.nodes + self.cpuless):
            self.add(machine, "NUMANode", [], [number], os_index=number, local_memory=64 * GIB)
        for number in range(self.nodes):
            self.node(machine, number)
        self.card(machine, "usb0", 0x00, 0)
        ElementTree.indent(root)
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
        with open(path, "wb") as out:
            out.write(b'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n')
            out.write(ElementTree.tostring(root) + b"\n")


Machine(2, 4, 2).write("two_nodes.xml")
Machine(4, 4, 1).write("four_nodes.xml")
Machine(2, 4, 2, allowed=[1, 2, 5, 13]).write("two_nodes_restricted.xml")
Machine(2, 4, 2, allowed=[0, 1, 2, 3]).write("two_nodes_one_usable.xml")
Machine(2, 2, 1, cpuless=1).write("memory_only_node.xml")
