"""What a user may write, and what is said when it is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singularity.api.documents import seconds
from singularity.api.schemas import JobDocument, read_job, schema, size_bytes
from singularity.primitives.cooperation import Cooperation
from singularity.primitives.errors import InvalidSpec
from singularity.primitives.model import Engine, JobSpec, Kind, Tier
from singularity.primitives.sharing import DeviceShare, Precedence

_LEAST = {"name": "digits", "run": "python train.py --lr '1 2'"}


def _read(**changes: Any) -> JobSpec:
    return read_job({**_LEAST, **changes}).spec("digits", ())


SHARE = {"memory": "8GiB", "compute": "50%"}


def test_a_share_is_kept_with_its_units() -> None:
    spec = _read(devices="cpu:2", share={**SHARE, "class": "rt"})
    assert spec.share == DeviceShare(500, 8 * 1024**3, Precedence.REAL_TIME)
    part = {"memory": "512MiB", "compute": "12.5%"}
    assert _read(share=part).share == DeviceShare(125, 512 * 1024**2)


def test_the_least_document_is_one_process_on_one_device() -> None:
    expected = JobSpec(name="digits", run=("python", "train.py", "--lr", "1 2"))
    assert _read() == expected


def test_everything_that_can_be_said_arrives() -> None:
    spec = _read(
        kind="batch",
        project="vision",
        tier="premium",
        env={"LR": 0.1, "DEBUG": True, "N": 3},
        workdir="/srv",
        devices="H100:16",
        ranks=8,
        elastic={"min": 8, "max": 32},
        place={"regions": "eu-*", "not": ["eu-west"], "same_node": True},
        checkpoint={"mode": "auto", "every": "1h30m", "keep": 3},
        retry={"infra": 1, "user": 2, "on_exit_codes": [75]},
        limits={"max_duration": "2d", "memory": "8GiB", "hang_after": "5m"},
    )
    assert (spec.kind, spec.project, spec.tier) == (Kind.BATCH, "vision", Tier.PREMIUM)
    assert spec.env == (("DEBUG", "true"), ("LR", "0.1"), ("N", "3"))
    assert (spec.device, spec.devices, spec.ranks) == ("H100", 16, 8)
    assert (spec.devices_min, spec.devices_max) == (8, 32)
    assert (spec.regions, spec.avoid, spec.same_node) == (("eu-*",), ("eu-west",), True)
    assert (spec.checkpoint_every_s, spec.checkpoint_keep) == (5400.0, 3)
    assert (spec.retry_infra, spec.retry_user, spec.retry_exit_codes) == (1, 2, (75,))
    assert (spec.max_duration_s, spec.memory_bytes) == (172800.0, 8 * 1024**3)
    assert spec.hang_after_s == 300.0


def test_checkpoints_are_taken_as_often_as_pays_unless_said_otherwise() -> None:
    assert _read().checkpoint_every_s is None
    assert _read(checkpoint={"every": "auto"}).checkpoint_every_s is None
    assert _read(checkpoint={"every": "never"}).checkpoint_every_s == 0.0
    assert _read(checkpoint={"every": 8}).checkpoint_every_s == 8.0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"devise": "cpu:1"}, "did you mean 'devices'?"),
        ({"place": {"region": ["eu"]}}, "did you mean 'regions'?"),
        ({"image": "torch:2"}, "container images are not run"),
        ({"secrets": ["key"]}, "secrets are not handed"),
        ({"memory": "8GiB"}, "share: {memory: 8GiB, compute: 50%}"),
        ({"share": {**SHARE, "compute": "0.5%"}}, "a percentage from 1% to 100%"),
        ({"share": {**SHARE, "compute": "101%"}}, "a percentage from 1% to 100%"),
        ({"share": {**SHARE, "compute": 50}}, "a percentage from 1% to 100%"),
        ({"share": {**SHARE, "class": "best"}}, "share.class"),
        ({"share": {"compute": "50%"}}, "share.memory"),
        ({"share": SHARE, "devices": "cpu:2", "ranks": 4}, "write devices: 4"),
        ({"share": SHARE, "elastic": {"min": 1, "max": 1}}, "is not elastic"),
        ({"share": SHARE, "limits": {"memory": "1GiB"}}, "share.memory is the limit"),
        ({"kind": "serve"}, "kind: serve is a service"),
        ({"limits": {"hang_after": "0s"}}, "limits.hang_after"),
        ({"checkpoint": {"every": None}}, "no interval"),
        ({"kind": "tarin"}, "kind"),
        ({"tier": "gold"}, "tier"),
        ({"name": "Big Job"}, "name"),
        ({"run": ""}, "run"),
        ({"run": "python 'x"}, "cannot be split"),
        ({"run": ["a\0b"]}, "run"),
        ({"devices": "4xH100"}, "write cpu:4 or H100:16"),
        ({"devices": "cpu:0"}, "write cpu:4 or H100:16"),
        ({"devices": True}, "devices"),
        ({"devices": "cpu:3", "ranks": 2}, "cannot be divided among 2 ranks"),
        ({"devices": "cpu:4", "elastic": {"min": 1, "max": 2}}, "outside elastic"),
        ({"elastic": {"min": 3, "max": 2}}, "is more than max"),
        ({"checkpoint": {"every": "soon"}}, "no duration"),
        ({"checkpoint": {"every": "0s"}}, "checkpoint.every"),
        ({"limits": {"memory": "lots"}}, "no size"),
        ({"array": 4}, "array is for kind: batch"),
        ({"env": {"SINGULARITY_JOB": "x"}}, "SINGULARITY_JOB is ours"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"workdir": "relative"}, "workdir"),
        ({"place": {"regions": ["../x"]}}, "regions"),
        ({"place": {"not": ["eu"] * 101}}, "at most 100"),
        ({"after": ["a"] * 1001}, "at most 1000"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        _read(**changes)
    assert told in caught.value.detail


def test_a_refusal_never_repeats_what_was_sent() -> None:
    with pytest.raises(InvalidSpec) as caught:
        _read(env={"TOKEN": ["hunter2"]}, tier="hunter2")
    assert "hunter2" not in str((caught.value.detail, caught.value.facts))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=9), x),
        max_leaves=8,
    )
)
def test_any_json_is_answered(body: Any) -> None:
    told = "accepted"
    try:
        read_job(body)
    except InvalidSpec as error:
        told = error.detail
    assert told


@given(
    st.sampled_from(sorted(JobDocument.model_fields)),
    st.none() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers()),
)
def test_any_value_of_a_key_is_answered(key: str, value: Any) -> None:
    try:
        spec = _read(**{key: value})
    except InvalidSpec:
        return
    assert spec.devices <= spec.ranks or spec.devices % spec.ranks == 0


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_durations_add_up(hours: int, minutes: int, rest: int) -> None:
    assert seconds(f"{hours}h{minutes}m{rest}s") == hours * 3600 + minutes * 60 + rest
    assert seconds(rest) == rest


@given(st.integers(1, 2**20))
def test_sizes_know_both_thousands(count: int) -> None:
    assert size_bytes(f"{count}MiB") == count * 2**20
    assert size_bytes(f"{count}MB") == count * 10**6
    assert size_bytes(count) == count


def test_the_published_schema_has_the_written_names() -> None:
    found = schema()
    assert set(found["required"]) == {"name", "run"}
    near = {"same_node", "same_rack", "prefer", "spread", "apart"}
    assert {"regions", "not", "data", *near} == set(found["$defs"]["Place"]["properties"])
    assert found["additionalProperties"] is False


def test_engines_are_a_chain_and_the_program_is_asked_only_where_it_said_how() -> None:
    assert _read().engines == (Engine.TRANSPARENT,)
    asked = {"signal": "SIGUSR1", "path": "ckpt/latest.pt"}
    spec = _read(workdir="/srv", checkpoint=asked)
    assert spec.engines == (Engine.TRANSPARENT, Engine.COOPERATIVE)
    assert spec.cooperation == Cooperation("SIGUSR1", ("/srv/ckpt/latest.pt",), 120.0)
    files = {**asked, "path": ["/a/{rank}.pt", "/a/done"], "within": "5m", "engines": "cooperative"}
    spec = _read(checkpoint=files)
    assert spec.engines == (Engine.COOPERATIVE,)
    assert spec.cooperation == Cooperation("SIGUSR1", ("/a/{rank}.pt", "/a/done"), 300.0)
    assert _read(checkpoint={"engines": ["transparent", "restart"]}).cooperation is None


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        ({"engines": ["restart", "transparent"]}, "in this order: transparent, cooperative"),
        ({"engines": ["transparent", "transparent"]}, "each may stand once"),
        ({"engines": []}, "at least 1"),
        ({"engines": ["criu"]}, "transparent"),
        ({"engines": ["transparent", "cooperative"]}, "needs signal"),
        ({"signal": "SIGUSR1"}, "needs signal (as SIGUSR1) and path"),
        ({"path": "/a"}, "needs signal"),
        ({"signal": "SIGKILL", "path": "/a"}, "SIGUSR1"),
        ({"engines": ["transparent"], "signal": "SIGUSR1", "path": "/a"}, "add it to engines"),
        ({"engines": ["restart"], "within": "5m"}, "within is for the engine cooperative"),
        ({"engines": ["restart"], "every": "5m"}, "keeps nothing"),
        ({"signal": "SIGUSR1", "path": "ckpt/a"}, "say workdir"),
        ({"signal": "SIGUSR1", "path": "/a/../b"}, "'..'"),
        ({"signal": "SIGUSR1", "path": "/a/"}, "is a directory"),
        ({"signal": "SIGUSR1", "path": "/a/{step}.pt"}, "{rank} only"),
        ({"signal": "SIGUSR1", "path": "/a", "within": "1h"}, "480"),
        ({"signals": "SIGUSR1"}, "did you mean 'signal'"),
    ],
)
def test_a_chain_that_could_not_work_is_refused_with_what_to_write(
    checkpoint: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        _read(checkpoint=checkpoint)
    assert said in f"{refused.value.detail} {refused.value.facts}"
