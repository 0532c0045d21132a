"""Which keeper a name of a place means."""

from __future__ import annotations

from pathlib import Path

from .blobs import Blobs
from .files import FileBlobs


def open_blobs(where: str | Path) -> Blobs:
    """`where` is a directory, its file:// URL, or s3://bucket/prefix (credentials, region and
    endpoint come from the usual AWS_* variables). Raises ValueError for any other URL."""
    text = str(where)
    scheme, mark, rest = text.partition("://")
    if not mark:
        return FileBlobs(Path(text))
    if scheme == "file":
        return FileBlobs(Path("/" + rest.lstrip("/")))
    from .objects import ObjectBlobs  # its client takes a moment to load

    return ObjectBlobs(text)
