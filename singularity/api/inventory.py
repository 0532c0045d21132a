"""What accelerators nodes have and how they are, as they said last. Nothing is decided by it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, select
from sqlalchemy.dialects.postgresql import insert as upsert

from singularity.primitives.messages import DeviceNote
from singularity.primitives.model import NodeId

from . import tables as t
from .views import Json


class Inventory:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    def note(self, node: NodeId, devices: Sequence[DeviceNote], now_s: float) -> None:
        """Replace what was known of a node that is admitted."""
        row = {"devices": [d.model_dump(mode="json") for d in devices], "seen_s": now_s}
        added = upsert(t.inventory).values(node=node, **row)
        with self._engine.connect() as db:
            db.execute(added.on_conflict_do_update(index_elements=["node"], set_=row))

    def items(self) -> list[Json]:
        """Every device of nodes that are not lost, in the order of nodes and indices."""
        rows = (
            select(t.inventory.c.node, t.node.c.region, t.inventory.c.devices, t.inventory.c.seen_s)
            .join(t.node, t.node.c.id == t.inventory.c.node)
            .where(~t.node.c.lost)
            .order_by(t.inventory.c.node)
        )
        with self._engine.connect() as db:
            return [
                {
                    "id": f"{node}/{device['index']}",
                    "node": node,
                    "region": region,
                    "seen_s": seen_s,
                    **device,
                }
                for node, region, devices, seen_s in db.execute(rows)
                for device in devices
            ]
