"""Which parts of the judgement a storm has come to: one that none ever reaches was never tried.

Told from what was carried out, and where that leaves it open from the reason, as it is written for
people: a sentence that changes is missed at once, for then its pass counts as never reached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from singularity.primitives.model import Job
from singularity.scheduler.orders import Close, Isolate, Open, Order, Readmit, Settle
from singularity.scheduler.plan import Action, Verb

SAID: Final = {
    "may be wider again": " are free again",
    "an equal had less": "which had less so far",
    "an equal gains more": "to which they are worth more",
    "moved out of the way": "makes room for ",
    "a drain moves": "draining ",
    "a drain suspends": "nowhere to go",
    "a node is set free": "as a whole for ",
    "overdue": "for more than ",
    "a verification ends": "no devices were idle for ",
}
ORDERS: Final = {
    Isolate: "quarantine",
    Readmit: "out of quarantine",
    Open: "a window is prepared",
    Close: "a window is over",
    Settle: "rebalanced",
}
EVERY: Final = frozenset(
    {
        *SAID,
        *ORDERS.values(),
        "starts with a share",
        "starts aside",
        "starts near",
        "starts apart",
        "starts on less",
        "a lender takes back",
        "less urgent leaves",
        "less urgent shrinks",
        "lends to a service",
        "a gang fails over",
        "a replica wakes",
        "a replica rests",
    }
)


def of_action(job: Job, action: Action, *, governs: bool) -> Iterator[str]:
    """What `action` shows, done to `job` while quotas govern or do not."""
    yield from (name for name, words in SAID.items() if words in action.reason)
    if action.price is not None:
        equal = any(words in action.reason for words in (SAID["an equal had less"], "worth more"))
        if governs and job.tier == 0 and not equal and action.verb is not Verb.MIGRATE:
            yield "a lender takes back"  # from premium nobody takes by its tier
        if job.tier > 0 and not equal:
            shrinks = action.verb is Verb.SCALE
            yield "less urgent shrinks" if shrinks else "less urgent leaves"
    if action.lent_to is not None:
        yield "lends to a service"
    yield from _of_start(job, action)
    if action.verb is Verb.FAILOVER:
        yield "a gang fails over"
    if action.verb in (Verb.WAKE, Verb.REST):
        yield f"a replica {action.verb}s"


def _of_start(job: Job, action: Action) -> Iterator[str]:
    if action.verb is not Verb.RESUME:
        return
    topology = job.spec.topology
    if job.spec.share is not None:
        yield "starts with a share"
    if job.spec.aside is not None:
        yield "starts aside"
    if job.spec.same_node or topology.same_rack or topology.prefer:
        yield "starts near"
    if topology.apart or topology.spread:
        yield "starts apart"
    if sum(s.devices for s in action.placement) < job.devices:
        yield "starts on less"


def of_order(order: Order) -> str:
    return ORDERS[type(order)]


def never(reached: Iterable[Counter[str]]) -> list[str]:
    """Those that none of the storms came to."""
    return sorted(EVERY - set().union(*(set(each) for each in reached)))
