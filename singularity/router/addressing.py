"""Which service a request is for, and what of it is passed on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

Name = tuple[str, str]  # a project, and a service in it

# Between us and whoever is next to us, and nobody else's (RFC 9110, 7.6.1).
_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"),
    }
)


@dataclass(frozen=True, slots=True)
class Target:
    """`path` is the rest of it with its query, encoded as it came; `prefix` what was taken off."""

    name: Name
    path: str
    prefix: str


def candidates(host: str, path: str) -> Iterator[Target]:
    """What a request may be for: a service named by its host, `<service>.<project>` and maybe more,
    before one named by its path, `/<project>/<service>/...`."""
    labels = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    service, _, rest = labels.lower().partition(".")
    project = rest.partition(".")[0]
    if project and not labels.replace(".", "").isdigit():  # an address is nobody's name
        yield Target((project, service), path, "")
    parts = path.partition("?")[0].split("/", 3)
    if len(parts) >= 3 and parts[1] and parts[2]:
        prefix = f"/{parts[1]}/{parts[2]}"
        inner = path[len(prefix) :]
        yield Target((parts[1], parts[2]), inner if inner.startswith("/") else f"/{inner}", prefix)


def passed_on(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Headers that are not only between two neighbours."""
    named = {
        name.strip().lower()
        for value in headers.getall("Connection", ())
        for name in value.split(",")
    }
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():
        if name.lower() not in _HOP and name.lower() not in named:
            kept.add(name, value)
    return kept


def introduce(headers: CIMultiDict[str], target: Target, who: Mapping[str, str]) -> None:
    """Add who asked for what: `who` has its address (`for`), `host`, `proto` and the `id` of the
    request, which is made where none came."""
    before = headers.popall("X-Forwarded-For", [])
    headers["X-Forwarded-For"] = ", ".join([*before, who["for"]])
    headers.setdefault("X-Forwarded-Host", who["host"])
    headers.setdefault("X-Forwarded-Proto", who["proto"])
    headers.setdefault("X-Request-Id", who["id"])
    if target.prefix:
        headers["X-Forwarded-Prefix"] = target.prefix
