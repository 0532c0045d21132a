"""What documents are made of: strict keys, durations as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LATER: Final = {
    "image": "container images are not run in this release; jobs use the node's own files",
    "secrets": "secrets are not handed to jobs in this release",
    "replicas": "services have replicas; write kind: serve",
    "port": "services listen; write kind: serve",
    "slo": "services promise something; write kind: serve",
    "same_fabric": "a gang never leaves its cluster; use place.same_node for one machine",
}


def seconds(text: object) -> float:
    """'30s', '5m', '1h30m', or a number of seconds."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        try:
            return float(text)
        except OverflowError:
            raise ValueError("that is longer than anything") from None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", str(text))
    if not parts or "".join(n + u for n, u in parts) != str(text):
        raise ValueError(f"{text!r} is no duration; write for example 30s, 5m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _every(text: object) -> object:
    """As JobSpec has it: None is auto, 0 is never."""
    if text in ("auto", "never"):
        return None if text == "auto" else 0.0
    if text is None or (found := seconds(text)) == 0.0:
        raise ValueError(f"{text!r} is no interval; write auto, never, or for example 5m")
    return found


Duration = Annotated[
    float,
    BeforeValidator(seconds, json_schema_input_type=str | float),
    Field(gt=0, le=10 * 365 * 86400.0),
]
Every = Annotated[
    Annotated[float, Field(ge=0, le=10 * 365 * 86400.0)] | None,
    BeforeValidator(_every, json_schema_input_type=str | float),
]


class Document(BaseModel):
    """Strict keys; an unknown one is answered with the nearest that exists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _no_strange_keys(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        known = {f.alias or name for name, f in cls.model_fields.items()}
        for key in data:
            if key in known:
                continue
            if key in _LATER:
                raise ValueError(f"{key}: {_LATER[key]}")
            near = get_close_matches(str(key), sorted(known), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise ValueError(f"there is no key {str(key)[:64]!r}; {hint}")
        return data
