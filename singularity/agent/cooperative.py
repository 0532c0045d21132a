"""The cooperative engine: the program saves itself when it is signalled, and begins anew from that.

Every rank is signalled, the files that the job names are awaited and kept as images, and a later
life finds them in place before its program starts. What belongs together in them is the program's
to know: a rank may get the signal a mini-batch later than another.

    rank directory in the store      files.json        what is there, and where it belongs
                                     file-0, file-1    the bytes
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from singularity.primitives.cooperation import Cooperation
from singularity.primitives.errors import CannotCarry, CheckpointFailed, RestoreFailed
from singularity.primitives.messages import Start
from singularity.primitives.model import Engine, ShardImage
from singularity.store.imagestore import RankImages, Store
from singularity.store.manifest import ImageKey
from singularity.store.vault import Vault

from .dumping import Taking
from .endings import ended_well, endings
from .gang import write_durably
from .layout import Layout
from .runtime.processes import catches, descendants, writes_to
from .runtime.sandbox import ExitRecord, Sandbox

_LOOK_EVERY_S: Final = 0.03
_SETTLE_S: Final = 0.15  # a file that nobody writes to for so long is whole
_LINGER_S: Final = 5.0  # a program that ends so soon after it saved itself was told to, it thinks
_LIST: Final = "files.json"


@dataclass(frozen=True, slots=True)
class Mark:
    """A file at one moment: any later write makes it another."""

    inode: int
    bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    mode: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """Kept on disk: the ranks of this life were signalled for `cut`, when their files were as in
    `before`; `saved_s` (of the wall clock) is when they were whole, 0 if they never were."""

    incarnation: int
    cut: int
    before: Mapping[str, Mark | None]
    saved_s: float = 0.0


_FILES, _ASKED = TypeAdapter(list[_File]), TypeAdapter(_Asked)


@dataclass(frozen=True, slots=True)
class Cooperative:
    store: Store
    layout: Layout

    # -- out -------------------------------------------------------------------------------------

    def save(self, taking: Taking) -> ShardImage:
        """Ask the ranks, wait, store; an image of this very cut that is there is the answer.

        Raises CannotCarry when a rank would not take the signal, CheckpointFailed when it ends
        without having saved itself or the cut was given up, StoreFull. No rank is harmed.
        """
        start, ref = taking.start, taking.ref
        key, vault = ImageKey(ref.job, ref.incarnation, ref.cut, start.node), Vault(start.papers)
        image = self.store.find(key, vault)
        if image is None:
            files = files_of(start)
            asked = self._ask(taking, files)
            name = f"{ref.job}.{ref.incarnation}.{ref.cut}"
            with self.layout.scratch.directory(name, _bytes(asked.before)) as directory:
                began_s = time.monotonic()
                self._await(taking, asked, files, directory)
                taking.seconds["dump"] = time.monotonic() - began_s
                self._remember(start, _Asked(ref.incarnation, ref.cut, asked.before, time.time()))
                began_s = time.monotonic()
                with self.store.saving(key, vault) as saving:
                    for rank in start.ranks:
                        saving.take(rank, RankImages(directory / str(rank)))
                    image = saving.commit(taking.step)
                taking.seconds["store"] = time.monotonic() - began_s
        return replace(image, engine=Engine.COOPERATIVE)

    def left(self, start: Start, ends: Mapping[int, ExitRecord]) -> str:
        """Why ranks that all ended well have not finished their work: they were told to save
        themselves, did, and left. "" when they are believed."""
        asked = self._asked(start)
        if asked is None or asked.incarnation != start.incarnation:
            return ""
        last_s = max(end.at_s for end in ends.values())
        saved = any(_mark(path) != mark for path, mark in asked.before.items())
        if not saved or (asked.saved_s and last_s - asked.saved_s > _LINGER_S):
            return ""
        return "its program saved itself and ended when it was signalled: it begins from there"

    def _ask(self, taking: Taking, files: Mapping[int, tuple[str, ...]]) -> _Asked:
        """Signal every rank. What an earlier agent noted for this cut before it died still holds,
        for the ranks may have saved themselves and ended since."""
        start, ref, asked = taking.start, taking.ref, self._asked(taking.start)
        if asked is None or (asked.incarnation, asked.cut) != (ref.incarnation, ref.cut):
            before = {path: _mark(path) for mine in files.values() for path in mine}
            asked = _Asked(ref.incarnation, ref.cut, before)
            if ended := endings(taking.ranks):
                raise CheckpointFailed(f"rank {min(ended)} has ended")
        cooperation = _of(start)
        number = signal.Signals[cooperation.signal]
        who = {rank: _catcher(sandbox, number) for rank, sandbox in taking.ranks.items()}
        for rank, pid in sorted(who.items()):
            if pid is None and taking.ranks[rank].exit() is None:
                raise CannotCarry(
                    f"rank {rank} has no handler for {number.name}, which would end it"
                )
        self._remember(start, asked)
        for pid in who.values():
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        return asked

    def _await(
        self, taking: Taking, asked: _Asked, files: Mapping[int, tuple[str, ...]], into: Path
    ) -> None:
        """Until every file is newer than the signal, closed and at rest, and copied as it was."""
        number = signal.Signals[_of(taking.start).signal]
        seen, since_s = dict[str, Mark | None](), time.monotonic()
        while True:
            ends = endings(taking.ranks)
            now = {path: _mark(path) for mine in files.values() for path in mine}
            if now != seen:
                seen, since_s = now, time.monotonic()
            late = _late(taking.ranks, asked.before, now)
            if not late and time.monotonic() - since_s >= _SETTLE_S:
                copied = _copy(files, into)
                if {path: _mark(path) for path in now} == now and copied:
                    return
            if late and (bad := [r for r, end in ends.items() if not _as_asked(end, number)]):
                raise CheckpointFailed(f"rank {bad[0]} ended badly, and {late}")
            if late and len(ends) == len(taking.ranks):
                raise CheckpointFailed(f"the ranks ended, and {late}")
            if taking.given_up():
                raise CheckpointFailed("the cut was given up")
            taking.waiting(late)
            time.sleep(_LOOK_EVERY_S)

    # -- back ------------------------------------------------------------------------------------

    def put_back(self, start: Start) -> None:
        """The files of the images that `start` comes from, where the program looks for them; each
        is whole at every moment, for other nodes may see the same.

        Raises ImageCorrupt, or RestoreFailed when one cannot be written or no image holds a rank.
        """
        origin = start.origin
        assert origin is not None, start
        self.store.fence(start.job, start.incarnation)
        wanted, vault = {0, *start.ranks}, Vault(start.papers)
        if missing := wanted.difference(*(shard.ranks for shard in origin.shards)):
            raise RestoreFailed(f"no image of cut {origin.cut} holds rank {min(missing)}")
        name = f"{start.job}.{start.incarnation}.0"
        expected_bytes = sum(shard.raw_bytes for shard in origin.shards)
        with self.layout.scratch.directory(name, expected_bytes) as directory:
            targets = {rank: directory / str(rank) for rank in sorted(wanted)}
            for shard in origin.shards:
                mine = {rank: targets[rank] for rank in shard.ranks if rank in targets}
                if mine:
                    key = ImageKey(start.job, origin.incarnation, origin.cut, shard.node)
                    self.store.load(key, shard.digest, mine, vault)
            for target in targets.values():
                _put_back(target)

    # -- what is remembered ----------------------------------------------------------------------

    def _asked(self, start: Start) -> _Asked | None:
        with suppress(FileNotFoundError, ValidationError):
            return _ASKED.validate_json(self.layout.asked(start.job).read_bytes())
        return None

    def _remember(self, start: Start, asked: _Asked) -> None:
        write_durably(self.layout.asked(start.job), _ASKED.dump_json(asked))


def begins_from_files(start: Start) -> bool:
    """Is its program started anew, from what it saved itself?"""
    return start.origin is not None and start.origin.shards[0].engine is Engine.COOPERATIVE


def files_of(start: Start) -> dict[int, tuple[str, ...]]:
    """What each rank of this node writes; what is the whole job's is rank 0's to write."""
    paths = _of(start).paths
    return {
        rank: tuple(
            path.replace("{rank}", str(rank)) for path in paths if rank == 0 or "{rank}" in path
        )
        for rank in start.ranks
    }


def _of(start: Start) -> Cooperation:
    if start.cooperation is None:
        raise CannotCarry("the job does not say how its program saves itself")
    return start.cooperation


def _catcher(sandbox: Sandbox, number: signal.Signals) -> int | None:
    """The rank, or what it started first that takes the signal: `sh -c` does not."""
    pid = sandbox.pid
    if pid is None:
        return None
    return next((p for p in (pid, *descendants(pid)) if catches(p, number)), None)


def _late(
    ranks: Mapping[int, Sandbox],
    before: Mapping[str, Mark | None],
    now: Mapping[str, Mark | None],
) -> str:
    """The first file that is not there yet, in words; "" when all are."""
    for path, mark in now.items():
        if mark is None:
            return f"{path} is not there"
        if mark == before.get(path):
            return f"{path} is not newer than the signal"
    for path in now:
        pids = [pid for sandbox in ranks.values() if (pid := sandbox.pid) is not None]
        if any(writes_to(p, path) for pid in pids for p in (pid, *descendants(pid))):
            return f"{path} is still being written"
    return ""


def _as_asked(end: ExitRecord, number: signal.Signals) -> bool:
    return ended_well(end) or end.signal == number


def _bytes(marks: Mapping[str, Mark | None]) -> int:
    return sum(mark.bytes for mark in marks.values() if mark is not None)


def _mark(path: str) -> Mark | None:
    with suppress(OSError):
        found = os.stat(path)
        return Mark(found.st_ino, found.st_size, found.st_mtime_ns)
    return None


def _copy(files: Mapping[int, tuple[str, ...]], into: Path) -> bool:
    """The files of each rank in a directory of its own; False when one is gone meanwhile."""
    for rank, paths in files.items():
        directory = into / str(rank)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        listed = []
        for number, path in enumerate(paths):
            try:
                shutil.copyfile(path, directory / f"file-{number}")
                found = os.stat(path)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise CheckpointFailed(f"{path} cannot be copied: {error}") from error
            listed.append(_File(path, found.st_mode & 0o7777, found.st_mtime_ns))
        (directory / _LIST).write_bytes(_FILES.dump_json(listed))
    return True


def _put_back(directory: Path) -> None:
    try:
        listed = _FILES.validate_json((directory / _LIST).read_bytes())
        for number, file in enumerate(listed):
            target = Path(file.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            shutil.copyfile(directory / f"file-{number}", draft)
            draft.chmod(file.mode)
            os.utime(draft, ns=(file.modified_ns, file.modified_ns))
            draft.replace(target)
    except (OSError, ValidationError) as error:
        raise RestoreFailed(f"what the program saved cannot be put back: {error}") from error
