"""Device-level preemption: `levels`, `disb` and `pace` on a modelled device, `cpu` on the
processors, `shim` over a stand-in for the CUDA driver, `ptx` where there is ptxas, `gpu` where
there is a GPU.

Ends with 1 when an inequality that must hold does not.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import device_cpu
import device_gpu
import device_model
import device_pace
import device_ptx
import device_shim


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--plots", type=Path, help="a directory for PNGs of what has any to show")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("levels", help="preemption latency by level, beside published ones")
    one.add_argument("--times", type=int, default=300)
    one = commands.add_parser("disb", help="inference beside inference, workloads A to E")
    one.add_argument("--seconds", type=float, default=3.0, help="of the model's time")
    one = commands.add_parser("pace", help="how tightly work is held, set by what is measured")
    one.add_argument("--seconds", type=float, default=20.0, help="of the model's time")
    one = commands.add_parser("cpu", help="real inference beside real training, on one core")
    one.add_argument("--seconds", type=float, default=5.0, help="of each case and round")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    one = commands.add_parser("shim", help="launch window and gate, over a stand-in driver")
    one.add_argument("--times", type=int, default=60)
    commands.add_parser("ptx", help="what yielding and padding cost in machine code, by ptxas")
    one = commands.add_parser("gpu", help="the same on a GPU; left out where there is none")
    one.add_argument("--times", type=int, default=500)
    one.add_argument("--seconds", type=float, default=2.0, help="of the pace of a program alone")
    one.add_argument("--preemptions", type=int, default=1000, help="of what is compared to the bit")
    args = parser.parse_args()
    plot = args.plots / f"device-{args.command}.png" if args.plots else None
    match args.command:
        case "levels":
            wrong = device_model.levels(args.times, plot)
        case "disb":
            wrong = device_model.disb(args.seconds, plot)
        case "pace":
            wrong = device_pace.pace(args.seconds)
        case "shim":
            wrong = device_shim.shim(args.times, plot)
        case "ptx":
            wrong = device_ptx.ptx()
        case "gpu":
            wrong = device_gpu.gpu(args.times, args.seconds, args.preemptions)
        case _:
            wrong = device_cpu.cpu(args.seconds, args.rounds, args.core, plot)
    for law in wrong:
        print(f"does not hold: {law}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
