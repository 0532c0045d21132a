"""The Celery consumer, in a process of its own that can be killed when it hangs.

A consumer whose broker restarts at the wrong moment may never consume again; no thread can be
killed for that, but a process can. It hands each letter over a pipe and waits for the agent's
word that it is journaled, so that Celery's task ends when the letter is safe.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Final

from pydantic import ValidationError

from singularity.primitives.messages import Sealed
from singularity.primitives.nodes import NodeId

log = logging.getLogger(__name__)
_PARENT_EVERY_S: Final = 0.5


class LetterboxProcess:
    """Starts, restarts and stops the consumer. `deliver` runs in a thread of ours."""

    def __init__(self, node: NodeId, deliver: Callable[[Sealed], None]) -> None:
        self._node, self._deliver = node, deliver
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def restart(self, broker_url: str) -> None:
        with self._lock:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "singularity.agent", "letterbox", self._node],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "SINGULARITY_BROKER_URL": broker_url},
            )
            thread = threading.Thread(
                target=self._read, args=(self._process,), name="letterbox", daemon=True
            )
            thread.start()

    def stop(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stdin is not None
        letters, answers = process.stdout, process.stdin
        try:
            for line in letters:
                try:
                    self._deliver(Sealed.model_validate_json(line))
                except ValidationError:
                    log.warning("letterbox.garbled", extra={"line": line[:80]})
                    continue
                try:
                    answers.write("ok\n")
                    answers.flush()
                except OSError:
                    return  # it is being replaced
        finally:
            for pipe in (letters, answers):
                with suppress(OSError):  # an answer in it that nobody is there to take
                    pipe.close()


def for_letters_only(pipe: int, log_to: int) -> IO[str]:
    """The pipe to the agent; whatever libraries print to it from now on is logged instead."""
    lines = os.fdopen(os.dup(pipe), "w", encoding="utf-8")
    os.dup2(log_to, pipe)
    return lines


def serve(broker_url: str, node: NodeId, lines: IO[str], answers: IO[str]) -> None:
    """The body of the consumer process. It ends when its agent does."""
    from singularity.primitives.transport import consume

    def deliver(sealed: Sealed) -> None:
        lines.write(sealed.model_dump_json() + "\n")
        lines.flush()
        if not answers.readline():
            raise SystemExit(0)  # the agent is gone; so are we

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    consume(broker_url, node, deliver)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        threading.Event().wait(_PARENT_EVERY_S)
    os._exit(0)
