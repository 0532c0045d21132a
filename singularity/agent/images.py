"""From parked ranks to a durable shard image and back: dump, store, fetch, restore; or past the
store, to be handed over."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from singularity.primitives.errors import CannotCarry, CheckpointFailed, RestoreFailed
from singularity.primitives.messages import Origin, Start
from singularity.primitives.model import JobId, ShardImage
from singularity.store.imagestore import Copy, RankImages, Store
from singularity.store.manifest import ImageKey
from singularity.store.vault import Vault

from . import processors
from .checkpoint import Checkpointer, SuspendInPlace, roll_back
from .families import forget_page
from .gang import CutRef
from .handover import Handovers, reference
from .interposer.family import members
from .interposer.page import Page, ParkRecord, State
from .layout import Layout
from .recent import Recent, Standing, end_all, link
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
    recent: Recent
    restore_deadline_s: float
    processor: processors.Processor
    reseat: Callable[[Start, int, Sandbox, Path], None]  # before a rank with a share is restored
    sharers_stuck: str = ""  # why no rank with a share of a device can be dumped here
    fixed: str = ""  # why ranks here keep the devices that they see, whoever is given those

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
        keeping = self.recent.room(expected_bytes)
        began_s = time.monotonic()
        dumped_s = [began_s]

        def dump(rank: int) -> RankImages:
            images = self._dump(ref.job, rank, ranks[rank], directory / str(rank))
            dumped_s.append(time.monotonic())
            return images

        with (
            self.layout.scratch.directory(_label(ref), expected_bytes) as directory,
            ThreadPoolExecutor(_SIDE_BY_SIDE) as pool,  # nothing leaves it while a dump goes on
        ):
            dumps = {pool.submit(dump, rank): rank for rank in ranks}
            with self.store.saving(key, vault, self.recent.of(ref.job)) as saving:
                for done in as_completed(dumps):
                    saving.take(dumps[done], done.result())
                    if not keeping:
                        shutil.rmtree(directory / str(dumps[done]))
                image = saving.commit(step)
            if keeping:
                copies = {r: Copy(key, image.digest, directory / str(r)) for r in ranks}
                self.recent.keep(ref.job, start.project, copies, directory)
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
            raise CannotCarry(self.sharers_stuck, here=True)

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
        """Bring the images of `start`'s ranks here, every byte verified that has left this node's
        memory. Those that stand here need none. They are gone with the context.

        Raises ImageCorrupt, ImageUnfit when this node's processors cannot run one, or RestoreFailed
        when no image holds a rank.
        """
        origin = start.origin
        assert origin is not None, start
        if start.aside is None:
            self.store.fence(start.job, start.incarnation)
        holders = {rank: _holder(origin, rank) for rank in start.ranks}
        standing = frozenset(r for r, held in holders.items() if _stands(held, r, start))
        with ExitStack() as stack:
            woken = self._woken(start, holders)
            stack.callback(end_all, woken)  # whom nobody has adopted
            wanted = {r: h for r, h in holders.items() if r not in standing and r not in woken}
            expected_bytes = _share_bytes(wanted.values())
            scratch = self.layout.scratch.directory(
                f"{start.job}.{start.incarnation}.0", expected_bytes
            )
            directory = stack.enter_context(scratch)

            def adopt(rank: int) -> Sandbox:
                if rank not in woken:
                    return self.handovers.adopt(start, rank)
                found, page = woken.pop(rank), self.layout.page(start.job, rank)
                found.page.rename(page)
                found.sandbox.rename(self.layout.sandbox(start, rank))
                found.sandbox.thaw()
                return found.sandbox

            def restore(rank: int, sandbox: Sandbox) -> None:
                self._restore(start, rank, directory / str(rank), sandbox)

            stored: dict[int, Copy] = {}
            for shard in origin.shards:
                targets = {r: directory / str(r) for r, held in wanted.items() if held is shard}
                if targets and shard.held is None:
                    stored |= self._bring(start, shard, targets, stored)
                elif targets:
                    self._hand_over(start, shard, targets)
            for rank in wanted:
                processors.check(directory / str(rank), self.processor)
            yield Fetched(directory, restore, standing.union(woken), adopt)
            if stored and start.aside is None:
                self.recent.keep(start.job, start.project, stored, directory)

    def _restore(self, start: Start, rank: int, images: Path, sandbox: Sandbox) -> None:
        page = self.layout.page(start.job, rank)
        forget_page(page)
        for path in (images / _PAGE, *images.glob(f"{_PAGE}.[0-9]*")):
            pid = path.suffix.removeprefix(".")
            target = members(page) / f"{pid}.page" if pid else page
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)  # others may begin from it too
            target.chmod(0o600)  # CRIU insists on the mode that the rank mapped it with
        self.reseat(start, rank, sandbox, images)
        self.checkpointer.restore(sandbox, images, self.restore_deadline_s)

    def stand(self, start: Start, ref: CutRef, ranks: Mapping[int, Sandbox]) -> bool:
        """Keep `ranks`, which are parked and were saved by `ref`, for as long as there is memory;
        False where they are to be ended. One that holds more than memory would be in the way, and
        so would a share of a device, or devices by name: they are given to others, and the job's
        next may be other ones."""
        if start.share is not None or self.fixed:
            return False
        copies = self.recent.of(ref.job)
        if not all(r in copies and self.checkpointer.idle(copies[r].path) for r in ranks):
            return False
        standing: dict[int, Standing] = {}
        for rank, sandbox in ranks.items():
            page = self.layout.page(ref.job, rank)
            kept = page.with_name(f"{page.stem}.{ref.incarnation}.standing")
            page.rename(kept)  # not a link: a dump finds the page by the name that it was mapped by
            standing[rank] = Standing(sandbox, kept)
        stands = self.recent.stand(ref.job, ref.cut, standing)
        for one in () if stands else standing.values():
            one.page.unlink(missing_ok=True)
        return stands

    def _woken(self, start: Start, holders: Mapping[int, ShardImage]) -> dict[int, Standing]:
        """Ranks that have only to be woken, for it is here that this very cut released them. What
        others wrote since, who went on from it too, is cut off their output files."""
        origin = start.origin
        if start.aside is not None or origin is None:
            return {}
        names = {
            rank: (ImageKey(start.job, origin.incarnation, origin.cut, shard.node), shard.digest)
            for rank, shard in holders.items()
        }
        copies = self.recent.of(start.job)
        woken = self.recent.wake(start.job, names)
        for rank in list(woken):
            try:
                roll_back(copies[rank].path)
            except (OSError, ValueError):  # the images are on their way out
                woken.pop(rank).end()
        return woken

    def _bring(
        self,
        start: Start,
        shard: ShardImage,
        targets: Mapping[int, Path],
        brought: Mapping[int, Copy],
    ) -> dict[int, Copy]:
        """From this node's memory where that still has them, else from the store, but for what is
        like memory that is here: that of ranks just `brought`, and of recent cuts. To verify a
        checkpoint is to read what is stored."""
        assert start.origin is not None, start
        vault = Vault(start.papers)
        owner = start.aside.of if start.aside else start.job
        key = ImageKey(owner, start.origin.incarnation, start.origin.cut, shard.node)
        copies = {rank: Copy(key, shard.digest, target) for rank, target in targets.items()}
        known = {} if start.aside else self.recent.of(owner)
        for rank, copy in copies.items():
            near = known.get(rank)
            if near is not None and (near.key, near.digest) == (key, shard.digest):
                with suppress(OSError):  # then it is not whole
                    link(near.path, copy.path)
        linked = {rank: copy for rank, copy in copies.items() if copy.path.exists()}
        whole = self.store.whole(linked, vault) if linked else frozenset()
        rest = {rank: target for rank, target in targets.items() if rank not in whole}
        for target in rest.values():
            shutil.rmtree(target, ignore_errors=True)
        if rest:
            like = () if start.aside else (brought, *self.recent.near(owner, start.project))
            self.store.load(key, shard.digest, rest, vault, like)
        return copies

    def _hand_over(self, start: Start, shard: ShardImage, targets: Mapping[int, Path]) -> None:
        assert start.origin is not None, start
        ref, vault = reference(start, start.origin), Vault(start.papers)
        _side_by_side(lambda r: self.handovers.fetch(ref, shard, r, targets[r], vault), targets)


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
