"""The file that a backup is: a zip, which every system can look into, with its table of contents.

The table is written last and the file gets its name after that: what was interrupted is no backup,
and cannot be taken for one.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from singularity.primitives.errors import BackupDamaged, NotEmpty, Unavailable

_CONTENTS: Final = "contents.json"
_PIECE_BYTES: Final = 1 << 20
_OLDEST: Final = (1980, 1, 1, 0, 0, 0)  # zip knows no earlier time, and nobody asks


class Dumped(BaseModel):
    """One table: its columns in the order in which they were written, and how many rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...]
    rows: int


class Contents(BaseModel):
    """What is in a backup, and what it must be read by.

    `revision` is the schema of the tables. `counters` are those of numbered rows, by the name of
    their sequence: the last number, and whether it was given out. `sealing` protects the images and
    `store` says where they are kept, "" for in the volume. `trees` are the directories that came
    along, of "volume" and "store".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    version: str
    revision: str
    made_at_s: float
    tables: dict[str, Dumped]
    counters: dict[str, tuple[int, bool]]
    sealing: str
    store: str
    trees: tuple[str, ...] = ()


class Writer:
    """A backup being made at `path`; it is there when `finish` returns. Only its owner can read it,
    for keys are in it. Raises NotEmpty when there is something already, Unavailable where nothing
    can be written."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise NotEmpty(f"{path} is there already: name another file, or remove it")
        self._path, self._draft = path, path.with_name(f".{path.name}.part")
        try:
            self._draft.unlink(missing_ok=True)
            fd = os.open(self._draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise Unavailable(f"nothing can be written to {path}: {error.strerror}") from error
        self._file = os.fdopen(fd, "w+b")
        self._zip = zipfile.ZipFile(self._file, "w")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError, ValueError):
            self._zip.close()
        self._file.close()
        self._draft.unlink(missing_ok=True)

    @contextmanager
    def part(self, name: str, mode: int = 0o600, *, packed: bool = True) -> Iterator[IO[bytes]]:
        """A file in it, being written; `packed` unless it has no redundancy left."""
        info = zipfile.ZipInfo(name, _OLDEST)
        info.external_attr = (stat.S_IFREG | mode) << 16
        info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        with self._zip.open(info, "w", force_zip64=True) as file:
            yield file

    def put(self, name: str, data: bytes) -> None:
        with self.part(name) as file:
            file.write(data)

    def tree(self, name: str, root: Path) -> int:
        """All regular files below `root`, as they are; how many. One that goes meanwhile is left
        out."""
        count = 0
        for directory, _, files in os.walk(root):
            for path in (Path(directory, each) for each in sorted(files)):
                if not path.is_file() or path.is_symlink():
                    continue
                inside = path.relative_to(root).as_posix()
                with suppress(FileNotFoundError), path.open("rb") as source:
                    mode, packed = stat.S_IMODE(path.stat().st_mode), inside.startswith("jobs/")
                    with self.part(f"{name}/{inside}", mode, packed=packed) as target:
                        shutil.copyfileobj(source, target, _PIECE_BYTES)
                    count += 1
        return count

    def finish(self, contents: Contents) -> int:
        """Its size in bytes."""
        self.put(_CONTENTS, contents.model_dump_json(indent=1).encode())
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._draft.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return size


class Reader:
    """A backup. Raises BackupDamaged where it is none or, as it is read, where it has rotted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise BackupDamaged(f"there is no {path}") from None
        except (OSError, zipfile.BadZipFile) as error:
            raise BackupDamaged(f"{path} is no backup, or not all of one: {error}") from error
        try:
            self.contents = Contents.model_validate_json(self.get(_CONTENTS) or b"")
        except ValidationError as error:
            what = "the table of contents is not of this release or damaged"
            raise BackupDamaged(f"{path}: {what}: {error.errors()[0]['msg']}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()

    def get(self, name: str) -> bytes | None:
        """A small file, None where there is none of that name."""
        if name not in self._zip.namelist():
            return None
        return b"".join(self.pieces(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        try:
            with self._zip.open(name) as file:
                while piece := file.read(_PIECE_BYTES):
                    yield piece
        except (KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise BackupDamaged(f"{self.path}: {name} cannot be read: {error}") from error

    def unfold(self, name: str, root: Path) -> int:
        """The files of a tree, below `root`; how many. What was a hole is one again."""
        count = 0
        for info in self._zip.infolist():
            parts = PurePosixPath(info.filename).parts
            if parts[:1] != (name,) or len(parts) < 2:
                continue
            if ".." in parts or "\\" in info.filename:
                raise BackupDamaged(f"{self.path}: {info.filename} leads out of it")
            path = root.joinpath(*parts[1:])
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = (info.external_attr >> 16) & 0o777
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode or 0o600)
            with os.fdopen(fd, "wb") as target:
                os.fchmod(fd, mode or 0o600)  # whatever the umask
                for piece in self.pieces(info.filename):
                    if piece.strip(b"\0"):
                        target.write(piece)
                    else:
                        target.seek(len(piece), os.SEEK_CUR)
                target.truncate()
            count += 1
        return count
