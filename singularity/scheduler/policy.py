"""Every threshold of the scheduler, with its unit and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from singularity.primitives.errors import InvalidSpec


@dataclass(frozen=True, slots=True)
class Policy:
    node_lost_after_s: float = 30.0  # three missed 10 s heartbeats; more than an agent's lease
    start_deadline_s: float = 300.0  # restore deadline (120 s) + reconnect deadline (120 s) + slack
    suspend_deadline_s: float = 600.0  # agents give a cut up by themselves long before
    stop_deadline_s: float = 60.0  # then a Stop is sent again
    preemptions_per_tick_max: int = 8  # bounds the blast radius of one bad plan
    evictions_per_minute_max: int = 60  # more only when an operator has acknowledged those so far
    migrations_per_tick_max: int = 16  # bounds what a drain does to the store at once
    drain_notice_s: float = 120.0  # before its deadline the rest is suspended, tier by tier
    grow_after_s: float = 5.0  # quiet time of a shrunk job before it grows: against thrash
    move_cost_s: float = 5.0  # dump + transfer + restore of a job never measured
    carried_bytes_s: float = 1e8  # images to another region, where a job was never measured
    data_away_slows: float = 0.1  # part of its speed lost by who reads from another region
    cost_worth_s: float = 1800.0  # device time for a unit of money: a device costs about 2 an hour
    carbon_kg_worth_s: float = 180.0  # the same for a kilogram, at 100 a tonne
    relocation_pays_s: float = 600.0  # moving others pays if it costs less than this of the gang's
    quantum_s: float = 600.0  # least time on its devices before an equal may ask for them
    resize_cost_s: float = 0.1  # new turns from the next mini-batch on: measured 10 to 100 ms
    checkpoint_cost_s: float = 5.0  # pause for a cut of a job that was never measured
    checkpoint_least_s: float = 30.0  # a cut more often than that would load the store
    checkpoint_most_s: float = 21600.0  # nobody likes to lose more than 6 hours
    node_mtbf_s: float = 3.6e6  # 42 days: 1,024 GPUs, 8 a node, fail every 7.9 h (arXiv 2410.21680)
    resize_deadline_s: float = 180.0  # agents give a resize up by themselves long before
    aside_wait_s: float = 300.0  # for idle devices; whoever asked to verify wants an answer
    aside_settle_s: float = 5.0  # from the start, or the last cut, to one that is to be compared
    aside_cuts: int = 3  # failures in a row, after which a job counts as one that cannot be cut

    ended_kept_s: float = 3600.0  # checkpoints of a job that succeeded or was cancelled
    failed_kept_s: float = 7 * 86400.0  # of one that failed: somebody may want to see why

    def with_overrides(self, found: Mapping[str, str]) -> Policy:
        """A policy with some fields given as text. Raises InvalidSpec naming the field."""
        kinds = {f.name: type(getattr(self, f.name)) for f in fields(self)}
        changes: dict[str, float | int] = {}
        for name, text in sorted(found.items()):
            if name not in kinds:
                raise InvalidSpec(f"there is no policy {name!r}; there are: {', '.join(kinds)}")
            try:
                changes[name] = kinds[name](text)
            except ValueError:
                wanted = kinds[name].__name__
                raise InvalidSpec(f"policy {name} must be a {wanted}, not {text!r}") from None
        return replace(self, **changes)  # type: ignore[arg-type]
