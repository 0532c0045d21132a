"""From parked ranks to a durable shard image and back: dump, store, fetch, restore."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from singularity.primitives.errors import CheckpointFailed, RestoreFailed
from singularity.primitives.messages import Start
from singularity.primitives.model import ShardImage

from .checkpoint import Checkpointer, SuspendInPlace
from .gang import CutRef
from .interposer.page import Page, ParkRecord, State
from .layout import Layout
from .runtime.sandbox import Sandbox
from .store import ImageKey, RankImages, Store

_SIDE_BY_SIDE: Final = 4
_PAGE: Final = "page"  # the rank's control page travels with its image
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Images:
    """`restore_deadline_s` bounds one rank's restore; nothing ever bounds a dump."""

    checkpointer: Checkpointer
    store: Store
    layout: Layout
    restore_deadline_s: float

    def save(
        self,
        start: Start,
        ref: CutRef,
        step: int,
        ranks: Mapping[int, Sandbox],
        seconds: dict[str, float],
    ) -> ShardImage:
        """Dump every rank and store the images; durable on return. An image of this very cut that
        is already there is the answer: an agent that died after storing it comes by again.

        Raises CheckpointFailed or StoreFull; the ranks run on (parked) and nothing is half there.
        """
        if isinstance(self.checkpointer, SuspendInPlace):
            raise CheckpointFailed(f"this node cannot move ranks: {self.checkpointer.reason}")
        key = ImageKey(ref.job, ref.incarnation, ref.cut, start.node)
        if (found := self.store.find(key)) is not None:
            return found
        with self._scratch(ref.job, ref.incarnation, ref.cut) as directory:
            began_s = time.monotonic()

            def dump(rank: int) -> RankImages:
                try:
                    dumped = self.checkpointer.dump(ranks[rank], directory / str(rank))
                except CheckpointFailed as error:
                    raise CheckpointFailed(f"rank {rank}: {error.detail}") from error
                page = self.layout.page(ref.job, rank)
                shutil.copyfile(page, directory / str(rank) / _PAGE)
                parked = Page(page).state is State.PARKED
                tensors = ParkRecord.load(page).tensors if parked else ()
                return RankImages(directory / str(rank), dumped.files, tensors)

            dumps = _side_by_side(dump, ranks)
            seconds["dump"] = time.monotonic() - began_s
            began_s = time.monotonic()
            image = self.store.save(key, step, dumps)
            seconds["store"] = time.monotonic() - began_s
        return image

    @contextmanager
    def fetched(self, start: Start) -> Iterator[Callable[[int, Sandbox], None]]:
        """Bring the images of `start`'s ranks here, every byte verified. Inside the context, the
        value restores one rank into a sandbox, its control page first.

        Raises ImageCorrupt, or RestoreFailed when no image holds a rank.
        """
        origin = start.origin
        assert origin is not None, start
        self.store.fence(start.job, start.incarnation)
        with self._scratch(start.job, start.incarnation, 0) as directory:

            def fetch(rank: int) -> None:
                shard = next((s for s in origin.shards if rank in s.ranks), None)
                if shard is None:
                    raise RestoreFailed(f"no image of cut {origin.cut} holds rank {rank}")
                key = ImageKey(start.job, origin.incarnation, origin.cut, shard.node)
                self.store.load(key, shard.digest, rank, directory / str(rank))

            def restore(rank: int, sandbox: Sandbox) -> None:
                page = self.layout.page(start.job, rank)
                page.unlink(missing_ok=True)
                shutil.move(directory / str(rank) / _PAGE, page)
                page.chmod(0o600)  # CRIU insists on the mode that the rank mapped it with
                images = directory / str(rank)
                self.checkpointer.restore(sandbox, images, self.restore_deadline_s)

            _side_by_side(fetch, start.ranks)
            yield restore

    @contextmanager
    def _scratch(self, job: str, incarnation: int, cut: int) -> Iterator[Path]:
        directory = self.layout.scratch / f"{job}.{incarnation}.{cut}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _side_by_side(do: Callable[[int], _Result], ranks: Iterable[int]) -> dict[int, _Result]:
    """`do` for every rank at once; when one fails, its error, after all have ended."""
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        futures = {rank: pool.submit(do, rank) for rank in ranks}
    return {rank: future.result() for rank, future in futures.items()}
