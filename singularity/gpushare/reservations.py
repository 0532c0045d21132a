"""What is promised and not yet bound, in one object a node that is changed by comparing versions.

Two replicas of the extender that bind at once would each see the device as free. So before a pod is
bound its share is written into the node's object; whoever read an older version is refused and
reads again. The object is read before the node's pods: a share that is no longer in it is then seen
at its pod. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from .shares import Claim

KEPT_S: Final = 60.0  # whoever has not bound by then never will: its request ended long before
_NS: Final = 1_000_000_000


def name_of(node: str) -> str:
    return f"gpushare-reserved-{node}"


@dataclass(frozen=True, slots=True)
class Reservation:
    claim: Claim
    at_s: float  # by the clock of who wrote it


def read(node: str, data: Mapping[str, str] | None) -> list[Reservation]:
    """Entries that cannot be read are of nobody, and left out."""
    found = []
    for uid, text in (data or {}).items():
        try:
            index, units, at_s, namespace, name = json.loads(text)
            claim = Claim(uid, str(namespace), str(name), node, int(index), int(units))
            found.append(Reservation(claim, float(at_s)))
        except (TypeError, ValueError):
            continue
    return found


def written(kept: Collection[Reservation]) -> dict[str, str]:
    return {
        r.claim.uid: json.dumps(
            [r.claim.index, r.claim.units, r.at_s, r.claim.namespace, r.claim.name]
        )
        for r in kept
    }


def outstanding(
    reservations: Collection[Reservation], bound: Collection[Claim], now_s: float
) -> list[Reservation]:
    """Those that count beside what is bound."""
    there = {claim.uid for claim in bound}
    return [r for r in reservations if r.claim.uid not in there and now_s - r.at_s < KEPT_S]
