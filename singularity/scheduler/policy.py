"""Every threshold of the scheduler, with its unit and where it comes from."""

from __future__ import annotations

import math
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
    grow_after_s: float = 5.0  # quiet time after a first change of size: against thrash
    even_after_s: float = 30.0  # quiet time of a job before equals may ask for a part of it
    move_cost_s: float = 5.0  # dump + transfer + restore of a job never measured
    carried_bytes_s: float = 1e8  # images to another region, where a job was never measured
    data_away_slows: float = 0.1  # part of its speed lost by who reads from another region
    cost_worth_s: float = 1800.0  # device time for a unit of money: a device costs about 2 an hour
    carbon_kg_worth_s: float = 180.0  # the same for a kilogram, at 100 a tonne
    relocation_pays_s: float = 600.0  # moving others pays if it costs less than this of the gang's
    quantum_s: float = 600.0  # least time on its devices before an equal may ask for them
    level_first_s: float = 3600.0  # device-seconds until a job leaves the first level of its tier
    level_grows: int = 4  # each level lasts so many times the last: few are ever moved down
    ageing_s: float = 86400.0  # waited so long, a job is one level up: bounds starvation
    turn_s: float = 21600.0  # quantum of a job against one that is before it by waiting alone
    meant_s: float = 60.0  # what was given up for a job is kept for it, from when it is free
    resize_cost_s: float = 0.1  # new turns from the next mini-batch on: measured 10 to 100 ms
    resize_pays_s: float = 120.0  # it must win back its stall in this; 75 to 600 s were tried
    checkpoint_cost_s: float = 5.0  # pause for a cut of a job that was never measured
    checkpoint_least_s: float = 30.0  # a cut more often than that would load the store
    checkpoint_most_s: float = 21600.0  # nobody likes to lose more than 6 hours
    node_mtbf_s: float = 3.6e6  # 42 days: 1,024 GPUs, 8 a node, fail every 7.9 h (arXiv 2410.21680)
    handover_kept_s: float = 1800.0  # in the memory of nodes, of a job that has found no room
    resize_deadline_s: float = 180.0  # agents give a resize up by themselves long before
    scale_look_s: float = 0.9  # between two looks at a load that is told once a second
    ready_deadline_s: float = (
        300.0  # from the start of a replica until it answers; models are large
    )
    evict_grace_s: float = 10.0  # for requests of a replica that makes way, or its grace, if less
    router_lost_after_s: float = 10.0  # ten posts missed: it is asked no more who has requests left
    aside_wait_s: float = 300.0  # for idle devices; whoever asked to verify wants an answer
    aside_settle_s: float = 5.0  # from the start, or the last cut, to one that is to be compared
    scale_smooth_s: float = 300.0  # over which load is averaged while it changes no more than usual
    scale_memory_s: float = 9000.0  # in which what is remembered of a peak falls to a third
    scale_up_step: float = 0.1  # of the replicas that there are: at least so many more
    scale_down_step: float = 0.15  # and at least so many fewer
    scale_down_after_s: float = 150.0  # fewer must have been enough for so long
    scale_drain_s: float = 100.0  # a queue that is too long should be gone after so long
    aside_cuts: int = 3  # failures in a row, after which a job counts as one that cannot be cut

    image_bytes: float = 1e9  # of a job that was never cut, where a drain may carry only so much
    upkeep_ahead_s: float = 21600.0  # no drain for a window begins earlier than that before it
    fault_window_s: float = 3600.0  # faults of a node that are older count no more
    quarantine_faults: int = 3  # so many, of different jobs, and the node is kept out of use
    quarantine_first_s: float = 600.0  # then it is tried again; each time in a row twice as long
    quarantine_most_s: float = 86400.0  # and after so long without any as if it were the first
    quarantine_share: float = 0.25  # of a cluster at once; more only by an operator
    quarantine_drains: int = 0  # 1: what runs on such a node leaves it, too

    ended_kept_s: float = 3600.0  # checkpoints of a job that succeeded or was cancelled
    failed_kept_s: float = 7 * 86400.0  # of one that failed: somebody may want to see why
    history_kept_s: float = 90 * 86400.0  # of one that has ended, all that is known; inf: for ever

    def with_overrides(self, found: Mapping[str, str]) -> Policy:
        """A policy with some fields given as text. Raises InvalidSpec naming the field."""
        kinds = {f.name: type(getattr(self, f.name)) for f in fields(self)}
        changes: dict[str, float | int] = {}
        for name, text in sorted(found.items()):
            if name not in kinds:
                raise InvalidSpec(f"there is no policy {name!r}; there are: {', '.join(kinds)}")
            try:
                changes[name] = kinds[name](text)
                if math.isnan(changes[name]):
                    raise ValueError
            except ValueError:
                wanted = kinds[name].__name__
                raise InvalidSpec(f"policy {name} must be a {wanted}, not {text!r}") from None
        return replace(self, **changes)  # type: ignore[arg-type]
