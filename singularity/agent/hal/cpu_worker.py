"""The CPU device's own process: streams that run programs block by block.

    python -m singularity.agent.hal.cpu_worker CONNECTION GATES MODULE:FUNCTION [CORE ...]

CONNECTION and GATES are descriptors that the agent's side (cpu.py) opened. FUNCTION returns a
mapping from the name of a kernel to what runs one of its blocks, given its number. Each stream is a
thread; torch leaves the interpreter's lock while it computes, so streams do run side by side.

Between two blocks a stream reads its gate, one byte of memory shared with the agent: no message
stands between the agent's wish and the end of the block that runs.
"""

from __future__ import annotations

import importlib
import mmap
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Final

OPEN, CLOSED, MENDING = 0, 1, 2  # of a gate; MENDING lets the rest of a torn kernel run
GATES: Final = 4096  # streams of one device
_SWITCH_S: Final = 2e-4  # how soon a stream that wakes gets the interpreter from one that runs

Program = Callable[[int], None]
Work = tuple[int, int, str, int, int]  # task, index, name, first, blocks


@dataclass(eq=False)
class Stream:
    number: int
    gates: mmap.mmap
    programs: Mapping[str, Program]
    tell: Callable[..., None]
    waiting: deque[Work] = field(default_factory=deque)
    mending: Work | None = None
    asked: bool = False  # somebody waits to hear that it is quiet
    holding: bool = False
    gone: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def obey(self, what: str, work: Work | None) -> None:
        with self.changed:
            match what:
                case "launch" if work is not None:
                    self.waiting.append(work)
                case "restore":
                    self.mending = work
                case "deactivate":
                    self.asked = True
                case "hold":
                    self.asked = self.holding = True
                case "reactivate":
                    self.holding = False
                case "close":
                    self.gone = True
            self.changed.notify()

    def serve(self) -> None:
        while (work := self._next()) is not None:
            self._run(work)

    def _next(self) -> Work | None:
        """Wait for what may run now; None: no more."""
        with self.changed:
            while not self.gone:
                gate = self.gates[self.number]
                if self.asked and gate == CLOSED:
                    self._quiet()
                elif self.mending is not None and gate == MENDING:
                    work, self.mending = self.mending, None
                    return work
                elif self.waiting and gate == OPEN:
                    return self.waiting.popleft()
                elif self.asked and self.holding and not self.waiting:
                    self._quiet()
                else:
                    self.changed.wait()
        return None

    def _quiet(self) -> None:
        self.asked = False
        if self.mending is not None:
            (task, index, *_), self.mending = self.mending, None
            self.tell("torn", self.number, task, index, 0)
        self.tell("quiet", self.number)

    def _run(self, work: Work) -> None:
        task, index, name, first, blocks = work
        try:
            program = self.programs[name]
            for ran in range(blocks):
                # A kernel that has begun does a block at least: the gate was open then.
                if ran and self.gates[self.number] == CLOSED:
                    self.tell("torn", self.number, task, index, ran)
                    return
                program(first + ran)
        except Exception:  # whatever a program does, the agent must hear of it
            self.tell("failed", self.number, task, index, traceback.format_exc(limit=-4))
            return
        self.tell("done", self.number, task, index)


def main(arguments: list[str]) -> None:
    connection = Connection(int(arguments[0]))
    gates = mmap.mmap(int(arguments[1]), GATES)
    os.close(int(arguments[1]))
    if cores := {int(core) for core in arguments[3:]}:
        os.sched_setaffinity(0, cores)
    sys.setswitchinterval(_SWITCH_S)
    module, _, function = arguments[2].partition(":")
    programs = getattr(importlib.import_module(module), function)()
    sending = threading.Lock()

    def tell(*what: object) -> None:
        try:
            with sending:
                connection.send(what)
        except ConnectionError:
            os._exit(0)  # the agent has closed the device

    streams: dict[int, Stream] = {}
    tell("ready")
    while True:
        try:
            what, number, work = connection.recv()
        except (EOFError, ConnectionError):
            os._exit(0)  # the agent is gone; streams may be in the middle of a block
        if what == "open":
            streams[number] = Stream(number, gates, programs, tell)
            threading.Thread(target=streams[number].serve, daemon=True).start()
        else:
            streams[number].obey(what, work)


if __name__ == "__main__":
    main(sys.argv[1:])
