#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the test cases of one `bazel test` run.

usage: count_tests.py NAME STATUS EVENTS

NAME is shown with each case that failed or was skipped, STATUS is Bazel's exit status, EVENTS the file that
--build_event_json_file wrote. Cases are googletest's own, from the XML file of each test program, also when Bazel had the
result cached. What leaves no failed case behind but failed all the same counts as one: a test program that crashed, ran out of
time, leaked, left early, has no case or did not build, and a run that failed or ran nothing.

Standard output gets one line, "PASSED FAILED SKIPPED"; standard error says which and why.
"""

import json
import sys
import urllib.parse
from xml.etree import ElementTree


def read_events(path):
    try:
        with open(path, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError):
        return []


def last_attempts(events):
    """The final result of each shard and run of each test, as {key: (label, result)}."""
    results = {}
    for event in events:
        identity = event.get("id", {}).get("testResult")
        if identity and "testResult" in event:
            key = (identity["label"], identity.get("run"), identity.get("shard"))
            attempt = identity.get("attempt", 0)
            if key not in results or attempt >= results[key][0]:
                results[key] = (attempt, identity["label"], event["testResult"])
    return [(label, result) for _, label, result in results.values()]


def unbuilt_tests(events):
    kinds = {}
    for event in events:
        identity = event.get("id", {}).get("targetConfigured")
        if identity:
            kinds[identity["label"]] = event.get("configured", {}).get("targetKind", "")
    for event in events:
        identity = event.get("id", {}).get("targetCompleted")
        if identity and not event.get("completed", {}).get("success"):
            if kinds.get(identity["label"], "").endswith("_test rule"):
                yield identity["label"]


def read_cases(result):
    """Yields (name, "passed" | "failed" | "skipped", why) of each case that the program had."""
    uris = [o["uri"] for o in result.get("testActionOutput", []) if o.get("name") == "test.xml" and "uri" in o]
    for uri in uris:
        try:
            root = ElementTree.parse(urllib.parse.unquote(urllib.parse.urlparse(uri).path)).getroot()
        except (OSError, ElementTree.ParseError):
            continue
        if root.get("name") != "AllTests":
            continue  # Bazel's stand-in for a program that wrote none
        for case in root.iter("testcase"):
            name = "%s.%s" % (case.get("classname") or "", case.get("name"))
            skipped = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                yield name, "failed", ""
            elif case.get("result") == "skipped" or skipped is not None:
                reason = skipped.get("message", "") if skipped is not None else ""
                yield name, "skipped", " ".join(reason.split("\n")[1:] or [reason]).strip()
            elif case.get("status") == "notrun":
                # Left out by a filter, or disabled in the source.
                if case.get("result") != "suppressed" or "DISABLED_" in name:
                    yield name, "skipped", "disabled"
            else:
                yield name, "passed", ""


class Tally:
    def __init__(self, name):
        self.name = name
        self.passed = self.failed = self.skipped = 0

    def say(self, word, what, why=""):
        print("%s (%s) %s%s" % (word, self.name, what, ": " + why if why else ""), file=sys.stderr)

    def fail(self, what, why=""):
        self.failed += 1
        self.say("FAILED", what, why)

    def add_program(self, label, result):
        before = self.passed + self.failed + self.skipped, self.failed
        for name, outcome, why in read_cases(result):
            if outcome == "passed":
                self.passed += 1
            elif outcome == "failed":
                self.fail("%s %s" % (label, name))
            else:
                self.skipped += 1
                self.say("SKIPPED", "%s %s" % (label, name), why)
        status = result.get("status", "NO_STATUS")
        if status != "PASSED" and self.failed == before[1]:
            self.fail(label, "the program ended with %s" % status)
        elif self.passed + self.failed + self.skipped == before[0]:
            self.fail(label, "it ended without a word of its test cases, if it has any")


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    tally = Tally(sys.argv[1])
    events = read_events(sys.argv[3])
    results = last_attempts(events)
    for label, result in sorted(results, key=lambda pair: pair[0]):
        tally.add_program(label, result)
    for label in sorted(unbuilt_tests(events)):
        tally.fail(label, "it did not build")
    if not results:
        tally.fail("no test program ran")
    elif sys.argv[2] != "0" and tally.failed == 0:
        tally.fail("bazel", "it ended with status %s" % sys.argv[2])
    print(tally.passed, tally.failed, tally.skipped)


main()
