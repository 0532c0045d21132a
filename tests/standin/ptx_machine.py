"""Blocks of a kernel, stepped one access to memory at a time, so that a test decides what comes
between. It knows what a prologue has, and little else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

THREADS = 3


@dataclass
class Code:
    """The first kernel of a module."""

    text: str

    def __post_init__(self) -> None:
        text = re.sub(r"//.*", "", self.text)
        body = text[text.index("{", text.index(".entry")) + 1 :]
        lines = [line.strip().rstrip(";") for line in body[: body.index("}")].split("\n")]
        self.lines = [line for line in lines if line and not line.startswith(".reg")]
        self.labels = {line[:-1]: i for i, line in enumerate(self.lines) if line.endswith(":")}


@dataclass
class Machine:
    """`words` is memory by address; `ran` counts what threads add to the address 0, which is theirs
    by launch, block and thread."""

    words: dict[int, int] = field(default_factory=dict)
    ran: Counter[tuple[int, int, int]] = field(default_factory=Counter)

    def block(
        self, code: Code, grid: tuple[int, int, int], number: int, given: Mapping[str, int]
    ) -> Iterator[None]:
        """Yields before each access to memory. `given` is the parameters, and `launch`."""
        x, y, z = grid
        ids = {"ctaid.x": number % x, "ctaid.y": number // x % y, "ctaid.z": number // (x * y)}
        ids |= {"nctaid.x": x, "nctaid.y": y, "nctaid.z": z, "tid.y": 0, "tid.z": 0}
        threads = [
            self._thread(code, {**ids, "tid.x": t}, {**given, "block": number})
            for t in range(THREADS)
        ]
        answer: bool | None = None
        while threads:
            votes, going = [], []
            for thread in threads:
                sent = answer
                while True:
                    try:
                        said = thread.send(sent)
                    except StopIteration:
                        break
                    if said is not None:
                        votes.append(said)
                        going.append(thread)
                        break
                    yield
                    sent = None
            assert len(votes) in (0, THREADS), "a part of a block has left"
            threads, answer = going, any(votes)

    def _thread(
        self, code: Code, special: dict[str, int], given: Mapping[str, int]
    ) -> Iterator[bool | None]:
        registers = {f"%{name}": value for name, value in special.items()}
        at = 0
        while True:
            line, at = code.lines[at], at + 1
            if line.startswith("@"):
                guard, line = line.split(None, 1)
                if bool(registers[guard.lstrip("@!")]) == guard.startswith("@!"):
                    continue
            operation, _, rest = line.partition(" ")
            words = [word.strip("[]") for word in rest.split(", ")]
            if operation == "ret":
                return
            if operation.startswith("bra"):
                at = code.labels[rest]
            elif operation.startswith("bar.red"):
                registers[words[0]] = yield bool(registers[words[2]])
            elif operation.startswith("ld.param"):
                registers[words[0]] = given[words[1].rpartition("_")[2]]
            elif operation.startswith(("ld.", "atom.", "red.", "st.")):
                yield None
                self._touch(operation, words, registers, given)
            elif not line.endswith(":"):
                values = [registers[a] if a.startswith("%") else int(a) for a in words[1:]]
                registers[words[0]] = reckon(operation, values)

    def _touch(
        self,
        operation: str,
        words: list[str],
        registers: dict[str, int],
        given: Mapping[str, int],
    ) -> None:
        kept = operation.startswith(("ld.", "atom."))
        base, _, offset = words[int(kept)].partition("+")
        place = registers[base] + int(offset or 0)
        with_ = registers.get(words[-1], 1)
        before = self.words.get(place, 0)
        if not place:
            self.ran[given["launch"], given["block"], registers["%tid.x"]] += 1
        elif operation.startswith("ld."):
            registers[words[0]] = before
        elif operation.startswith("atom."):
            registers[words[0]] = before
            self.words[place] = before & with_
        elif operation.startswith("st."):
            self.words[place] = with_
        else:
            self.words[place] = before | with_


def reckon(operation: str, values: list[int]) -> int:
    match operation.split("."):
        case ["mov" | "cvt", *_]:
            return values[0]
        case ["not", *_]:
            return ~values[0] & 0xFFFFFFFF
        case ["setp", how, *_]:
            return int((values[0] == values[1]) == (how == "eq"))
        case ["or", *_]:
            return values[0] | values[1]
        case ["and", *_]:
            return values[0] & values[1]
        case ["shl", *_]:
            return values[0] << values[1] & 0xFFFFFFFF
        case ["shr", *_]:
            return values[0] >> values[1]
        case ["add", *_]:
            return values[0] + values[1]
        case ["mul", *_]:
            return values[0] * values[1]
        case ["mad", *_]:
            return values[0] * values[1] + values[2]
    raise AssertionError(operation)
