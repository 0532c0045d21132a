"""Which server to speak to, and with which token.

The environment wins (SINGULARITY_URL, SINGULARITY_TOKEN); otherwise the file that `login` or the
last `up` wrote. The file holds a secret, so it is readable by its owner only, from its first byte.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from singularity.primitives.errors import Unauthenticated

HOW_TO_LOG_IN = "start one here with `singularity up`, or name one with `singularity login URL`"


class Session(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str
    token: str

    @property
    def local(self) -> bool:
        """Does the server run on this machine, so that paths mean the same at both ends?"""
        host = self.url.split("//", 1)[-1].split("/", 1)[0].rsplit(":", 1)[0]
        return host in ("127.0.0.1", "localhost", "[::1]")


def session_path() -> Path:
    """The file, under the user's XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "singularity" / "session.json"


def save(session: Session) -> Path:
    """Remember `session` for later commands of this user; replaces the last one atomically."""
    path = session_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(session.model_dump_json())
    draft.replace(path)
    return path


def current() -> Session:
    """The session in force. Raises Unauthenticated, saying how to get one."""
    url, token = os.environ.get("SINGULARITY_URL"), os.environ.get("SINGULARITY_TOKEN")
    if url and token:
        return Session(url=url, token=token)
    try:
        kept = Session.model_validate_json(session_path().read_bytes())
    except FileNotFoundError:
        raise Unauthenticated(f"no server is known: {HOW_TO_LOG_IN}") from None
    except (OSError, ValidationError):
        raise Unauthenticated(f"{session_path()} cannot be read: {HOW_TO_LOG_IN}") from None
    if url and url != kept.url:
        # A token is a secret of the server that gave it: never offer it to another one.
        raise Unauthenticated(f"SINGULARITY_URL is {url}; its token must be in SINGULARITY_TOKEN")
    return Session(url=kept.url, token=token or kept.token)
