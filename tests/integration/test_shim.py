"""The shim in real processes, over a stand-in for the CUDA driver. No GPU is involved."""

from __future__ import annotations

import importlib.util
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from singularity.agent.shim.build import built, home
from singularity.agent.shim.page import Class, ControlPage, Mode, Status, complaint
from singularity.primitives.errors import DeviceUnavailable, InvalidSpec
from tests.standin.cuda import Client, compiler, compiling, stand_in

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C compiler here")
LIMIT_S = 30.0


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stand_in(tmp_path_factory.mktemp("driver"))


class Shared:
    def __init__(self, directory: Path, root: Path) -> None:
        self._directory = directory
        self.page = ControlPage.create(root / "page", built(directory))
        self.clients: list[Client] = []

    def start(
        self,
        slot: int,
        kind: Class,
        *arguments: object,
        cap_bytes: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> Client:
        environment = {**self.page.admit(slot, kind, cap_bytes), **(env or {})}
        client = Client(self._directory, f"slot{slot}", list(arguments), environment)
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.end()


@pytest.fixture
def shared(directory: Path, tmp_path: Path) -> Iterator[Shared]:
    made = Shared(directory, tmp_path)
    yield made
    made.close()


def until(law: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not law():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def has_run(client: Client, waves: int) -> bool:
    return client.waves >= waves


def settled(client: Client) -> int:
    """Waves it has run, once there have been no more for two hundred times what one takes."""
    before = -1
    while before != client.waves:
        before = client.waves
        time.sleep(0.4)
    return before


@pytest.mark.parametrize("how", ["dlsym", "address", "thread"])
def test_launches_are_seen_however_the_program_found_the_function(shared: Shared, how: str) -> None:
    shared.page.rule(Mode.STALL)
    client = shared.start(0, Class.BE, how, "some", 20)
    assert client.line() == ["up"]
    slot = shared.page.slot(0)
    assert (slot.launched, slot.gated, slot.status) == (20, 20, Status.SEEING)
    assert slot.pid == client.process.pid and not complaint(slot)


@pytest.mark.parametrize(("mode", "window"), [(Mode.WINDOW, 2), (Mode.WINDOW, 8), (Mode.STALL, 0)])
def test_a_closed_gate_lets_the_window_run_out_and_a_stalled_stream_nothing_but_what_runs(
    shared: Shared, mode: Mode, window: int
) -> None:
    shared.page.rule(mode, window=window)
    client = shared.start(0, Class.BE, "dlsym", "train", 64, 8, 2000)
    assert client.line() == ["up"]
    until(lambda: client.waves > 10)
    shared.page.close_gate()
    begun = client.waves
    passed = settled(client) - begun
    assert passed <= window + 2, "one was running, one was just beginning"
    assert client.process.poll() is None
    shared.page.open_gate()
    until(lambda: client.waves > begun + 64)
    client.tell()
    (launched,) = client.line()
    assert int(launched) == client.waves, "each kernel ran once"


@pytest.mark.parametrize("able", [True, False])
def test_a_closed_gate_stops_a_graph_between_its_kernels(shared: Shared, able: bool) -> None:
    """Where the driver captures no waits, the graph runs to its end, and no other begins."""
    shared.page.rule(Mode.STALL)
    env = {} if able else {"STANDIN_NO_WAITS": "1"}
    client = shared.start(0, Class.BE, "dlsym", "graph", 200, 8, 2000, env=env)
    assert client.line() == ["up"]
    until(lambda: client.waves > 10)
    shared.page.close_gate()
    begun = client.waves
    passed = settled(client) - begun
    assert passed <= 2 if able else 2 < passed <= 200
    shared.page.open_gate()
    until(lambda: client.waves > begun + 200)
    client.tell()
    (launched,) = client.line()
    assert int(launched) == client.waves, "each kernel of each launch ran once"
    slot = shared.page.slot(0)
    assert slot.launched == slot.gated == client.waves // 200


def test_real_time_work_closes_the_gate_itself_and_opens_it_when_it_is_idle(shared: Shared) -> None:
    shared.page.rule(Mode.STALL, hold_off_us=20_000)
    learner = shared.start(0, Class.BE, "dlsym", "train", 64, 8, 2000)
    assert learner.line() == ["up"]
    answerer = shared.start(1, Class.RT, "address", "answer", 30, 1000)
    assert answerer.line() == ["up"]
    for times in range(1, 6):
        until(lambda: shared.page.gate == 0)
        until(partial(has_run, learner, learner.waves + 1))
        answerer.tell()
        answerer.line()
        assert shared.page.slot(1).raised >= times
    assert (shared.page.slot(1).launched, shared.page.slot(1).gated) == (150, 0)


def test_nothing_begins_while_real_time_work_holds_the_gate(shared: Shared) -> None:
    """It holds it for as long as there is no pause of a minute: however late anybody gets a core,
    what is counted stays the same."""
    shared.page.rule(Mode.STALL, hold_off_us=60_000_000)
    learner = shared.start(0, Class.BE, "dlsym", "train", 64, 8, 2000)
    assert learner.line() == ["up"]
    until(partial(has_run, learner, 10))
    answerer = shared.start(1, Class.RT, "address", "answer", 30, 1000)
    assert answerer.line() == ["up"]
    answerer.tell()
    until(lambda: shared.page.gate == 1 << 1)
    before = learner.waves
    for _ in range(5):
        answerer.line()
        answerer.tell()
    answerer.line()
    assert shared.page.gate == 1 << 1
    assert learner.waves - before <= 2, "one ran, one was beginning; no more beside 180 others"


def test_a_real_time_process_that_dies_leaves_nobody_frozen(shared: Shared) -> None:
    shared.page.rule(Mode.STALL, hold_off_us=60_000_000)
    answerer = shared.start(4, Class.RT, "dlsym", "answer", 1, 100)
    assert answerer.line() == ["up"]
    answerer.tell()
    until(lambda: shared.page.gate == 1 << 4)
    assert shared.page.sweep() == []
    with pytest.raises(InvalidSpec, match="in use"):
        shared.page.admit(4, Class.BE)
    answerer.end()
    assert shared.page.sweep() == [4] and shared.page.gate == 0
    shared.page.admit(4, Class.BE)


def test_memory_over_the_cap_is_refused_as_the_driver_would(shared: Shared) -> None:
    client = shared.start(0, Class.BE, "dlsym", "memory", cap_bytes=1_000_000)
    memory = ("Alloc_v2", "AllocManaged", "AllocPitch_v2", "AllocAsync", "AllocFromPoolAsync")
    arrays = ("ArrayCreate_v2", "Array3DCreate_v2", "MipmappedArrayCreate")
    for kind in (*(f"Mem{name}" for name in memory), "MemCreate", *arrays):
        left = 1_000_000 - (1024 * 585 if "Pitch" in kind else 600_000)
        assert client.line() == [kind, "0", "2", str(left), "1000000"]
    assert client.line() == ["up", "0", "0", "0", "0", "1000000"]
    slot = shared.page.slot(0)
    assert (slot.used_bytes, slot.denied) == (600_000, 9)
    with pytest.raises(InvalidSpec, match="600000"):
        shared.page.cap(0, 500_000)
    shared.page.cap(0, 600_000)


def test_processes_of_one_container_share_a_cap(shared: Shared, directory: Path) -> None:
    """Also those that were forked; and what the dead had is free again."""
    env = shared.page.share(1_000_000)

    def another(number: int) -> Client:
        client = Client(directory, f"process{number}", ["dlsym", "keep", 400_000], env)
        shared.clients.append(client)
        assert client.line() == ["up"]
        return client

    def asks(client: Client, line: str = "") -> list[str]:
        client.tell(line)
        return client.line()

    first, second = another(1), another(2)
    assert asks(first) == ["0", "600000", "1000000"]
    assert asks(second) == ["0", "200000", "1000000"]
    assert asks(first) == asks(second) == ["2", "200000", "1000000"]
    first.end()
    assert asks(second, "fork") == ["0", "200000", "1000000"], "the child has what the first had"
    assert asks(second) == ["0", "200000", "1000000"], "and has ended"
    assert asks(another(3)) == ["2", "200000", "1000000"]
    held = [shared.page.slot(n) for n in range(4)]
    assert sum(slot.used_bytes for slot in held if slot.pid) == 800_000


def test_no_more_processes_than_slots_have_memory(shared: Shared, directory: Path) -> None:
    env = shared.page.share(1_000_000)
    with shared.page.path.open("r+b") as file:
        for slot in range(30):
            file.seek(128 + slot * 128 + 4)
            file.write(os.getpid().to_bytes(4, "little"))  # who lives
    client = Client(directory, "late", ["dlsym", "keep", 1], env)
    shared.clients.append(client)
    assert client.line() == ["up"]
    client.tell()
    assert client.line() == ["2", "0", "1000000"]


@pytest.mark.parametrize("mode", [Mode.STALL, Mode.STALL | Mode.STRICT])
def test_a_process_whose_launches_nobody_sees_is_noticed(shared: Shared, mode: Mode) -> None:
    shared.page.rule(mode)
    client = shared.start(0, Class.BE, "hidden", "some", 100)
    if mode & Mode.STRICT:
        said = client.process.communicate()[1]
        assert client.process.returncode == 78 and b"cannot be preempted" in said
    else:
        assert client.line() == ["up"]
    slot = shared.page.slot(0)
    assert slot.status is Status.BLIND and slot.launched == 0
    assert "none of its launches" in complaint(slot)


def test_a_process_without_the_shim_is_told_apart(shared: Shared, directory: Path) -> None:
    environment = dict(shared.page.admit(0, Class.BE))
    del environment["LD_PRELOAD"]
    client = Client(directory, "bare", ["dlsym", "some", 3], environment)
    shared.clients.append(client)
    assert client.line() == ["up"]
    assert "never loaded" in complaint(shared.page.slot(0))


def test_without_a_page_every_call_is_passed_on(shared: Shared, directory: Path) -> None:
    client = Client(directory, "free", ["dlsym", "some", 3], {"LD_PRELOAD": str(built(directory))})
    shared.clients.append(client)
    assert client.line() == ["up"] and client.waves == 3


@pytest.mark.parametrize("how", ["dlsym", "address"])
@pytest.mark.parametrize("mode", [Mode.YIELD, Mode.YIELD | Mode.STALL, Mode.YIELD | Mode.WINDOW])
def test_each_block_runs_once_however_often_its_grid_is_torn(
    shared: Shared, how: str, mode: Mode
) -> None:
    """The kernel is carried out, prologue and all. The gate is closed and opened at moments drawn
    from a seed, until grids were torn and repairs taken back."""
    shared.page.rule(mode, window=8)
    client = shared.start(0, Class.BE, how, "work", 8, 40, 1_000_000)
    assert client.line() == ["up"]
    draw, deadline_s = random.Random(4), time.monotonic() + LIMIT_S
    while (slot := shared.page.slot(0)).mended < 20 or slot.repairs < slot.mended + 5:
        assert time.monotonic() < deadline_s, slot
        shared.page.close_gate()
        time.sleep(draw.choice([0, 0.0005, 0.003, 0.008]))
        shared.page.open_gate()
        time.sleep(draw.choice([0.0003, 0.002, 0.012]))
    client.tell()
    launched, early, wrong = map(int, client.line())
    assert launched > 0 and slot.left > 0
    assert early == 0, "nothing behind a torn grid has begun before it was whole"
    assert wrong == 0, "each block has run once"


def nvrtc() -> Path | None:
    """NVIDIA's own, which needs no GPU to compile; the package nvidia-cuda-nvrtc has it."""
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        for path in Path(place).glob("**/libnvrtc.so.*"):
            return path
    return None


needs_nvrtc = pytest.mark.skipif(
    nvrtc() is None, reason="the package nvidia-cuda-nvrtc is not here"
)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("what", ["work_of_code", "work_of_text"])
@pytest.mark.parametrize("real", [False, pytest.param(True, marks=needs_nvrtc)])
def test_what_nvrtc_makes_yields_as_machine_code_too(
    shared: Shared, tmp_path: Path, what: str, linked: bool, real: bool
) -> None:
    """The stand-in carries out PTX only: where numbers are right, what ran had the prologue."""
    if linked and (real or what == "work_of_text"):
        pytest.skip("who is linked differs only in how the code is asked for")
    library, user = (nvrtc(), None) if real else compiling(tmp_path)
    env = {"CLIENT_NVRTC": str(library), **({"CLIENT_LINKED": str(user)} if linked else {})}
    shared.page.rule(Mode.YIELD | Mode.STALL)
    client = shared.start(0, Class.BE, "dlsym", what, 4, 40, 1_000_000, env=env)
    assert client.line() == ["up"]
    until(lambda: torn_and_mended(shared.page))
    client.tell()
    launched, early, wrong = map(int, client.line())
    slot = shared.page.slot(0)
    assert (early, wrong) == (0, 0)
    assert slot.whole == launched, "of each pair, the one that looks cannot yield"
    assert slot.launched == 2 * launched


@pytest.mark.parametrize("by_kernel", [0, 1])
def test_kernels_of_libraries_yield_by_either_of_their_handles(
    shared: Shared, by_kernel: int
) -> None:
    shared.page.rule(Mode.YIELD | Mode.STALL)
    client = shared.start(0, Class.BE, "dlsym", "work_of_library", 4, 40, 1_000_000, by_kernel)
    assert client.line() == ["up"]
    until(lambda: torn_and_mended(shared.page))
    client.tell()
    launched, early, wrong = map(int, client.line())
    assert (early, wrong, shared.page.slot(0).whole) == (0, 0, launched)


def torn_and_mended(page: ControlPage) -> bool:
    page.close_gate()
    left = page.slot(0).left
    time.sleep(0.003)
    page.open_gate()
    return left > 0 and page.slot(0).mended > 2


def test_machine_code_of_which_nothing_is_known_runs_through_and_is_counted(shared: Shared) -> None:
    shared.page.rule(Mode.YIELD | Mode.STALL)
    client = shared.start(0, Class.BE, "dlsym", "some", 20)
    assert client.line() == ["up"]
    slot = shared.page.slot(0)
    assert (slot.launched, slot.gated, slot.whole, slot.left) == (20, 20, 20, 0)


def test_a_torn_grid_leaves_the_device_to_others_until_the_gate_opens(shared: Shared) -> None:
    shared.page.rule(Mode.YIELD | Mode.STALL)
    client = shared.start(0, Class.BE, "dlsym", "work", 4, 400, 4_000_000)
    assert client.line() == ["up"]
    until(lambda: client.waves >= 3)
    shared.page.close_gate()
    begun = client.waves
    assert settled(client) - begun < 30, "of its 50 waves"
    assert shared.page.slot(0).mended == 0
    shared.page.open_gate()
    until(lambda: shared.page.slot(0).mended == 1)
    client.tell()
    assert client.line()[1:] == ["0", "0"]


def test_a_node_without_a_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(DeviceUnavailable, match="C compiler"):
        built(tmp_path / "none")


def test_a_library_is_kept_where_it_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "run", tmp_path / "node"
    assert home(first, second) == first
    found = os.statvfs(tmp_path)
    flags = SimpleNamespace(f_flag=found.f_flag | os.ST_NOEXEC)
    monkeypatch.setattr(os, "statvfs", lambda _: flags)
    assert home(first, second) == second


def test_slots_that_do_not_exist_are_refused(shared: Shared) -> None:
    with pytest.raises(InvalidSpec, match="30 processes"):
        shared.page.admit(30, Class.BE)
