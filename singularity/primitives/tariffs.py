"""What devices cost where they are: a fact that operators set, and the scheduler weighs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import InvalidSpec
from .nodes import Scope, ScopeKind

_MOST = 1e9


@dataclass(frozen=True, slots=True, order=True)
class Tariff:
    """Of one device for an hour: `cost` in money, `carbon_g` in grams of carbon dioxide. One of a
    cluster is in place of its region's."""

    scope: Scope
    cost: float = 0.0
    carbon_g: float = 0.0


def checked(tariff: Tariff) -> Tariff:
    """Raises InvalidSpec for a node, and for amounts below nothing."""
    if tariff.scope.kind is ScopeKind.NODE:
        raise InvalidSpec("a price is of a region or a cluster, not of a node", field="scope")
    for name, amount in (("cost", tariff.cost), ("carbon_g", tariff.carbon_g)):
        if not (math.isfinite(amount) and 0.0 <= amount <= _MOST):
            raise InvalidSpec(f"{name} must be 0 or more, not {amount}", field=name)
    return tariff
