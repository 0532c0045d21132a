"""From parked ranks to a durable shard image and back: dump, store, fetch, restore; or past the
store, to be handed over."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from singularity.primitives.errors import CannotCarry, CheckpointFailed, RestoreFailed
from singularity.primitives.messages import Origin, Start
from singularity.primitives.model import JobId, ShardImage
from singularity.store.imagestore import RankImages, Store
from singularity.store.manifest import ImageKey
from singularity.store.vault import Vault

from . import processors
from .checkpoint import Checkpointer, SuspendInPlace
from .families import forget_page
from .gang import CutRef
from .handover import Handovers, reference
from .interposer.family import members
from .interposer.page import Page, ParkRecord, State
from .layout import Layout
from .runtime.sandbox import Sandbox
from .scratch import resident_bytes

_SIDE_BY_SIDE: Final = 4
_PAGE: Final = "page"  # the rank's control page travels with its image
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Fetched:
    """The images of every rank that does not stand here already, in a directory of its number below
    `directory`. `restore` brings one into a sandbox, its control page first; `adopt` is the sandbox
    of one that is `standing`."""

    directory: Path
    restore: Callable[[int, Sandbox], None]
    standing: frozenset[int]
    adopt: Callable[[int], Sandbox]


@dataclass(frozen=True, slots=True)
class Images:
    """`restore_deadline_s` bounds one rank's restore; nothing ever bounds a dump."""

    checkpointer: Checkpointer
    store: Store
    layout: Layout
    handovers: Handovers
    restore_deadline_s: float
    processor: processors.Processor
    sharers_stuck: str = ""  # why no rank with a share of a device can be dumped here

    @property
    def obstacle(self) -> str:
        """Why no rank of this node can be dumped, "" where they can."""
        found = self.checkpointer
        return found.reason if isinstance(found, SuspendInPlace) else ""

    def save(
        self,
        start: Start,
        ref: CutRef,
        step: int,
        ranks: Mapping[int, Sandbox],
        seconds: dict[str, float],
    ) -> ShardImage:
        """Dump every rank and store the images, each as soon as it is there; durable on return. An
        image of this very cut that is already there is the answer: an agent that died after storing
        it comes by again. Into `seconds` go `dump`, to the end of the last one, and `store`, what
        is left to do then.

        Raises CheckpointFailed (CannotCarry when it will never be otherwise) or StoreFull; the
        ranks run on (parked) and nothing is half there.
        """
        self._check(start)
        key, vault = ImageKey(ref.job, ref.incarnation, ref.cut, start.node), Vault(start.papers)
        if (found := self.store.find(key, vault)) is not None:
            return found
        expected_bytes = sum(resident_bytes(sandbox) for sandbox in ranks.values())
        began_s = time.monotonic()
        with (
            self.layout.scratch.directory(_label(ref), expected_bytes) as directory,
            self.store.saving(key, vault) as saving,
        ):
            dumped_s = [began_s]

            def take(rank: int) -> None:
                images = self._dump(ref.job, rank, ranks[rank], directory / str(rank))
                dumped_s.append(time.monotonic())
                saving.take(rank, images)
                shutil.rmtree(images.path)

            _side_by_side(take, ranks)
            image = saving.commit(step)
        seconds["dump"] = max(dumped_s) - began_s
        seconds["store"] = time.monotonic() - max(dumped_s)
        return image

    def hold(
        self,
        start: Start,
        ref: CutRef,
        step: int,
        ranks: Mapping[int, Sandbox],
        seconds: dict[str, float],
    ) -> ShardImage:
        """Dump `ranks` into this node's memory, for the next life to begin from; the other ranks of
        `start` are to stand. It is there until it is let go of. Raises as `save` does."""
        self._check(start)
        began_s = time.monotonic()
        expected_bytes = sum(resident_bytes(sandbox) for sandbox in ranks.values())
        kept = self.handovers.room(ref, start.papers, expected_bytes)

        def take(rank: int) -> int:
            images = self._dump(ref.job, rank, ranks[rank], kept.directory / str(rank))
            return sum(file.stat().st_size for file in images.path.iterdir())

        try:
            dumped_bytes = _side_by_side(take, ranks)
        except BaseException:
            self.handovers.let_go(ref.job, ref.incarnation)
            raise
        seconds["dump"] = time.monotonic() - began_s
        held = self.handovers.held(kept, tuple(sorted(set(start.ranks) - set(ranks))))
        raw_bytes = sum(dumped_bytes.values())
        return ShardImage(start.node, start.ranks, "", step, raw_bytes=raw_bytes, held=held)

    def _check(self, start: Start) -> None:
        if self.obstacle:
            raise CannotCarry(f"this node cannot move ranks: {self.obstacle}", here=True)
        if start.share and self.sharers_stuck:
            raise CannotCarry(self.sharers_stuck)

    def _dump(self, job: JobId, rank: int, sandbox: Sandbox, target: Path) -> RankImages:
        try:
            dumped = self.checkpointer.dump(sandbox, target)
        except CannotCarry as error:
            raise CannotCarry(f"rank {rank}: {error.detail}", here=error.here) from error
        except CheckpointFailed as error:
            raise CheckpointFailed(f"rank {rank}: {error.detail}") from error
        processors.note(target, self.processor)
        page = self.layout.page(job, rank)
        tensors: list[tuple[int, int]] = []
        for path in (page, *members(page).glob("*.page")):
            shutil.copyfile(path, target / (_PAGE if path == page else f"{_PAGE}.{path.stem}"))
            if Page(path).state is State.PARKED:
                tensors += ParkRecord.load(path).tensors
        return RankImages(target, dumped.files, tensors)

    @contextmanager
    def fetched(self, start: Start) -> Iterator[Fetched]:
        """Bring the images of `start`'s ranks here, every byte verified. They are gone with the
        context.

        Raises ImageCorrupt, ImageUnfit when this node's processors cannot run one, or RestoreFailed
        when no image holds a rank.
        """
        origin = start.origin
        assert origin is not None, start
        vault = Vault(start.papers)
        owner = start.aside.of if start.aside else start.job
        if start.aside is None:
            self.store.fence(start.job, start.incarnation)
        holders = {rank: _holder(origin, rank) for rank in start.ranks}
        standing = frozenset(r for r, held in holders.items() if _stands(held, r, start))
        wanted = {rank: held for rank, held in holders.items() if rank not in standing}
        with self.layout.scratch.directory(
            f"{start.job}.{start.incarnation}.0", _share_bytes(wanted.values())
        ) as directory:

            def bring(shard: ShardImage) -> None:
                targets = {r: directory / str(r) for r, held in wanted.items() if held is shard}
                if shard.held is None:
                    key = ImageKey(owner, origin.incarnation, origin.cut, shard.node)
                    self.store.load(key, shard.digest, targets, vault)
                    return
                ref = reference(start, origin)
                _side_by_side(
                    lambda r: self.handovers.fetch(ref, shard, r, targets[r], vault), targets
                )

            def restore(rank: int, sandbox: Sandbox) -> None:
                page = self.layout.page(start.job, rank)
                forget_page(page)
                found = directory / str(rank)
                for path in (found / _PAGE, *found.glob(f"{_PAGE}.[0-9]*")):
                    pid = path.suffix.removeprefix(".")
                    target = members(page) / f"{pid}.page" if pid else page
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(path, target)  # others may begin from it too
                    target.chmod(0o600)  # CRIU insists on the mode that the rank mapped it with
                images = directory / str(rank)
                self.checkpointer.restore(sandbox, images, self.restore_deadline_s)

            for shard in origin.shards:
                if shard in wanted.values():
                    bring(shard)
            for rank in wanted:
                processors.check(directory / str(rank), self.processor)
            yield Fetched(
                directory, restore, standing, lambda rank: self.handovers.adopt(start, rank)
            )


def _label(ref: CutRef) -> str:
    return f"{ref.job}.{ref.incarnation}.{ref.cut}"


def _holder(origin: Origin, rank: int) -> ShardImage:
    for shard in origin.shards:
        if rank in shard.ranks:
            return shard
    raise RestoreFailed(f"no image of cut {origin.cut} holds rank {rank}")


def _stands(shard: ShardImage, rank: int, start: Start) -> bool:
    return shard.held is not None and shard.node == start.node and rank in shard.held.standing


def _share_bytes(shards: Iterable[ShardImage]) -> int:
    """What ranks will need, one of each of `shards`, if the ranks of a shard are alike."""
    return sum(shard.raw_bytes // len(shard.ranks) for shard in shards)


def _side_by_side(do: Callable[[int], _Result], ranks: Iterable[int]) -> dict[int, _Result]:
    """`do` for every rank at once; when one fails, its error, after all have ended."""
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        futures = {rank: pool.submit(do, rank) for rank in ranks}
    return {rank: future.result() for rank, future in futures.items()}
