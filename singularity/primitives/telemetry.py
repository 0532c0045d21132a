"""What a server says about itself: one line of JSON an event, and numbers in Prometheus' format."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from pydantic import ValidationError

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
Labels = Mapping[str, str]


class JsonLines(logging.Formatter):
    """The event, its fields, and nothing that could forge a second line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at_s": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("uvicorn.access", "aiohttp.access", "httpx", "kombu", "celery"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def misconfigured(error: ValidationError) -> str:
    """What is wrong in the environment, a line each, without what was there: it may be a secret."""
    lines = []
    for fault in error.errors():
        name = "_".join(str(part) for part in fault["loc"]).upper()
        why = fault["msg"].removeprefix("Value error, ")
        lines.append(f"SINGULARITY_{name}: {why}" if name else f"settings: {why}")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Metric:
    """One series, in base units; `kind` is gauge or counter."""

    name: str
    kind: str
    help: str
    samples: tuple[tuple[Labels, float], ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of what was at most each of `bounds` and more than the one before, the last of what
    was more than all, and their sum."""

    name: str
    help: str
    bounds: tuple[float, ...]
    samples: tuple[tuple[Labels, Sequence[int], float], ...]


def render(metrics: Iterable[Metric | Histogram]) -> str:
    """In the text format of Prometheus."""
    lines = []
    for metric in metrics:
        name = f"singularity_{metric.name}"
        kind = metric.kind if isinstance(metric, Metric) else "histogram"
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {kind}"]
        if isinstance(metric, Metric):
            lines += [_line(name, labels, value) for labels, value in metric.samples]
            continue
        for labels, counts, total in metric.samples:
            edges = [f"{bound:g}" for bound in metric.bounds] + ["+Inf"]
            for edge, below in zip(edges, accumulate(counts), strict=True):
                lines.append(_line(f"{name}_bucket", {**labels, "le": edge}, below))
            lines.append(_line(f"{name}_sum", labels, total))
            lines.append(_line(f"{name}_count", labels, sum(counts)))
    return "\n".join(lines) + "\n"


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{k}="{_escaped(v)}"' for k, v in labels.items())
    short = f"{value:g}"
    exact = short if float(short) == value else repr(value)
    return f"{name}{{{inside}}} {exact}" if inside else f"{name} {exact}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
