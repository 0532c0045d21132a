"""One service at one router: who is served next, and by which replica. No clock, no I/O, no chance.

Requests wait in two lanes, for the canary and for everybody else. In each lane who came first is
first, but those who have waited for longer than was promised come after those who have not: when
more come than can be served some are late, and not everybody after them too. A replica has at most
so many requests of ours at once. Of two that are drawn by lot the one with fewer is taken; replicas
of this region come first. Whoever waits is given a replica, or an answer when its time is over;
what could not be delivered goes back to where it stood.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Final

ReplicaId = tuple[str, int]  # a job and its incarnation
_NEVER: Final = float("-inf")


class Lane(IntEnum):
    STABLE = 0
    CANARY = 1


class Why(StrEnum):
    """Why a request is answered by us and not by a replica."""

    FULL = "full"
    LATE = "late"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the table says of a service. `canary` is a revision, 0 for none; `canary_share` of all
    requests are for it. Nobody should wait longer than `promised_s`; None: nothing is promised."""

    concurrency: int = 1
    queue_most: int = 100
    timeout_s: float = 60.0
    promised_s: float | None = None
    canary: int = 0
    canary_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Policy:
    """How replicas that fail are left out, and when those of other regions help.

    A replica that failed `eject_after` times in a row is left out for `out_first_s`, each time
    twice as long up to `out_most_s`; then one request at a time tries it. Others help when more
    requests wait than `spill_after` times what the replicas of this region take at once.
    """

    eject_after: int = 2
    out_first_s: float = 0.25
    out_most_s: float = 8.0
    spill_after: float = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a replica is, as the table says."""

    id: ReplicaId
    address: str
    revision: int = 1
    local: bool = True
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Replica:
    """`busy` requests of ours are with it. It failed `failures` times in a row, is left out until
    `out_until_s`, and then `tried` by one request before it is given others."""

    place: Place
    busy: int = 0
    failures: int = 0
    out_until_s: float = _NEVER
    tried: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """Ordered by `number`, which rises with every request of a service. `avoid` are replicas that
    it could not be delivered to."""

    number: int
    lane: Lane = field(compare=False)
    came_s: float = field(compare=False)
    until_s: float = field(compare=False)
    avoid: frozenset[ReplicaId] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class Turn:
    """A request with a replica, since `began_s`."""

    request: Request
    place: Place
    began_s: float


# -- what happens, and what is to be done ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Came:
    number: int


@dataclass(frozen=True, slots=True)
class Left:
    """Whoever asked is gone, while the request waited."""

    number: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The replica is done with it. `healthy` None: that says nothing of the replica."""

    turn: Turn
    healthy: bool | None = True


@dataclass(frozen=True, slots=True)
class Returned:
    """The replica could not be reached, or broke off before it did anything."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Told:
    """The table is new. `rules` None: there is no such service any more."""

    rules: Rules | None
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Passed:
    """Time, up to what `Pool.next_s` said."""


Event = Came | Left | Ended | Returned | Told | Passed


@dataclass(frozen=True, slots=True)
class Send:
    turn: Turn


@dataclass(frozen=True, slots=True)
class Refuse:
    number: int
    why: Why


Effect = Send | Refuse


@dataclass(frozen=True, slots=True)
class Pool:
    """`seed` is what the next lot is drawn from."""

    rules: Rules | None = None
    policy: Policy = Policy()
    replicas: Mapping[ReplicaId, Replica] = field(default_factory=dict)
    waiting: tuple[tuple[Request, ...], tuple[Request, ...]] = ((), ())
    seed: int = 0

    @property
    def queued(self) -> int:
        return sum(len(lane) for lane in self.waiting)

    @property
    def busy(self) -> int:
        return sum(replica.busy for replica in self.replicas.values())

    def next_s(self, now_s: float) -> float | None:
        """When something is due though nothing happens: somebody's patience ends, or a replica may
        be tried again. None while nobody waits."""
        patience = [lane[0].until_s for lane in self.waiting if lane]
        outs = [r.out_until_s for r in self.replicas.values() if r.out_until_s > now_s]
        return min(patience + outs) if patience else None


def react(pool: Pool, event: Event, now_s: float) -> tuple[Pool, tuple[Effect, ...]]:
    """Fold one event in. Of every request that came there is one Send or Refuse, unless it left
    first; one that was sent ends, or returns and is as if it had just been waiting."""
    desk = _Desk(pool, now_s)
    desk.take(event)
    desk.serve()
    if isinstance(event, Came):
        desk.refuse_if_full(event.number)
    return desk.pool(), tuple(desk.effects)


class _Desk:
    """One event's work on a pool."""

    def __init__(self, pool: Pool, now_s: float) -> None:
        self._before, self._now_s = pool, now_s
        self._rules, self._policy, self._seed = pool.rules, pool.policy, pool.seed
        self._replicas = dict(pool.replicas)
        self._waiting = tuple(deque(lane) for lane in pool.waiting)
        self.effects: list[Effect] = []

    def pool(self) -> Pool:
        stable, canary = (tuple(lane) for lane in self._waiting)
        return replace(
            self._before,
            rules=self._rules,
            replicas=self._replicas,
            waiting=(stable, canary),
            seed=self._seed,
        )

    # -- events ----------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        match event:
            case Came():
                self._came(event.number)
            case Left():
                self._drop(event.number)
            case Ended():
                self._free(event.turn, event.healthy)
            case Returned():
                self._free(event.turn, False)
                request = event.turn.request
                again = replace(request, avoid=request.avoid | {event.turn.place.id})
                insort(self._waiting[request.lane], self._patient(again))
            case Told():
                self._told(event)
            case Passed():
                pass  # serve() looks at the clock

    def _came(self, number: int) -> None:
        rules = self._rules or Rules()
        share = rules.canary_share if rules.canary else 0.0
        lane = Lane.CANARY if self._lot(1 << 30) < share * (1 << 30) else Lane.STABLE
        until_s = self._now_s + rules.timeout_s
        self._waiting[lane].append(Request(number, lane, self._now_s, until_s))

    def _patient(self, request: Request) -> Request:
        """By the rules of now, so that who came first is also the first whose time is over."""
        timeout_s = (self._rules or Rules()).timeout_s
        return replace(request, until_s=request.came_s + timeout_s)

    def _free(self, turn: Turn, healthy: bool | None) -> None:
        replica = self._replicas[turn.place.id]
        assert replica.busy > 0, "a request ends once"
        replica = replace(replica, busy=replica.busy - 1)
        news = turn.place.address == replica.place.address and turn.began_s >= replica.out_until_s
        if news:  # else it began elsewhere, or before we had our doubts
            replica = replace(replica, tried=False)
            if healthy is not None:
                replica = replace(replica, failures=0) if healthy else self._failed(replica)
        self._keep(replica)

    def _failed(self, replica: Replica) -> Replica:
        failures, policy = replica.failures + 1, self._policy
        times = failures - policy.eject_after
        if times < 0:
            return replace(replica, failures=failures)
        out_s = min(policy.out_first_s * 2.0 ** min(times, 30), policy.out_most_s)
        return replace(replica, failures=failures, out_until_s=self._now_s + out_s)

    def _told(self, told: Told) -> None:
        self._rules = told.rules
        self._waiting = tuple(deque(map(self._patient, lane)) for lane in self._waiting)
        named = {place.id: place for place in told.places}
        for id_, replica in list(self._replicas.items()):
            place = named.pop(id_, replace(replica.place, leaving=True))
            moved = place.address != replica.place.address
            known = Replica(place, replica.busy) if moved else replace(replica, place=place)
            self._keep(known)
        for place in named.values():
            self._keep(Replica(place))

    def _keep(self, replica: Replica) -> None:
        """Of those who leave, as long as they have requests of ours."""
        if replica.place.leaving and not replica.busy:
            self._replicas.pop(replica.place.id, None)
        else:
            self._replicas[replica.place.id] = replica

    def _drop(self, number: int) -> bool:
        """Whether it was waiting."""
        for lane in self._waiting:
            for request in lane:
                if request.number == number:
                    lane.remove(request)
                    return True
        return False

    def _queued(self) -> int:
        return sum(len(lane) for lane in self._waiting)

    # -- serving ---------------------------------------------------------------------------------

    def serve(self) -> None:
        """Give replicas to those who wait, in order and as far as they go."""
        for kind, lane in zip(Lane, self._waiting, strict=True):
            while lane and lane[0].until_s <= self._now_s:
                self.effects.append(Refuse(lane.popleft().number, Why.LATE))
            while lane and (place := self._choose(kind, lane[first := self._first(lane)])):
                self._send(lane[first], place)
                del lane[first]
            while lane and self._rules is None:
                self.effects.append(Refuse(lane.popleft().number, Why.GONE))

    def _first(self, lane: Sequence[Request]) -> int:
        """Who is next: of those who wait as was promised the one who came first, else of all."""
        if self._rules is None or self._rules.promised_s is None:
            return 0
        late = bisect_right(lane, self._now_s - self._rules.promised_s, key=lambda r: r.came_s)
        return late if late < len(lane) else 0

    def refuse_if_full(self, number: int) -> None:
        """The newest, when no replica was free for it and too many wait already."""
        full = self._rules is not None and self._queued() > self._rules.queue_most
        if full and self._drop(number):
            self.effects.append(Refuse(number, Why.FULL))

    def _send(self, request: Request, place: Place) -> None:
        replica = self._replicas[place.id]
        tried = replica.tried or self._in_doubt(replica)
        self._replicas[place.id] = replace(replica, busy=replica.busy + 1, tried=tried)
        self.effects.append(Send(Turn(request, place, self._now_s)))

    def _choose(self, lane: Lane, request: Request) -> Place | None:
        eligible = self._eligible(lane)
        room = [r for r in eligible if r.place.local and self._has_room(r)]
        if not room and self._is_long(eligible):
            room = [r for r in eligible if self._has_room(r)]
        room = [r for r in room if r.place.id not in request.avoid] or room
        return self._better_of_two(room).place if room else None

    def _is_long(self, eligible: list[Replica]) -> bool:
        """Whether so many wait that those of other regions shall help."""
        here = sum(r.place.local and not self._in_doubt(r) for r in eligible)
        slots = here * (self._rules or Rules()).concurrency
        return self._queued() > self._policy.spill_after * slots

    def _eligible(self, lane: Lane) -> list[Replica]:
        """Those of the lane's revision, else all: while the canary has no replica that works, its
        share is served as ever; the canary gets more than its share only if it is all there is."""
        if self._rules is None:
            return []
        staying = [r for r in self._replicas.values() if not r.place.leaving]
        canary = [r for r in staying if r.place.revision == self._rules.canary]
        if lane is Lane.CANARY:
            return [r for r in canary if not self._in_doubt(r)] or staying
        return [r for r in staying if r.place.revision != self._rules.canary] or canary

    def _has_room(self, replica: Replica) -> bool:
        assert self._rules is not None
        if self._in_doubt(replica) and (replica.tried or self._now_s < replica.out_until_s):
            return False
        return replica.busy < self._rules.concurrency

    def _in_doubt(self, replica: Replica) -> bool:
        return replica.failures >= self._policy.eject_after

    def _better_of_two(self, room: list[Replica]) -> Replica:
        if len(room) == 1:
            return room[0]
        first = self._lot(len(room))
        second = (first + 1 + self._lot(len(room) - 1)) % len(room)
        return min(room[first], room[second], key=lambda replica: replica.busy)

    def _lot(self, among: int) -> int:
        """One of `among`, from a linear congruence: even enough, and the same for the same seed."""
        self._seed = (self._seed * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (self._seed >> 33) * among >> 31
