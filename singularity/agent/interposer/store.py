"""The store the job sees: it outlives the file behind it."""

from __future__ import annotations

from datetime import timedelta

from torch._C._distributed_c10d import FileStore, PrefixStore, Store

from .page import Rendezvous
from .slots import Slots

_UNBOUNDED = -1  # workers: a file that knows their number is removed by the last to leave


class VirtualStore(Store):
    """A Store over the file of the current rendezvous.

    A file, not a server: nothing listens, so nothing has to be moved or kept alive, and between
    two operations no descriptor is open. Keys that the job wrote itself are written again into
    each new file: every rank repeats its own (a counter: its own sum), and since a group cannot
    connect before all its members are here, no rank goes on before all have repeated theirs.
    Where several ranks wrote different values to one key, any of them may win.
    """

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots
        self._file: Store | None = None
        self._job: Store | None = None  # the job's keys, apart from those of the communicators
        self._values: dict[str, bytes | str] = {}
        self._sums: dict[str, int] = {}
        self._timeout = timedelta(minutes=30)

    @property
    def file(self) -> Store:
        """The store for communicators to meet in."""
        if self._file is None:
            raise RuntimeError("the store is not connected")
        return self._file

    @property
    def connected(self) -> bool:
        """Whether there is a file behind the store."""
        return self._file is not None

    def connect(self, rendezvous: Rendezvous) -> None:
        """Open the file of `rendezvous` and repeat in it what this rank had written."""
        file = FileStore(rendezvous["store"], _UNBOUNDED)
        self._file = PrefixStore(f"generation-{rendezvous['generation']}", file)
        self._job = PrefixStore("job", self._file)
        self._job.set_timeout(self._timeout)
        for key, value in self._values.items():
            self._job.set(key, value)  # type: ignore[arg-type]  # bytes are as welcome as str
        for key, amount in self._sums.items():
            self._job.add(key, amount)

    def drop(self) -> None:
        """Let go of the file."""
        self._file = self._job = None

    @property
    def _keys(self) -> Store:
        if self._job is None:
            raise RuntimeError("the store is not connected")
        return self._job

    def set(self, key: str, value: bytes | str) -> None:
        self._values[key] = value
        self._sums.pop(key, None)
        self._keys.set(key, value)  # type: ignore[arg-type]  # bytes are as welcome as str

    def get(self, key: str) -> bytes:
        with self._slots.yielded():
            return self._keys.get(key)

    def add(self, key: str, value: int) -> int:
        self._sums[key] = self._sums.get(key, 0) + value
        return self._keys.add(key, value)

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        found = self._keys.compare_set(key, expected_value, desired_value)
        if found == _as_bytes(desired_value):
            self._values[key] = desired_value
        return found

    def check(self, keys: list[str]) -> bool:
        return self._keys.check(keys)

    def delete_key(self, key: str) -> bool:
        self._values.pop(key, None)
        self._sums.pop(key, None)
        return self._keys.delete_key(key)

    def num_keys(self) -> int:
        return self._keys.num_keys()

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        with self._slots.yielded():
            if timeout is None:
                self._keys.wait(keys)
            else:
                self._keys.wait(keys, timeout)

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout = timeout
        if self._job is not None:
            self._job.set_timeout(timeout)

    @property
    def timeout(self) -> timedelta:
        return self._timeout


def _as_bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value
