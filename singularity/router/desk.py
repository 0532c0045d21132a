"""Where the requests of one service wait: the pool's effects done, its clock looked at."""

from __future__ import annotations

import asyncio
from collections import deque

from singularity.primitives.model import JobId
from singularity.primitives.routing import LoadNote, Route
from singularity.primitives.serving import ServiceId

from .pool import (
    Came,
    Ended,
    Event,
    Left,
    Passed,
    Place,
    Policy,
    Pool,
    Refuse,
    ReplicaId,
    Returned,
    Rules,
    Send,
    Told,
    Turn,
    Why,
    react,
)
from .tally import Tally


class Refused(Exception):
    """The request gets no replica."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


class Desk:
    """Used by one event loop, whose time is the pool's. `region` is whose replicas come first."""

    def __init__(self, region: str, seed: int, policy: Policy) -> None:
        self._loop = asyncio.get_running_loop()
        self._region = region
        self._pool = Pool(policy=policy, seed=seed)
        self._came = 0
        self._awaited: dict[int, asyncio.Future[Turn]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._revision = 1  # as which requests count before a replica has them
        self._leaving: tuple[ReplicaId, ...] = ()
        self.tally = Tally(self._loop.time())

    # -- the table -------------------------------------------------------------------------------

    def tell(self, route: Route | None) -> None:
        """What the table says of the service; None: nothing any more."""
        if route is None:
            self._fold(Told(None))
            return
        places = tuple(
            Place(
                id=(endpoint.job, endpoint.incarnation),
                address=endpoint.address,
                revision=endpoint.revision,
                local=endpoint.region == self._region,
                leaving=endpoint.leaving,
            )
            for endpoint in route.endpoints
        )
        self._leaving = tuple(place.id for place in places if place.leaving)
        stable = [p.revision for p in places if p.revision != route.canary]
        self._revision = max(stable, default=self._revision)
        rules = Rules(
            concurrency=route.concurrency,
            queue_most=route.queue_most,
            timeout_s=route.timeout_s,
            promised_s=route.promised_s,
            canary=route.canary,
            canary_share=route.canary_share,
        )
        self._fold(Told(rules, places))

    # -- requests --------------------------------------------------------------------------------

    async def turn(self) -> Turn:
        """A replica for a new request; to be given back by `end` or `again`. Raises Refused."""
        number, self._came = self._came, self._came + 1
        future = self._expect(number)
        self.tally.came(self._revision, self._loop.time())
        self._fold(Came(number))
        return await self._wait(number, future)

    async def again(self, turn: Turn) -> Turn:
        """The replica did not get the request: the next one. Raises Refused."""
        number = turn.request.number
        future = self._expect(number)
        self._fold(Returned(turn))
        return await self._wait(number, future)

    def end(self, turn: Turn, *, good: bool | None, healthy: bool | None = True) -> None:
        """The request is done with: well, or not, or (None) nobody wanted the answer any more."""
        counts = self.tally.of(turn.place.revision)
        if good:
            counts.finish(self._loop.time() - turn.request.came_s)
        elif good is not None:
            counts.failed += 1
        self._fold(Ended(turn, healthy))

    @property
    def pool(self) -> Pool:
        return self._pool

    def idle(self) -> bool:
        return not self._pool.queued and not self._pool.busy

    def leaving(self) -> dict[JobId, int]:
        """Requests that are still with each replica which is to leave."""
        held = self._pool.replicas
        return {JobId(i[0]): held[i].busy if i in held else 0 for i in self._leaving}

    def notes(self, service: ServiceId) -> list[LoadNote]:
        """What was counted since this was last asked."""
        return self.tally.cut(service, self._revision, self._pool.queued, self._loop.time())

    # -- inside ----------------------------------------------------------------------------------

    def _expect(self, number: int) -> asyncio.Future[Turn]:
        future = self._awaited[number] = self._loop.create_future()
        return future

    async def _wait(self, number: int, future: asyncio.Future[Turn]) -> Turn:
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._awaited.pop(number, None)
                self._fold(Left(number))
            elif future.exception() is None:  # it was given a replica in this very moment
                self._fold(Ended(future.result(), None))
            raise

    def _fold(self, event: Event) -> None:
        """Fold the event in, and those that its effects cause."""
        now_s, events = self._loop.time(), deque([event])
        while events:
            self._pool, effects = react(self._pool, events.popleft(), now_s)
            for effect in effects:
                if isinstance(effect, Send):
                    events.extend(self._send(effect.turn))
                else:
                    self._refuse(effect, now_s)
        self.tally.level(self._pool.queued + self._pool.busy, now_s)
        self._set_timer(now_s)

    def _send(self, turn: Turn) -> tuple[Event, ...]:
        future = self._awaited.pop(turn.request.number)
        if future.cancelled():  # whoever asked has gone, and its task does not know it yet
            return (Ended(turn, None),)
        if not turn.request.avoid:
            waited_s = turn.began_s - turn.request.came_s
            self.tally.of(turn.place.revision).wait(waited_s)
        future.set_result(turn)
        return ()

    def _refuse(self, refuse: Refuse, now_s: float) -> None:
        future = self._awaited.pop(refuse.number)
        counts = self.tally.of(self._revision)
        counts.shed[refuse.why] += 1
        if refuse.why is Why.LATE and self._pool.rules is not None:
            counts.wait(self._pool.rules.timeout_s)
        if not future.cancelled():
            future.set_exception(Refused(refuse.why))

    def _set_timer(self, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self._pool.next_s(now_s)
        if due_s is not None:
            self._timer = self._loop.call_at(due_s, self._fold, Passed())
