"""Documents that people write, as they are sent."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
import yaml

from singularity.primitives.errors import InvalidSpec

from .client import Json
from .session import Session


def read(name: str) -> Json:
    """A file of YAML or JSON, or standard input as `-`. Raises InvalidSpec, BadParameter."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {name}: {error}") from error
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InvalidSpec(f"{name} must be a mapping of keys, as in `run: python train.py`")
    return found


def at_home(document: Json, session: Session, workdir: str | None = None) -> Json:
    """With the directory in which its processes start: `workdir`, the document's own, else the one
    where the command was typed. Only on the server's machine does a path mean the same to both."""
    asked = workdir or document.get("workdir") or ""
    if session.local and isinstance(asked, str):
        asked = str(Path.cwd() / asked)
    return {**document, "workdir": asked} if asked else document
