"""`checkpoint:` of the job document: how a job's progress is kept, how often, and how long."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from singularity.primitives.cooperation import Cooperation
from singularity.primitives.model import Engine

from .documents import Document, Duration, Every, one_or_many

# Signals that a program does not take for something else, and that end it unless it says otherwise.
Signal = Literal["SIGUSR1", "SIGUSR2", "SIGTERM", "SIGHUP"]
_CHAIN: Final = tuple(Engine)
_WITHIN_MOST_S: Final = 480.0  # the plane gives a suspend up after ten minutes in all
_WITHIN_S: Final = 120.0
_PLACEHOLDER: Final = "{rank}"


class Checkpointing(Document):
    """Taken when the scheduler needs the devices, and `every` so often: auto is as often as pays,
    never only when the job is suspended. `engines` are tried in their order, and only those that
    stand there: transparent (the processes as they are), cooperative (`signal` goes to every rank,
    and the files at `path` are kept once all are newer than it; a file without {rank} is written by
    rank 0; the program goes on afterwards, and when it is started again goes on from them), restart
    (nothing is kept). Without it: transparent, and then cooperative where signal and path are said.
    `mode` auto is all there is. `preflight`: one is taken soon after the first steps, restored
    aside and compared; see the job's certificate."""

    mode: Literal["auto"] = "auto"
    every: Every = None
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    engines: Annotated[
        tuple[Engine, ...] | None,
        BeforeValidator(one_or_many, json_schema_input_type=str | list[str]),
        Field(min_length=1),
    ] = None
    signal: Signal | None = None
    path: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,4096}$")], ...],
        BeforeValidator(one_or_many, json_schema_input_type=str | list[str]),
        Field(max_length=64),
    ] = ()
    within: Annotated[Duration, Field(le=_WITHIN_MOST_S)] | None = None
    preflight: bool = False

    @model_validator(mode="after")
    def _makes_a_chain(self) -> Self:
        engines = self.chain
        if list(engines) != [e for e in _CHAIN if e in engines]:
            raise ValueError(
                f"engines: {', '.join(engines)} is no chain; each may stand once, in this order: "
                f"{', '.join(_CHAIN)}"
            )
        said = {"signal": self.signal, "path": self.path or None, "within": self.within}
        named = [name for name, value in said.items() if value is not None]
        if Engine.COOPERATIVE in engines:
            if self.signal is None or not self.path:
                raise ValueError(
                    "the engine cooperative needs signal (as SIGUSR1) and path, the file or files "
                    "that the program then writes"
                )
        elif named:
            raise ValueError(f"{named[0]} is for the engine cooperative; add it to engines")
        if engines == (Engine.RESTART,) and self.every:
            raise ValueError("every: the engine restart keeps nothing; leave it out")
        for path in self.path:
            _check(path)
        return self

    @property
    def chain(self) -> tuple[Engine, ...]:
        if self.engines is not None:
            return self.engines
        asked = (Engine.COOPERATIVE,) if self.signal or self.path else ()
        return (Engine.TRANSPARENT, *asked)

    def cooperation(self, workdir: str) -> Cooperation | None:
        """With absolute paths. Raises ValueError for a relative one without a `workdir`."""
        if self.signal is None:
            return None
        for path in self.path:
            if not path.startswith("/") and not workdir:
                raise ValueError(
                    f"checkpoint.path {path!r} is relative, and to nothing; say workdir too"
                )
        paths = tuple(str(PurePosixPath(workdir or "/") / path) for path in self.path)
        return Cooperation(self.signal, paths, self.within or _WITHIN_S)


def _check(path: str) -> None:
    """Raises ValueError for what names no file."""
    if path.endswith("/"):
        raise ValueError(f"path {path!r} is a directory; name the files in it")
    if ".." in PurePosixPath(path).parts:
        raise ValueError(f"path {path!r} goes up with '..'; write where it leads")
    rest = path.replace(_PLACEHOLDER, "")
    if "{" in rest or "}" in rest or "*" in rest or "?" in rest:
        raise ValueError(f"path {path!r}: of placeholders there is {_PLACEHOLDER} only")
