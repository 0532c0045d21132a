"""What makes a job a replica of a service. Frozen, pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

ServiceId = NewType("ServiceId", str)


@dataclass(frozen=True, slots=True)
class Serving:
    """Of which service and revision it is one, and how it is asked.

    Its program listens on the port in its environment, PORT, and takes requests once `health`, a
    path, answers 2xx. `concurrency` is how many requests it takes at once. One that is to rest gets
    no new ones, and is stopped when it has none left, or after `grace_s`. Where it may stay `warm`
    its processes are not ended then, but wait in the memory of their node until it shall serve
    again there, or others need the memory.
    """

    service: ServiceId
    revision: int
    health: str = "/"
    grace_s: float = 30.0
    concurrency: int = 1
    warm: bool = True
