"""The one thing that the store needs of a disk or a cloud: named bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Blob:
    """`at_s` is when it was written, by the clock of whoever keeps it."""

    name: str
    bytes: int
    at_s: float


class Stage(Protocol):
    """Many blobs on their way in."""

    def put(self, name: str, data: bytes) -> None:
        """It may have its name from now on, and surely has it after `settle`; never only a part
        of its bytes. What a broken stage has named stays: the next one need not write it again."""

    def settle(self) -> None:
        """All that was put is durable on return."""


class Blobs(Protocol):
    """Names are slash-separated. Every call raises OSError when the keeper fails, and
    FileNotFoundError for what is not there. What is written is listed at once."""

    @property
    def workers(self) -> int:
        """How many calls are worth being made side by side."""

    def get(self, name: str) -> bytes: ...

    def has(self, name: str) -> bool: ...

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Durable on return, unless it need not outlive the machine that writes it, and replacing
        what had the name; nobody ever sees half of it."""

    def stage(self) -> AbstractContextManager[Stage]: ...

    def list(self, prefix: str) -> Iterator[Blob]:
        """Everything below the directory `prefix`; some of it may be gone already."""

    def move(self, old: str, new: str) -> None: ...

    def delete(self, name: str) -> None:
        """Whether it is there or not."""

    def now_s(self) -> float:
        """By the clock that dates blobs: the keeper's, not this machine's."""

    def tidy(self, before_s: float) -> None:
        """Remove what writers have left behind that died before then."""
