"""What accelerators nodes have and how they are, as they said last. Nothing is decided by it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects.postgresql import insert as upsert

from singularity.primitives.messages import DeviceNote
from singularity.primitives.model import Job
from singularity.primitives.nodes import NodeId

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

    def items(self, project: str | None = None) -> list[Json]:
        """Every device of nodes that are not lost, in the order of nodes and indices; with
        `project`, jobs of others have no name."""
        inventory, node = t.inventory.c, t.node.c
        parts = (node.part_index, node.part_milli, node.part_bytes)
        rows = (
            select(inventory.node, node.region, inventory.devices, inventory.seen_s, *parts)
            .join(t.node, node.id == inventory.node)
            .where(~node.lost)
            .order_by(inventory.node)
        )
        with self._engine.connect() as db:
            found = [
                {
                    "id": f"{name}/{device['index']}",
                    "node": name,
                    "region": region,
                    "seen_s": seen_s,
                    "given": _given(device["index"], *of_parts),
                    **device,
                }
                for name, region, devices, seen_s, *of_parts in db.execute(rows)
                for device in devices
            ]
            return _with_names(db, found, project)

    def sharing(self, job: Job) -> list[Json]:
        """How the ranks of a job that has shares of devices fare, as their nodes said last."""
        if job.spec.share is None or not job.nodes:
            return []
        row = t.inventory.c
        query = select(row.node, row.devices).where(row.node.in_(sorted(job.nodes)))
        with self._engine.connect() as db:
            found = [
                {"node": node, "index": device["index"], **sharer}
                for node, devices in db.execute(query)
                for device in devices
                for sharer in device.get("sharers", ())
                if sharer["job"] == job.id
            ]
        return sorted(found, key=itemgetter("rank"))


def _given(
    index: int, indices: Sequence[int], milli: Sequence[int], given_bytes: Sequence[int]
) -> Json | None:
    """What is given out of a device, None where it is not shared."""
    if index not in indices:
        return None
    at = indices.index(index)
    return {"compute_milli": milli[at], "memory_bytes": given_bytes[at]}


def _with_names(db: Connection, devices: list[Json], project: str | None) -> list[Json]:
    ids = {sharer["job"] for device in devices for sharer in device.get("sharers", ())}
    query = select(t.job.c.id, t.job.c.name).where(t.job.c.id.in_(sorted(ids)))
    if project is not None:
        query = query.where(t.job.c.project == project)
    names = {row.id: row.name for row in db.execute(query)} if ids else {}
    for device in devices:
        device["sharers"] = [
            {**sharer, "job": sharer["job"] if sharer["job"] in names else None}
            | {"name": names.get(sharer["job"])}
            for sharer in device.get("sharers", ())
        ]
    return devices
