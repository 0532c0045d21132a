"""The fault table: every fault of the tests named below, as their runs tell it.

The tests inject each fault by real means and hold the outcome to the law: the numbers are those of
a run that nothing befell, and no work is lost that a cut had committed. What they saw is printed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as Tree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = [f"tests/integration/test_{name}.py" for name in ("faults", "node_faults", "handover")]


def main() -> int:
    legacy = ("-o", "junit_family=xunit1")  # the one that takes properties
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        began_s = time.monotonic()
        argv = [sys.executable, "-m", "pytest", "-q", *TESTS, f"--junitxml={report}", *legacy]
        done = subprocess.run(argv, cwd=ROOT, check=False)
        took_s = time.monotonic() - began_s
        found = [
            p.attrib["value"]
            for p in Tree.parse(report).iter("property")
            if p.attrib["name"] == "fault"
        ]
    print(
        "| fault | outcome | goes on as | lost beyond the last committed cut |\n|---|---|---|---|"
    )
    for line in found:
        print(f"| {line} |")
    verdict = "identical to an untouched run" if done.returncode == 0 else "NOT ALL HELD"
    print(f"\n{len(found)} faults in {took_s:.0f} s; losses and lines: {verdict}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
