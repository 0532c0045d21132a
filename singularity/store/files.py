"""Blobs in a directory; several processes, on several machines, may share it.

A blob gets its name only after its bytes are on the disk; what is interrupted leaves a draft in
`incoming/`, which `tidy` removes.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Final

from .blobs import Blob

_WORKERS: Final = min(8, max(2, os.cpu_count() or 1))  # the work is the processor's
_PORTION_BYTES: Final = 256 << 20  # named together, after one flush for all of them
_TRIES: Final = 5  # against a directory that somebody removes because it has become empty
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class FileBlobs:
    workers = _WORKERS

    def __init__(self, root: Path) -> None:
        self._root, self._text, self._incoming = root, str(root), root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> bytes:
        with open(self._path(name), "rb", buffering=0) as file:
            return file.read()

    def has(self, name: str) -> bool:
        return os.path.exists(self._path(name))

    def _path(self, name: str) -> str:
        """As text: a Path takes longer to make than the call that it is made for."""
        return f"{self._text}/{name}"

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        draft = self._incoming / uuid.uuid4().hex
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            self._name(draft, name, synced=durable)
            if durable:
                _sync_directory((self._root / name).parent)
        finally:
            draft.unlink(missing_ok=True)

    @contextmanager
    def stage(self) -> Iterator[FileStage]:
        drafts = self._incoming / uuid.uuid4().hex
        drafts.mkdir()
        try:
            yield FileStage(self, drafts)
        finally:
            shutil.rmtree(drafts, ignore_errors=True)

    def list(self, prefix: str) -> Iterator[Blob]:
        for path in _walk(self._root / prefix):
            with suppress(FileNotFoundError):
                found = path.stat()
                name = path.relative_to(self._root).as_posix()
                yield Blob(name, found.st_size, found.st_mtime)

    def move(self, old: str, new: str) -> None:
        self._name(self._root / old, new)
        self._prune(old)

    def delete(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)
        self._prune(name)

    def now_s(self) -> float:
        mark = self._incoming / ".now"
        mark.touch()
        return mark.stat().st_mtime

    def tidy(self, before_s: float) -> None:
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime >= before_s:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()

    def _prune(self, name: str) -> None:
        """Remove directories that have become empty; those at the root stay."""
        with suppress(OSError):  # not empty, or gone
            for parent in Path(name).parents:
                if parent.parent != Path():
                    (self._root / parent).rmdir()

    def _name(self, draft: Path, name: str, *, synced: bool = True) -> None:
        path = self._root / name
        for _ in range(_TRIES):
            self._make(path.parent, synced)
            try:
                draft.replace(path)
            except FileNotFoundError:
                if not draft.exists():
                    raise
            else:
                return
        raise OSError(f"{path.parent} does not stay")

    def _make(self, directory: Path, synced: bool) -> None:
        """If `synced`, with its name on the disk as well."""
        if not directory.exists():
            self._make(directory.parent, synced)
            with suppress(FileNotFoundError):  # its parent was just removed; the caller tries again
                directory.mkdir(exist_ok=True)
                if synced:
                    _sync_directory(directory.parent)


class FileStage:
    """Written as drafts, named a portion at a time. Safe to share between threads."""

    def __init__(self, blobs: FileBlobs, drafts: Path) -> None:
        self._blobs, self._drafts = blobs, drafts
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._waiting: list[tuple[Path, str]] = []
        self._bytes = 0

    def put(self, name: str, data: bytes) -> None:
        draft = f"{self._drafts}/{next(self._numbers)}"
        with open(draft, "wb", buffering=0) as file:
            _write(file, data)
        with self._lock:
            self._waiting.append((Path(draft), name))
            self._bytes += len(data)
            full = self._bytes >= _PORTION_BYTES
        if full:
            self._name_all()

    def settle(self) -> None:
        self._name_all()
        _sync_filesystem(self._drafts)  # the names too

    def _name_all(self) -> None:
        with self._lock:
            ready, self._waiting, self._bytes = self._waiting, [], 0
        _sync_filesystem(self._drafts)
        for draft, name in ready:
            self._blobs._name(draft, name, synced=False)  # `settle` flushes the names


def _walk(directory: Path) -> Iterator[Path]:
    """Files below it, hidden ones apart; none when it is no directory, or is just being removed."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _write(file: FileIO, data: bytes) -> None:
    written = file.write(data)
    while written < len(data):
        written += file.write(memoryview(data)[written:])


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_filesystem(path: Path) -> None:
    """One flush for everything on `path`'s filesystem, instead of one for each blob."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if _LIBC.syncfs(handle) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(handle)
