"""Programs that a test has the CPU device run. What they do is written to $PROGRAMS_LOG, a line at
a time, in the order in which it happened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping

import torch


def programs() -> Mapping[str, Callable[[int], None]]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    log = os.open(os.environ["PROGRAMS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    data = torch.randn(64, 8, 64)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def note(line: str) -> None:
        os.write(log, f"{line}\n".encode())

    def answer(block: int) -> None:
        note(f"rt {block}")
        with torch.inference_mode():
            network[0](data[0])

    def learn(block: int) -> None:
        network(data[block % 64]).square().mean().backward()
        note(f"be {block}")

    def step(_: int) -> None:
        optimizer.step()
        optimizer.zero_grad()

    def digest(_: int) -> None:
        found = hashlib.sha256()
        for parameter in network.parameters():
            found.update(parameter.detach().numpy().tobytes())
        note(f"digest {found.hexdigest()}")

    def fail(_: int) -> None:
        raise ValueError("this program fails")

    return {"answer": answer, "learn": learn, "step": step, "digest": digest, "fail": fail}
