"""Handovers: what a node keeps in memory of ranks that go on elsewhere at once.

The images of such a cut go into no store. Whoever has the token is given them, rank by rank: a node
of this machine by a link to each file, another as a stream over the agents' own line, sealed as a
chunk in the store would be, signed at its end by the life that was dumped. Ranks that stay on the
node are not dumped at all: they stand where they were parked until the gang's next life wakes them.
All of it outlives the agent, and ends with the machine, or with the word that nobody needs it.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final, Protocol

from blake3 import blake3
from pydantic import TypeAdapter, ValidationError

from singularity.primitives.errors import ImageCorrupt, NodeUnreachable, Unavailable
from singularity.primitives.messages import Origin, Papers, Start
from singularity.primitives.model import Held, JobId, ShardImage
from singularity.primitives.nodes import NodeId
from singularity.store.vault import Life, Vault

from .families import forget_page
from .gang import CutRef, write_durably
from .layout import Layout
from .runtime.processes import boot_id
from .runtime.sandbox import Sandbox
from .scratch import KEPT

log = logging.getLogger(__name__)

_PATH: Final = "/handovers/"
_FRAME_BYTES: Final = 4 << 20
_FRAME_MOST_BYTES: Final = _FRAME_BYTES + 4096  # sealed
_QUIET_S: Final = 20.0  # without a byte from the node that keeps it
_PATIENCE_S: Final = 30.0  # with an agent that is away: it may be starting again
_PAUSE_S: Final = 0.5
_HEAD: Final = TypeAdapter(tuple[str, int])


class _Source(Protocol):
    def read(self, amount: int, /) -> bytes: ...


@dataclass(slots=True)
class Kept:
    """One node's part of one handover. `standing` are there once the cut is over."""

    ref: CutRef
    directory: Path  # holds the images of each rank in a directory of its number
    papers: Papers | None
    token: str
    standing: dict[int, Sandbox] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Record:
    """What the next agent must know of it. It lies with the images, as private as they are."""

    ref: CutRef
    papers: Papers | None
    token: str
    standing: Mapping[int, Path]


_RECORD: Final = TypeAdapter(_Record)


class Handovers:
    """Of one node, one a job. Thread-safe. `address_of` finds where another node's agent listens,
    as long as the control plane answers."""

    def __init__(self, layout: Layout, address_of: Callable[[NodeId], str]) -> None:
        self._layout, self._address_of = layout, address_of
        self._lock = threading.Lock()
        self._kept: dict[JobId, Kept] = {}
        self._recalled = not any(layout.scratch.kept())

    def recall(self, live: Container[tuple[JobId, int]], found: dict[Path, Sandbox]) -> None:
        """Take over what the agent before kept, and of the sandboxes `found` here those that stand
        for it. One whose life is still `live` never came to its end: it is cut anew."""
        for directory in list(self._layout.scratch.kept()):
            record = _RECORD.validate_json((directory / KEPT).read_bytes())
            ref = record.ref
            if (ref.job, ref.incarnation) in live:
                self._layout.scratch.remove(directory.name)
                continue
            standing = {r: found.pop(p) for r, p in record.standing.items() if p in found}
            with self._lock:
                self._kept[ref.job] = Kept(ref, directory, record.papers, record.token, standing)
        self._recalled = True

    # -- at the node that ranks leave ------------------------------------------------------------

    def room(self, ref: CutRef, papers: Papers | None, expected_bytes: int) -> Kept:
        """Somewhere to dump to. Of an earlier handover of the job nothing is left then."""
        self.let_go(ref.job, ref.incarnation)
        token = secrets.token_hex(16)
        # Nobody finds the directory of another handover by that name, on whatever machine.
        name = f"{ref.job}.{ref.incarnation}.{ref.cut}.{token}"
        kept = Kept(ref, self._layout.scratch.make(name, expected_bytes), papers, token)
        with self._lock:
            self._kept[ref.job] = kept
        return kept

    def held(self, kept: Kept, standing: tuple[int, ...]) -> Held:
        """What a later life is told, to find it."""
        return Held(kept.token, boot_id(), str(kept.directory), standing)

    def stand(self, ref: CutRef, ranks: Mapping[int, Sandbox]) -> None:
        """The cut is over, and `ranks` wait here for the next life of their gang. From here on the
        next agent finds it too."""
        with self._lock:
            kept = self._kept.get(ref.job)
            if kept is not None and kept.ref == ref:
                kept.standing.update(ranks)
                places = {rank: sandbox.directory for rank, sandbox in ranks.items()}
                record = _Record(ref, kept.papers, kept.token, places)
                try:
                    write_durably(kept.directory / KEPT, _RECORD.dump_json(record))
                except OSError as error:
                    log.warning("an agent after this one will not find it: %s", error)
                return
        self._end(ref.job, ranks)  # the node began anew meanwhile

    def give(self, path: str, token: str) -> Iterator[bytes] | None:
        """The stream that answers GET `path`; None where there is nothing for that token. Raises
        NodeUnreachable while that is not known yet."""
        if not self._recalled:
            raise NodeUnreachable("this agent has only begun")
        rank, shown = path.removeprefix(_PATH), token.encode()
        with self._lock:
            kept = self._kept.values()
            found = [k for k in kept if hmac.compare_digest(k.token.encode(), shown)]
        if not found or not rank.isdecimal() or not (found[0].directory / rank).is_dir():
            return None
        return _sent(found[0], int(rank))

    # -- at the node where they go on ------------------------------------------------------------

    def adopt(self, start: Start, rank: int) -> Sandbox:
        """A rank of `start` that has been standing here. Raises ImageCorrupt where it is gone."""
        with self._lock:
            kept = self._kept.get(start.job)
            found = kept.standing.pop(rank, None) if kept else None
        if found is None or not found.alive():
            raise ImageCorrupt(f"rank {rank} was to wait on {start.node}, and is gone")
        found.rename(self._layout.sandbox(start, rank))
        return found

    def fetch(self, ref: CutRef, image: ShardImage, rank: int, target: Path, vault: Vault) -> None:
        """The images of `rank` into the absent directory `target`, whole and as they were made.

        Raises ImageCorrupt where they are no more to be had, ImageForged where they are another's.
        """
        held = image.held
        assert held is not None, image
        near = held.machine == boot_id() and _linked(Path(held.directory) / str(rank), target)
        deadline_s = time.monotonic() + _PATIENCE_S
        while not near:
            try:
                _download(self._address_of(image.node), held, ref, rank, target, vault)
                break
            except (OSError, HTTPException, EOFError, Unavailable) as error:
                if time.monotonic() > deadline_s:
                    told = f"{image.node} does not give rank {rank}: {error}"
                    raise ImageCorrupt(told) from error
            time.sleep(_PAUSE_S)

    # -- the end ---------------------------------------------------------------------------------

    def let_go(self, job: JobId, incarnation: int) -> None:
        """Nobody will ask any more for what lives up to `incarnation` have left."""
        with self._lock:
            kept = self._kept.get(job)
            if kept is None or kept.ref.incarnation > incarnation:
                return
            del self._kept[job]
        self._end(job, kept.standing)
        self._layout.scratch.remove(kept.directory.name)

    def clear(self) -> None:
        with self._lock:
            kept = [k.ref for k in self._kept.values()]
        for ref in kept:
            self.let_go(ref.job, ref.incarnation)

    def _end(self, job: JobId, ranks: Mapping[int, Sandbox]) -> None:
        for rank, sandbox in ranks.items():
            sandbox.remove()
            forget_page(self._layout.page(job, rank))


def reference(start: Start, origin: Origin) -> CutRef:
    """The cut that `origin` names, of the job itself."""
    return CutRef(start.job, origin.incarnation, origin.cut)


def _download(address: str, held: Held, ref: CutRef, rank: int, target: Path, vault: Vault) -> None:
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=_QUIET_S)
    try:
        known = {"Authorization": f"Bearer {held.token}"}
        connection.request("GET", f"{_PATH}{rank}", headers=known)
        response = connection.getresponse()
        if response.status == HTTPStatus.NOT_FOUND:
            raise ImageCorrupt(f"rank {rank} of cut {ref.cut} is kept no more")
        if response.status != HTTPStatus.OK:
            raise NodeUnreachable(f"the agent answers {response.status}")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        _received(response, ref, rank, target, vault)
    finally:
        connection.close()


def _linked(source: Path, target: Path) -> bool:
    """On one machine the files need not be moved, nor looked at: they have not left its memory."""
    if not source.is_dir():
        return False
    target.mkdir(parents=True)
    try:
        for file in source.iterdir():
            os.link(file, target / file.name)
    except OSError:  # they lie on another file system
        shutil.copytree(source, target, dirs_exist_ok=True)
    return True


# -- one rank as a stream of frames: a length of 4 bytes, then so many bytes, sealed --------------
# Each file is a frame with its name and size, then its bytes; an empty name ends them, and the
# digests of all, signed, come last.


def _sent(kept: Kept, rank: int) -> Iterator[bytes]:
    digests: dict[str, str] = {}
    vault = Vault(kept.papers)
    frames = _Sealed(kept.ref, rank, vault)
    for file in sorted((kept.directory / str(rank)).iterdir()):
        hasher = blake3()
        yield frames.seal(json.dumps([file.name, file.stat().st_size]).encode())
        with file.open("rb") as source:
            while data := source.read(_FRAME_BYTES):
                hasher.update(data)
                yield frames.seal(data)
        digests[file.name] = hasher.hexdigest()
    yield frames.seal(json.dumps(["", 0]).encode())
    life = Life(kept.ref.job, kept.ref.incarnation)
    yield _framed(vault.sign(life, _statement(kept.ref, rank, digests)))


def _received(source: _Source, ref: CutRef, rank: int, target: Path, vault: Vault) -> None:
    """Raises EOFError where the stream ends too soon."""
    digests: dict[str, str] = {}
    frames = _Sealed(ref, rank, vault)
    while True:
        name, size = _head(frames.unseal(_frame(source)))
        if not name:
            break
        hasher = blake3()
        with (target / name).open("xb") as file:
            while file.tell() < size:
                data = frames.unseal(_frame(source))
                hasher.update(data)
                file.write(data)
        digests[name] = hasher.hexdigest()
    if vault.read(Life(ref.job, ref.incarnation), _frame(source)) != _statement(ref, rank, digests):
        raise ImageCorrupt(f"rank {rank} of cut {ref.cut} was changed on its way")


def _head(data: bytes) -> tuple[str, int]:
    """The name and the size of the file that follows."""
    try:
        name, size = _HEAD.validate_json(data)
    except ValidationError as error:
        raise ImageCorrupt("the stream of a handover is out of order") from error
    if Path(name).name != name:
        raise ImageCorrupt(f"the stream of a handover names a file {name}")
    return name, size


class _Sealed:
    """Frames in their order: one that is left out, repeated or of another stream does not open."""

    def __init__(self, ref: CutRef, rank: int, vault: Vault) -> None:
        self._vault, self._number = vault, 0
        self._stream = f"handover {ref.job} {ref.incarnation} {ref.cut} {rank}"

    def seal(self, data: bytes) -> bytes:
        return _framed(self._vault.seal(self._label(), data))

    def unseal(self, data: bytes) -> bytes:
        return self._vault.unseal(self._label(), data)

    def _label(self) -> str:
        self._number += 1
        return f"{self._stream} {self._number}"


def _statement(ref: CutRef, rank: int, digests: Mapping[str, str]) -> bytes:
    return json.dumps(["handover", ref.cut, rank, dict(sorted(digests.items()))]).encode()


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _frame(source: _Source) -> bytes:
    length = int.from_bytes(_exactly(source, 4), "big")
    if length > _FRAME_MOST_BYTES:
        raise ImageCorrupt(f"a frame of {length} bytes is no part of a handover")
    return _exactly(source, length)


def _exactly(source: _Source, amount: int) -> bytes:
    parts = []
    while amount:
        part = source.read(amount)
        if not part:
            raise EOFError("the stream ended too soon")
        parts.append(part)
        amount -= len(part)
    return b"".join(parts)
