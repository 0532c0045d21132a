"""What the hands of every job on a node share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from singularity.primitives.messages import Start
from singularity.primitives.nodes import NodeId

from .answers import Done
from .cooperative import Cooperative
from .handover import Handovers
from .images import Images
from .layout import Layout
from .leads import Leads
from .runtime.network import Network
from .runtime.sandbox import Sandbox
from .warm import Warm


@dataclass(frozen=True, slots=True)
class Tools:
    """`create` makes the sandbox of one rank, which sees the files that the process of the given
    number sees, or the node's; `launch` starts the program, `release` is told when it is gone.
    `fixed` says why ranks cannot go over to other devices while they run, "" where they can."""

    node: NodeId
    layout: Layout
    images: Images
    handovers: Handovers
    warm: Warm
    cooperative: Cooperative
    leads: Leads
    network: Network
    create: Callable[[Start, int, int | None], Sandbox]
    launch: Callable[[Sandbox, Start, int], None]
    release: Callable[[Start, int], None]
    fixed: str
    reconnect_deadline_s: float
    reslot_deadline_s: float
    first_step_s: float
    host: str
    ready_s: float
    silent_s: float


# Journals what was done; `then` runs once that is durable, and before anybody is told.
Answer = Callable[[Done, Callable[[], None]], None]
