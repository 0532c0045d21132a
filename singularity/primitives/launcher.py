"""`torchrun train.py` as a job's `run`: what each rank runs when the plane is the launcher.

The plane starts one process a rank, gives it its place and lets the ranks meet, which is all that
torchrun does besides watching them. So its command line is read (as `torch.distributed.run` of
torch 2.13 and `torch.distributed.launch` read it) and each rank runs the script itself. What such
a line can ask for and the plane does otherwise is refused by name.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, NoReturn

from .errors import InvalidSpec

_PYTHON: Final = re.compile(r"python[0-9.]*t?")
_SWITCHES: Final = re.compile(r"-[bBdEiIOPqsSuvx]+")
_MODULE: Final = re.compile(r"-(?P<switches>[bBdEiIOPqsSuvx]*)m(?P<attached>.*)")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_RUN, _LAUNCH = "torch.distributed.run", "torch.distributed.launch"
_FROM_ENVIRONMENT: Final = "PET_"  # torchrun takes an option's default from there
_ONE_A_DEVICE: Final = ("auto", "gpu")

# Where ranks meet, how long torchrun waits for what, and whose output it shows: the plane's to do.
_MOOT: Final = (
    *("--rdzv-backend", "--rdzv-endpoint", "--rdzv-conf", "--node-rank", "--master-addr"),
    *("--master-port", "--local-addr", "--monitor-interval", "--start-method", "--redirects"),
    *("--tee", "--local-ranks-filter", "--signals-to-handle", "--shutdown-timeout"),
)
_SHORT: Final = {"--redirects": ("-r",), "--tee": ("-t",)}
_REFUSED: Final = {
    "--log-dir": "`singularity logs` has what every rank writes",
    "--logs-specs": "`singularity logs` has what every rank writes",
    "--event-log-handler": "`singularity events` has what happens to a job",
    "--numa-binding": "ranks are not bound to memory in this release",
    "--duplicate-stdout-filters": "`singularity logs` has what every rank writes",
    "--duplicate-stderr-filters": "`singularity logs` has what every rank writes",
}
_OTHERS: Final = frozenset({"mpirun", "mpiexec", "srun", "horovodrun", "deepspeed", "ray"})


@dataclass(frozen=True, slots=True)
class Program:
    """What one rank runs. `env` is what the launcher would have said of itself; the rank's place
    (RANK and its like) is the node's to add. `launcher` is "" when the line had none."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    launcher: str = ""


@dataclass(frozen=True, slots=True)
class _Line:
    """A command line in parts: words to keep, the launcher's name, its words. `python` is the
    interpreter named in the line, () for that of the program `torchrun` itself."""

    kept: tuple[str, ...]
    launcher: str
    words: tuple[str, ...]
    python: tuple[str, ...] = ()


def unwrap(
    run: Sequence[str],
    ranks: int,
    env: Mapping[str, str] | None = None,
    *,
    local_rank: int = 0,
    python: str = "python",
) -> Program:
    """What a rank of a job of `ranks` runs; `run` itself where no launcher begins it.

    env         the job's, for torchrun's PET_ variables
    local_rank  its number on its node, which only `torch.distributed.launch` hands on as an option
    python      the interpreter behind `torchrun`, where the line names none
    Raises InvalidSpec: the line asks for what the plane does not do, and the detail says what
    to write.
    """
    line = _split(run)
    if line is None:
        _no_other_launcher(run, ranks)
        return Program(tuple(run))
    asked = _parse(line, env or {})
    _check_world(line.launcher, asked, ranks)
    script = str(asked.training_script)
    interpreter = line.python or (python,)
    if asked.no_python:
        argv = (*line.kept, script)
    else:
        module = ("-m",) if asked.module else ()
        argv = (*line.kept, *interpreter, "-u", *module, script)
    if line.launcher == _LAUNCH and not asked.use_env:
        argv = (*argv, f"--local-rank={local_rank}")
    argv = (*argv, *map(str, asked.training_script_args))
    return Program(argv, _said_of_itself(asked, ranks), line.launcher)


def torchrun_of(run: Sequence[str]) -> str:
    """The word of `run` that is the program torchrun, "" where it is not one: the interpreter
    that its first line names is the one to give to `unwrap`."""
    line = _split(run)
    return run[len(line.kept)] if line is not None and not line.python else ""


def _split(run: Sequence[str]) -> _Line | None:
    """None when `run` begins with no launcher of torch."""
    first = _after_env(run)
    kept, words = tuple(run[:first]), tuple(run[first:])
    if not words:
        return None
    name = PurePosixPath(words[0]).name
    if name == "torchrun":
        return _Line(kept, "torchrun", words[1:])
    if not _PYTHON.fullmatch(name):
        return None
    at = 1
    while at < len(words):
        word = words[at]
        if found := _MODULE.fullmatch(word):
            rest = words[at + 1 :]
            if attached := found["attached"]:
                rest = (attached, *rest)
            if not rest or rest[0] not in (_RUN, _LAUNCH):
                return None
            switches = found["switches"]
            python = (*words[:at], *((f"-{switches}",) if switches else ()))
            return _Line(kept, rest[0], rest[1:], python)
        if word in ("-W", "-X"):
            at += 2
        elif _SWITCHES.fullmatch(word) or word.startswith(("-W", "-X")):
            at += 1
        else:
            return None
    return None


def _after_env(run: Sequence[str]) -> int:
    """Index of the first word that is no `env NAME=VALUE`."""
    if not run or PurePosixPath(run[0]).name != "env":
        return 0
    at = 1
    while at < len(run) and _ASSIGNMENT.fullmatch(run[at]):
        at += 1
    return at


class _Parser(argparse.ArgumentParser):
    """Says what is wrong instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InvalidSpec(f"{self.prog}: {message}")


def _parse(line: _Line, env: Mapping[str, str]) -> argparse.Namespace:
    parser = _Parser(prog=line.launcher, add_help=False)

    def option(name: str, *short: str, default: str | None = None) -> None:
        parser.add_argument(name, name[:2] + name[2:].replace("-", "_"), *short, default=default)

    def flag(name: str, *short: str) -> None:
        plain = name[:2] + name[2:].replace("-", "_")
        parser.add_argument(name, plain, *short, action="store_true", default=False)

    option("--nnodes", default="1")
    option("--nproc-per-node", default="")
    option("--max-restarts", default="0")
    option("--rdzv-id", default="none")
    option("--role", default="default")
    for name in _MOOT:
        option(name, *_SHORT.get(name, ()))
    for name in _REFUSED:
        many = "*" if name.startswith("--duplicate") else None
        parser.add_argument(name, name[:2] + name[2:].replace("-", "_"), nargs=many)
    for name in ("--standalone", "--no-python", "--run-path", "--virtual-local-rank"):
        flag(name)
    flag("--module", "-m")
    if line.launcher == _LAUNCH:
        flag("--use-env")
    parser.add_argument("training_script")
    parser.add_argument("training_script_args", nargs=argparse.REMAINDER)
    for action in parser._actions:
        value = env.get(_FROM_ENVIRONMENT + action.dest.upper())
        if value is not None:
            is_flag = isinstance(action.default, bool)
            parser.set_defaults(**{action.dest: value == "1" if is_flag else value})
    return parser.parse_args(line.words)


def _check_world(launcher: str, asked: argparse.Namespace, ranks: int) -> None:
    for name, instead in _REFUSED.items():
        if getattr(asked, name[2:].replace("-", "_")) not in (None, "null", []):
            raise InvalidSpec(f"{launcher} {name}: leave it out; {instead}")
    if asked.virtual_local_rank:
        raise InvalidSpec(f"{launcher} --virtual-local-rank is not done in this release")
    if asked.max_restarts != "0":
        raise InvalidSpec(
            f"{launcher} --max-restarts {asked.max_restarts}: leave it out and write "
            f"retry: {{user: {asked.max_restarts}}} in the job"
        )
    nodes = _nodes(launcher, str(asked.nnodes))
    each = str(asked.nproc_per_node)
    if each in ("", *_ONE_A_DEVICE):
        return  # as many as the job has ranks
    if not each.isdecimal() or int(each) < 1:
        raise InvalidSpec(
            f"{launcher} --nproc-per-node {each} is not known here; write a number, or leave it out"
        )
    if nodes * int(each) != ranks:
        raise InvalidSpec(
            f"{launcher} asks for {nodes * int(each)} processes and the job has ranks: {ranks}; "
            f"write ranks: {nodes * int(each)}, or leave --nnodes and --nproc-per-node out",
            asked=nodes * int(each),
            ranks=ranks,
        )


def _nodes(launcher: str, text: str) -> int:
    least, _, most = text.partition(":")
    most = most or least
    if not (least.isdecimal() and most.isdecimal() and int(least) >= 1):
        raise InvalidSpec(f"{launcher} --nnodes {text} is no number of nodes")
    if int(least) != int(most):
        raise InvalidSpec(
            f"{launcher} --nnodes {text}: the world of a job has one size; give the job devices "
            f"elastic instead, which changes what its ranks run on and not their number"
        )
    return int(least)


def _said_of_itself(asked: argparse.Namespace, ranks: int) -> tuple[tuple[str, str], ...]:
    """What scripts look up to learn whether torchrun started them. The store is ours, so no
    TORCHELASTIC_USE_AGENT_STORE."""
    said = {
        "ROLE_NAME": str(asked.role),
        "ROLE_WORLD_SIZE": str(ranks),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": str(asked.rdzv_id),
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }
    return tuple(sorted(said.items()))


def _no_other_launcher(run: Sequence[str], ranks: int) -> None:
    """One that starts processes of its own would start them once in every rank."""
    words = run[_after_env(run) :]
    if ranks == 1 or not words:
        return
    name = PurePosixPath(words[0]).name
    if name in _OTHERS or (name == "accelerate" and words[1:2] == ["launch"]):
        raise InvalidSpec(
            f"{name} would start its processes once in each of the {ranks} ranks; give the script "
            f"itself, as in `python train.py`: the ranks find their places in RANK and WORLD_SIZE"
        )
