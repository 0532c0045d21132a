"""Blobs in an object store that speaks S3, by way of obstore. A put is atomic and durable there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from .blobs import Blob

_WORKERS: Final = 16
_CLOCK: Final = "clock"
_GIVE_UP_AFTER: Final = timedelta(seconds=60)  # much less than the lease of a save


class ObjectBlobs:
    workers = _WORKERS

    def __init__(self, url: str) -> None:
        """Raises ValueError unless `url` is s3://bucket/prefix."""
        if not url.startswith("s3://"):
            raise ValueError(f"{url} is no store: name a directory, file:// or s3://bucket/prefix")
        self._store = S3Store.from_url(
            url,
            client_options={"allow_http": True, "timeout": "30s"},
            retry_config={"max_retries": 6, "retry_timeout": _GIVE_UP_AFTER},
        )

    def get(self, name: str) -> bytes:
        with _told():
            return bytes(obstore.get(self._store, name).bytes())

    def has(self, name: str) -> bool:
        try:
            with _told():
                obstore.head(self._store, name)
        except FileNotFoundError:
            return False
        return True

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        with _told():
            obstore.put(self._store, name, data, use_multipart=False)

    @contextmanager
    def stage(self) -> Iterator[ObjectStage]:
        yield ObjectStage(self)

    def list(self, prefix: str) -> Iterator[Blob]:
        with _told():
            for batch in obstore.list(self._store, prefix):
                for found in batch:
                    at_s = found["last_modified"].timestamp()
                    yield Blob(found["path"], found["size"], at_s)

    def move(self, old: str, new: str) -> None:
        """The copy first: whoever looks in between sees both."""
        with _told():
            obstore.copy(self._store, old, new)
            obstore.delete(self._store, old)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError), _told():
            obstore.delete(self._store, name)

    def now_s(self) -> float:
        self.put(_CLOCK, b"")
        with _told():
            return obstore.head(self._store, _CLOCK)["last_modified"].timestamp()

    def tidy(self, before_s: float) -> None:
        """Nothing is ever half there."""


class ObjectStage:
    def __init__(self, blobs: ObjectBlobs) -> None:
        self._blobs = blobs

    def put(self, name: str, data: bytes) -> None:
        self._blobs.put(name, data)

    def settle(self) -> None:
        """A put returns when it is durable."""


@contextmanager
def _told() -> Iterator[None]:
    """obstore's errors as those of the operating system. Raises OSError."""
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(str(error).splitlines()[0]) from error
    except BaseError as error:
        raise OSError(str(error).splitlines()[0]) from error
