"""Who leads: one holder per name at a time, with an epoch that fences what a former one writes.

A lease row and nothing else: a holder that is stopped (not dead) keeps an advisory lock for ever,
but not a lease. Taken over at once when released, else when it expires.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from singularity.primitives.errors import NotLeader

from .bulk import Json, Question, ask
from .tables import lease
from .wire import Answer

_LED: Final = "SELECT epoch FROM lease WHERE name = %s FOR SHARE"
_NOW = func.extract("epoch", func.clock_timestamp())  # the database's: one clock for all


@dataclass(slots=True)
class Lease:
    """`lasts_s` bounds how long a takeover from a dead or stopped leader takes."""

    engine: Engine
    name: str
    holder: str
    lasts_s: float = 4.0
    epoch: int | None = None

    def hold(self) -> bool:
        """Take or renew the lease; call it every second or so. False: somebody else leads."""
        mine = (lease.c.holder == self.holder) & (lease.c.epoch == (self.epoch or -1))
        values = {"holder": self.holder, "expires_at_s": _NOW + self.lasts_s}
        with self.engine.begin() as db:
            renewed = update(lease).where(lease.c.name == self.name, mine).values(values)
            self.epoch = db.execute(renewed.returning(lease.c.epoch)).scalar()
            if self.epoch is None:
                taken = upsert(lease).values(name=self.name, epoch=1, **values)
                taken = taken.on_conflict_do_update(
                    index_elements=["name"],
                    set_={**values, "epoch": lease.c.epoch + 1},
                    where=lease.c.expires_at_s < _NOW,
                )
                self.epoch = db.execute(taken.returning(lease.c.epoch)).scalar()
        return self.epoch is not None

    def guard(self, db: Connection) -> None:
        """Raises NotLeader unless we lead until `db` commits: the row stays locked till then."""
        (found,) = ask(db, self.question)
        self.judge(found)

    @property
    def question(self) -> Question:
        """Whose answer `judge` takes, for who asks more in the same message."""
        return Question(_LED, (self.name,))

    def judge(self, found: Answer) -> None:
        """See guard."""
        if self.epoch is None or found != [(self.epoch,)]:
            raise NotLeader(f"{self.holder} does not lead {self.name} any more")

    def release(self) -> None:
        """Let somebody else take over at once."""
        if self.epoch is not None:
            with self.engine.begin() as db:
                mine = (lease.c.name == self.name) & (lease.c.epoch == self.epoch)
                db.execute(update(lease).where(mine).values(expires_at_s=0.0))
            self.epoch = None


def leaders(db: Connection) -> list[Json]:
    """Of each loop who leads it, the how manieth leader that is, and for how long still; less than
    nothing where nobody leads."""
    query = select(lease.c.name, lease.c.holder, lease.c.epoch, lease.c.expires_at_s - _NOW)
    return [
        {"loop": name, "holder": holder, "epoch": epoch, "left_s": float(left_s)}
        for name, holder, epoch, left_s in db.execute(query.order_by(lease.c.name))
    ]
