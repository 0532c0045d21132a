"""What a node says of its devices."""

from __future__ import annotations

from singularity.agent.hal.cpu import CpuManager
from singularity.agent.hal.cuda import CudaManager
from singularity.agent.hal.faces import DeviceFacts
from singularity.agent.inventory import look, manager
from singularity.primitives.errors import DeviceUnavailable


class Manager:
    def __init__(self, *found: DeviceFacts) -> None:
        self._found = found

    def devices(self) -> tuple[DeviceFacts, ...]:
        if not self._found:
            raise DeviceUnavailable("the driver does not answer")
        return self._found

    def open(self, index: int) -> None:
        raise AssertionError("looking opens nothing")


def test_all_facts_of_all_devices_are_said() -> None:
    one = DeviceFacts(0, "a", "H200", 1000, 10, 0.5, 61, "hot", (1,))
    other = DeviceFacts(1, "b", "H200", 1000, 0)
    notes = look(Manager(one, other), {})  # type: ignore[arg-type]
    assert [note.model_dump(exclude={"sharers", "yields"}) for note in notes] == [
        {name: getattr(facts, name) for name in DeviceFacts.__slots__} for facts in (one, other)
    ]


def test_a_driver_that_does_not_answer_stops_no_heartbeat() -> None:
    assert look(Manager(), {}) == ()  # type: ignore[arg-type]


def test_processors_are_asked_of_the_machine_and_all_else_of_cuda() -> None:
    assert isinstance(manager("cpu"), CpuManager) and isinstance(manager("H100"), CudaManager)
    (note,) = look(manager("cpu"), {})
    assert 0 < note.used_bytes <= note.memory_bytes
