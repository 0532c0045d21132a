"""Why jobs wait. Those of a line are told the same, at once; they are only named one by one when
somebody asks for one of them, which a round does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

from singularity.primitives.model import JobId


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that keeps a job waiting: a stable `kind`, and a sentence with the numbers."""

    kind: str
    detail: str


Told = tuple[Reason, ...]


class Pending(Mapping[JobId, Told]):
    """`each` is told by itself; of each of `lines`, which are ids, all from one on. Whoever has
    `acted` does not wait."""

    def __init__(
        self,
        each: Mapping[JobId, Told],
        lines: Sequence[tuple[tuple[JobId, ...], int, Told]],
        acted: AbstractSet[JobId],
    ) -> None:
        self.each = {job: told for job, told in each.items() if job not in acted}
        self._lines, self._acted = tuple(lines), acted
        self._told_from = {id(ids): at for ids, at, _ in self._lines}

    def untold(self, line: tuple[JobId, ...]) -> tuple[JobId, ...]:
        """Those of a line that were not told together. Costs nothing for one that was."""
        return line[: self._told_from.get(id(line), len(line))]

    @cached_property
    def _all(self) -> Mapping[JobId, Told]:
        found = dict[JobId, Told]()
        for ids, at, told in self._lines:
            found.update(dict.fromkeys(ids[at:], told))
        for job in self._acted:
            found.pop(job, None)
        return found | self.each

    def __getitem__(self, job: JobId) -> Told:
        return self._all[job]

    def __iter__(self) -> Iterator[JobId]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __bool__(self) -> bool:
        rest = (job for ids, at, _ in self._lines for job in ids[at:] if job not in self._acted)
        return bool(self.each) or next(rest, None) is not None
