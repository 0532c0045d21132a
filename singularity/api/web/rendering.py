"""Templates, and how numbers are told to people. Every value is escaped where it is put in."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

STATIC: Final = Path(__file__).with_name("static")
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
# A word is always beside it; forms differ, so that nobody needs the colours.
GLYPHS: Final = {
    "pending": "◌",
    "starting": "◔",
    "running": "●",
    "suspending": "◑",
    "stopping": "◑",
    "suspended": "‖",
    "succeeded": "✓",
    "failed": "✕",
    "cancelled": "–",
    "ready": "●",
    "lost": "✕",
    "draining": "↓",
    "cordoned": "–",
    "quarantined": "!",
    "serving": "●",
    "short": "◑",
    "starting-up": "◔",
    "trying": "◔",
    "at-rest": "‖",
    "ending": "↓",
    "ended": "–",
}


def duration(seconds: float | None) -> str:
    """0.4 s, 12 s, 3 min 20 s, 4 h 05 min, 2 d 03 h."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def size(count: float | None) -> str:
    """Bytes, in powers of 1024."""
    if count is None:
        return "–"
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit takes all")


def number(value: float | None) -> str:
    """1 234 567, or with two digits behind the point where it is small and no whole one."""
    if value is None:
        return "–"
    whole = abs(value) >= 1000 or float(value).is_integer()
    return f"{value:,.0f}".replace(",", "\u2009") if whole else f"{value:.3g}"


def percent(fraction: float | None) -> str:
    """Never rounded up to the whole of it."""
    if fraction is None:
        return "–"
    shown = f"{100 * fraction:.1f}"
    if shown == "100.0" and fraction < 1:
        return "99.9 %"
    return f"{shown.removesuffix('.0')} %"


def moment(at_s: float | None) -> str:
    """For machines, and for whoever points at it: UTC."""
    if at_s is None:
        return ""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def glyph(word: str) -> str:
    return GLYPHS.get(word, "·")


@lru_cache
def asset(name: str) -> str:
    """Where a static file is: an address that changes with what is in it."""
    mark = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/ui/static/{name}?{mark}"


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("singularity.api.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters = (duration, size, number, percent, moment, glyph)
    made.filters.update({filter_.__name__: filter_ for filter_ in filters})
    made.globals["asset"] = asset
    return made


_TEMPLATES: Final = _environment()


def render(name: str, context: dict[str, Any], status: int = 200) -> HTMLResponse:
    """The template of that name. Raises UndefinedError where it asks for what is not given."""
    return HTMLResponse(_TEMPLATES.get_template(name).render(context), status)
