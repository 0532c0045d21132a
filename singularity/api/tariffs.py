"""What devices cost where they are, in the database."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects.postgresql import insert as upsert

from singularity.primitives.nodes import Scope, ScopeKind
from singularity.primitives.tariffs import Tariff, checked

from . import tables as t


class SqlTariffs:
    """The part of the ledger that keeps them."""

    _engine: Engine

    def set_tariff(self, tariff: Tariff) -> None:
        """See scheduler.ledger.Ledger."""
        checked(tariff)
        price = {"cost": tariff.cost, "carbon_g": tariff.carbon_g}
        place = {"scope_kind": str(tariff.scope.kind), "scope": tariff.scope.id}
        row = upsert(t.tariff).values({**place, **price})
        with self._engine.begin() as db:
            db.execute(row.on_conflict_do_update(index_elements=list(place), set_=price))

    def tariffs(self) -> list[Tariff]:
        with self._engine.connect() as db:
            return load_tariffs(db)


def load_tariffs(db: Connection) -> list[Tariff]:
    """All, by kind and name of place."""
    return sorted(
        Tariff(Scope(ScopeKind(kind), scope), cost, carbon_g)
        for kind, scope, cost, carbon_g in db.execute(select(t.tariff))
    )
