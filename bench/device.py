"""Device-level preemption: `levels` and `disb` on a modelled device.

Ends with 1 when an inequality that must hold does not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import device_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("levels", help="preemption latency by level, beside published ones")
    one.add_argument("--times", type=int, default=300)
    one = commands.add_parser("disb", help="inference beside inference, workloads A to E")
    one.add_argument("--seconds", type=float, default=3.0, help="of the model's time")
    one.add_argument("--plot", type=Path, help="where to draw a PNG")
    args = parser.parse_args()
    if args.command == "levels":
        wrong = device_model.levels(args.times)
    else:
        wrong = device_model.disb(args.seconds, args.plot)
    for law in wrong:
        print(f"does not hold: {law}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
