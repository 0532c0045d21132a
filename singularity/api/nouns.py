"""What answers look like, as far as clients may rely on it: the nouns of the API for its schema.

They say what is always there. More may stand beside it, and may come with a later release. Views
make the answers; nothing is checked against this at run time, but the fuzzer does in every run.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import WithJsonSchema

from singularity.primitives.model import Intent, JobState

from .views import Json

NAMED: Final = "x-name"
_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_NUMBER: Final[Json] = {"type": "number"}
_FLAG: Final[Json] = {"type": "boolean"}
_THING: Final[Json] = {"type": "object"}
_THINGS: Final[Json] = {"type": "array", "items": _THING}
_TEXTS: Final[Json] = {"type": "array", "items": _TEXT}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_of(kind: type[StrEnum]) -> Json:
    return {"type": "string", "enum": [str(each) for each in kind]}


def _noun(title: str, **fields: Json) -> Json:
    shape = {"type": "object", "properties": fields, "required": list(fields)}
    return {NAMED: title, **shape}  # FastAPI would write a title of its own over ours


def page_of(noun: Json) -> Json:
    """A list of them: `next` is the cursor of the next page, null on the last."""
    items = {"type": "array", "items": noun}
    return _noun(f"{noun[NAMED]}Page", items=items, next=_or_null(_TEXT))


JOB: Final = _noun(
    "Job",
    id=_TEXT, name=_TEXT, project=_TEXT, kind=_TEXT, tier=_TEXT,
    state=_one_of(JobState), intent=_one_of(Intent), version=_COUNT,
    devices=_COUNT, device=_TEXT, ranks=_COUNT, placement=_THINGS, region=_or_null(_TEXT),
    incarnation=_COUNT, cut=_COUNT, step=_COUNT, exit_code=_or_null({"type": "integer"}),
    message=_TEXT, submitted_at_s=_NUMBER, since_s=_NUMBER, started_at_s=_or_null(_NUMBER),
    checkpoint=_or_null(_THING), checkpointing=_THING, share=_THING, confine=_or_null(_TEXT),
    spec=_THING,
)  # fmt: skip
REASON: Final = _noun("Reason", kind=_TEXT, detail=_TEXT)
WHY: Final = _noun(
    "WhyItWaits",
    state=_TEXT, placed=_FLAG, reasons={"type": "array", "items": REASON}, changes=_THINGS,
    eta=_or_null(_THING),
)  # fmt: skip
EVENT: Final = _noun(
    "Event",
    seq=_COUNT, job=_TEXT, at_s=_NUMBER, event=_TEXT, reason=_TEXT, incarnation=_COUNT,
    node=_or_null(_TEXT), facts=_THING, **{"from": _or_null(_TEXT), "to": _or_null(_TEXT)},
)  # fmt: skip
LIFE: Final = _noun(
    "Incarnation",
    incarnation=_COUNT, region=_TEXT, cluster=_TEXT, nodes=_TEXTS, devices=_COUNT,
    step_from=_COUNT, step_to=_or_null(_COUNT), placed_at_s=_NUMBER,
    running_at_s=_or_null(_NUMBER), ended_at_s=_or_null(_NUMBER), reason=_TEXT,
    end=_or_null(_TEXT), lost_s=_or_null(_NUMBER), seconds=_THING,
)  # fmt: skip
CHECKPOINT: Final = _noun(
    "Checkpoint",
    incarnation=_COUNT, cut=_COUNT, step=_COUNT, at_s=_NUMBER, shards=_THINGS, raw_bytes=_COUNT,
    new_bytes=_COUNT, engine=_TEXT,
)  # fmt: skip
SERVICE: Final = _noun(
    "Service",
    id=_TEXT, name=_TEXT, project=_TEXT, tier=_TEXT, condition=_TEXT, message=_TEXT,
    revision=_COUNT, replicas=_THING, device=_TEXT, devices=_COUNT, target=_THING, queue=_THING,
    load=_or_null(_THING), slo=_or_null(_THING), hour=_THING, canary=_or_null(_THING),
    borrowed=_THING, created_at_s=_NUMBER, ended_at_s=_or_null(_NUMBER), version=_COUNT,
)  # fmt: skip
LOAN: Final = _noun(
    "Loan",
    service=_TEXT, job=_TEXT, devices=_COUNT, since_s=_NUMBER, until_s=_or_null(_NUMBER),
    seconds=_NUMBER, device_s=_NUMBER,
)  # fmt: skip
NODE: Final = _noun(
    "Node",
    id=_TEXT, region=_TEXT, cluster=_TEXT, rack=_TEXT, device=_TEXT, devices=_COUNT, used=_COUNT,
    duty=_TEXT, lost=_FLAG, heard_s=_NUMBER, epoch=_COUNT, failures=_COUNT, health=_THING,
    jobs=_TEXTS,
)  # fmt: skip
AREA: Final = _noun(
    "Area",
    id=_TEXT, devices=_COUNT, used=_COUNT, nodes=_COUNT, ready=_COUNT, lost=_COUNT,
    draining=_COUNT, quarantined=_COUNT,
)  # fmt: skip
ACCELERATOR: Final = _noun("Accelerator", id=_TEXT, node=_TEXT, region=_TEXT, sharers=_THINGS)
DRAIN: Final = _noun(
    "Drain",
    id=_TEXT, target=_TEXT, at_s=_NUMBER, actor=_TEXT, reason=_TEXT, policy=_TEXT,
    deadline_s=_or_null(_NUMBER), paused=_FLAG, ended_at_s=_or_null(_NUMBER), jobs=_COUNT,
    moved=_COUNT, moving=_TEXTS, waiting=_THINGS, remaining_jobs=_TEXTS, done=_FLAG,
)  # fmt: skip
MAINTENANCE: Final = _noun(
    "Maintenance",
    id=_TEXT, target=_TEXT, every=_TEXT, length_s=_NUMBER, policy=_TEXT, opens_s=_NUMBER,
    closes_s=_NUMBER, begins_s=_NUMBER, condition=_TEXT,
)  # fmt: skip
OPERATION: Final = _noun(
    "Operation",
    id=_COUNT, at_s=_NUMBER, actor=_TEXT, verb=_TEXT, target=_TEXT, reason=_TEXT,
    undone_by=_or_null(_COUNT),
)  # fmt: skip
REBALANCING: Final = _noun(
    "Rebalancing", id=_TEXT, target=_or_null(_TEXT), at_s=_NUMBER, until_s=_NUMBER
)
PROJECT: Final = _noun("Project", id=_TEXT, parent=_TEXT, weight=_NUMBER, devices=_THING)
USAGE: Final = _noun(
    "Usage",
    project=_TEXT, weight=_NUMBER, devices=_COUNT, borrowed=_COUNT, device_h=_NUMBER,
    share=_NUMBER,
)  # fmt: skip
ATTAINMENT: Final = _noun(
    "Attainment",
    project=_TEXT, tier=_TEXT, jobs=_COUNT, short=_COUNT, asked_s=_NUMBER, given_s=_NUMBER,
)  # fmt: skip
EVICTION: Final = _noun("Eviction", job=_TEXT, name=_TEXT, at_s=_NUMBER, reason=_TEXT)
TOKEN: Final = _noun(
    "Token", id=_TEXT, role=_TEXT, name=_TEXT, project=_or_null(_TEXT),
    expires_at_s=_or_null(_NUMBER),
)  # fmt: skip
TICKET: Final = _noun("JoinToken", id=_TEXT, node=_or_null(_TEXT), expires_at_s=_NUMBER)
STACK: Final = _noun("Stack", incarnation=_COUNT, rank=_COUNT, bytes=_COUNT)
SUBMITTED: Final = {"anyOf": [JOB, page_of(JOB)]}
OUTCOMES: Final = _noun(
    "Outcomes",
    items={"type": "array", "items": {"anyOf": [
        _noun("Made", id=_TEXT, name=_TEXT), _noun("MadeMany", items=_THINGS),
        _noun("Refused", error={"$ref": "#/components/schemas/Problem"}),
    ]}},
)  # fmt: skip
PLAN: Final = _noun(
    "PlanOutcome", changed=_FLAG, effects=_THINGS, others=_COUNT, before=_THING, after=_THING
)

AJob = Annotated[Json, WithJsonSchema(JOB)]
Submitted = Annotated[Json, WithJsonSchema(SUBMITTED)]
Outcomes = Annotated[Json, WithJsonSchema(OUTCOMES)]
Jobs = Annotated[Json, WithJsonSchema(page_of(JOB))]
AWhy = Annotated[Json, WithJsonSchema(WHY)]
Lives = Annotated[Json, WithJsonSchema(page_of(LIFE))]
Checkpoints = Annotated[Json, WithJsonSchema(page_of(CHECKPOINT))]
AService = Annotated[Json, WithJsonSchema(SERVICE)]
TheServices = Annotated[Json, WithJsonSchema(page_of(SERVICE))]
Loans = Annotated[Json, WithJsonSchema(page_of(LOAN))]
ANode = Annotated[Json, WithJsonSchema(NODE)]
Nodes = Annotated[Json, WithJsonSchema(page_of(NODE))]
AnArea = Annotated[Json, WithJsonSchema(AREA)]
Areas = Annotated[Json, WithJsonSchema(page_of(AREA))]
Accelerators = Annotated[Json, WithJsonSchema(page_of(ACCELERATOR))]
ADrain = Annotated[Json, WithJsonSchema(DRAIN)]
Drains = Annotated[Json, WithJsonSchema(page_of(DRAIN))]
AMaintenance = Annotated[Json, WithJsonSchema(MAINTENANCE)]
Maintenances = Annotated[Json, WithJsonSchema(page_of(MAINTENANCE))]
AnOperation = Annotated[Json, WithJsonSchema(OPERATION)]
Operations = Annotated[Json, WithJsonSchema(page_of(OPERATION))]
Rebalancings = Annotated[Json, WithJsonSchema(page_of(REBALANCING))]
AProject = Annotated[Json, WithJsonSchema(PROJECT)]
Projects = Annotated[Json, WithJsonSchema(page_of(PROJECT))]
Usages = Annotated[Json, WithJsonSchema(page_of(USAGE))]
Attainments = Annotated[Json, WithJsonSchema(page_of(ATTAINMENT))]
Evictions = Annotated[Json, WithJsonSchema(page_of(EVICTION))]
AToken = Annotated[Json, WithJsonSchema(TOKEN)]
Tokens = Annotated[Json, WithJsonSchema(page_of(TOKEN))]
Tickets = Annotated[Json, WithJsonSchema(page_of(TICKET))]
ATicket = Annotated[Json, WithJsonSchema(TICKET)]
Stacks = Annotated[Json, WithJsonSchema(_noun("Stacks", items={"type": "array", "items": STACK}))]
Foreseen = Annotated[Json, WithJsonSchema(PLAN)]


def json_of(noun: Json, status: int = 200, why: str = "As asked.") -> dict[int | str, Any]:
    """What a route that writes its answer itself says in its part of the schema."""
    content = {"application/json": {"schema": noun}}
    return {status: {"description": why, "content": content}}
