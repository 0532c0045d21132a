"""torchrun as a job's `run`: each rank runs the script itself, or the line is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from singularity.agent.programs import program
from singularity.api.schemas import read_job
from singularity.primitives.errors import InvalidSpec, SandboxFailed
from singularity.primitives.launcher import torchrun_of, unwrap
from singularity.primitives.messages import Start
from singularity.primitives.model import JobId
from singularity.primitives.nodes import NodeId

SCRIPT = ("python", "-u", "train.py", "--lr", "0.1")


@pytest.mark.parametrize(
    "line",
    [
        "torchrun train.py --lr 0.1",
        "torchrun --nproc-per-node=4 train.py --lr 0.1",
        "torchrun --nproc_per_node 4 train.py --lr 0.1",
        "torchrun --nnodes=2 --nproc-per-node=2 --node-rank=0 train.py --lr 0.1",
        "torchrun --nnodes 2:2 --nproc-per-node gpu train.py --lr 0.1",
        "torchrun --standalone --nproc-per-node auto train.py --lr 0.1",
        "/opt/venv/bin/torchrun --rdzv-backend c10d --rdzv-endpoint h:29400 train.py --lr 0.1",
        "torchrun --tee 3 -r 0 --master-port 29501 --run-path train.py --lr 0.1",
        "python -m torch.distributed.run --nproc-per-node 4 train.py --lr 0.1",
        "python -mtorch.distributed.run train.py --lr 0.1",
        "python -m torch.distributed.launch --use-env --nproc_per_node=4 train.py --lr 0.1",
    ],
)
def test_a_launcher_gives_way_to_its_script(line: str) -> None:
    found = unwrap(line.split(), 4)
    assert found.argv == SCRIPT
    assert found.launcher
    assert dict(found.env)["TORCHELASTIC_RUN_ID"] == "none"


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("torchrun -m pkg.train --steps 3", "python -u -m pkg.train --steps 3"),
        ("torchrun --no-python ./train --steps 3", "./train --steps 3"),
        ("env A=1 B=2 torchrun train.py", "env A=1 B=2 python -u train.py"),
        (
            "/v/python3.12 -O -X dev -m torch.distributed.run train.py",
            "/v/python3.12 -O -X dev -u train.py",
        ),
        ("python -Om torch.distributed.run train.py -m 3", "python -O -u train.py -m 3"),
        (
            "python -m torch.distributed.launch train.py --lr 1",
            "python -u train.py --local-rank=3 --lr 1",
        ),
        ("torchrun train.py --nproc-per-node 7", "python -u train.py --nproc-per-node 7"),
    ],
)
def test_what_belongs_to_the_script_stays_its_own(line: str, argv: str) -> None:
    assert unwrap(line.split(), 4, local_rank=3).argv == tuple(argv.split())


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --nproc-per-node 2",
        "python -c 'import torch.distributed.run'",
        "python -m mypackage.torchrun",
        "python",
        "env A=1",
        "./torchrun.sh",
        "sh -c torchrun",
    ],
)
def test_other_programs_are_left_alone(line: str) -> None:
    found = unwrap(line.split(), 4)
    assert (found.argv, found.env, found.launcher) == (tuple(line.split()), (), "")
    assert torchrun_of(line.split()) == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("torchrun --nproc-per-node 2 train.py", "write ranks: 2"),
        ("torchrun --nnodes 2 --nproc-per-node 4 train.py", "8 processes"),
        ("torchrun --nnodes 1:4 train.py", "elastic"),
        ("torchrun --nproc-per-node cpu train.py", "write a number"),
        ("torchrun --nnodes many train.py", "no number of nodes"),
        ("torchrun --max-restarts 3 train.py", "retry: {user: 3}"),
        ("torchrun --log-dir logs train.py", "singularity logs"),
        ("torchrun --virtual-local-rank train.py", "virtual-local-rank"),
        ("torchrun --numa-binding node train.py", "numa-binding"),
        ("torchrun", "training_script"),
        ("torchrun --nproc-per-knot 2 train.py", "nproc-per-knot"),
        ("python -m torch.distributed.run --nproc-per-node 3 train.py", "write ranks: 3"),
        ("mpirun -n 4 python train.py", "once in each of the 4 ranks"),
        ("accelerate launch train.py", "python train.py"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_says_what_to_write(line: str, told: str) -> None:
    with pytest.raises(InvalidSpec, match=r".") as caught:
        unwrap(line.split(), 4)
    assert told in caught.value.detail


def test_torchruns_own_variables_count_as_its_options() -> None:
    env = {"PET_NPROC_PER_NODE": "4", "PET_MODULE": "1", "PET_RDZV_ID": "run-7"}
    found = unwrap(("torchrun", "pkg.train"), 4, env)
    assert found.argv == ("python", "-u", "-m", "pkg.train")
    assert ("TORCHELASTIC_RUN_ID", "run-7") in found.env
    with pytest.raises(InvalidSpec, match="write ranks: 4"):
        unwrap(("torchrun", "pkg.train"), 2, env)
    own = unwrap(("torchrun", "--nproc-per-node", "2", "--role", "t", "pkg.train"), 2, env)
    assert ("ROLE_NAME", "t") in own.env


def test_a_single_rank_may_start_what_it_likes() -> None:
    assert unwrap(("mpirun", "-n", "4", "./it"), 1).launcher == ""


def test_the_door_refuses_what_the_node_could_not_do() -> None:
    job = {"name": "j", "run": "torchrun --nproc-per-node 8 train.py", "devices": "cpu:4"}
    with pytest.raises(InvalidSpec, match=r".") as caught:
        read_job(job)
    assert "write ranks: 8" in str(caught.value.facts) + caught.value.detail
    assert read_job({**job, "ranks": 8}).spec("j", ()).ranks == 8


def test_a_node_runs_the_script_by_the_interpreter_of_its_torchrun(tmp_path: Path) -> None:
    torchrun = tmp_path / "torchrun"
    torchrun.write_text("#!/venvs/seven/bin/python3\nimport torch\n")
    torchrun.chmod(0o755)
    start = Start(
        job=JobId("j"),
        node=NodeId("n"),
        incarnation=1,
        gang=(NodeId("n"),),
        world=2,
        ranks=(0, 1),
        slots=(0, 1),
        devices=2,
        run=("torchrun", "train.py"),
    )
    env = {"PATH": str(tmp_path)}
    assert program(start, 1, env).argv == ("/venvs/seven/bin/python3", "-u", "train.py")
    torchrun.write_text("#!/usr/bin/env python3\n")
    assert program(start, 1, env).argv == ("python3", "-u", "train.py")
    with pytest.raises(SandboxFailed, match="not installed"):
        program(start, 1, {"PATH": ""})
    elastic = start.model_copy(update={"run": ("torchrun", "--nnodes=1:2", "train.py")})
    with pytest.raises(SandboxFailed, match="elastic"):
        program(elastic, 1, env)
