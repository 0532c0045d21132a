"""Every error this system raises on purpose.

* SingularityError
  x Rejected            the caller asked for something we refuse (4xx)
    + InvalidSpec · Unauthenticated · Forbidden · NotFound · NotAllowed
    + Conflict
      - IllegalTransition · IdempotencyMismatch · PlanetBusy · NotEmpty · SchemaNewer
    + Outdated · Unplaceable · StaleIncarnation · LetterRefused · TooLarge · NotCarried
    + BackupDamaged
  x Unavailable         we cannot serve it now, retry is safe (503)
    + BrokerDown · NotLeader · NodeUnreachable · DeviceUnavailable · Overloaded
  x ReplicaFailed       a replica of a service did not answer as it should (502)
    + ReplicaLate       or not in time (504)
  x HandFailed          an agent could not do what it was told; the job is unharmed (500)
    + SandboxFailed · RestoreFailed · ImageUnfit · StoreFull · DeviceFailed
    + CheckpointFailed
      - CannotCarry
    + ImageCorrupt
      - ImageForged
Anything else that escapes is a bug (500).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar


class SingularityError(Exception):
    """Base. `slug` is the stable name clients match on; `status` the HTTP mapping.

    `detail` says what is wrong and what to do; `facts` are the fields of the problem document.
    """

    slug: ClassVar[str] = "internal"
    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts


class Rejected(SingularityError):
    slug, status = "rejected", HTTPStatus.BAD_REQUEST


class InvalidSpec(Rejected):
    slug, status = "invalid-spec", HTTPStatus.UNPROCESSABLE_ENTITY


class Unauthenticated(Rejected):
    slug, status = "unauthenticated", HTTPStatus.UNAUTHORIZED


class Forbidden(Rejected):
    slug, status = "forbidden", HTTPStatus.FORBIDDEN


class NotFound(Rejected):
    slug, status = "not-found", HTTPStatus.NOT_FOUND


class NotAllowed(Rejected):
    """There is such a path, and that is not what can be done with it."""

    slug, status = "method-not-allowed", HTTPStatus.METHOD_NOT_ALLOWED


class Conflict(Rejected):
    slug, status = "conflict", HTTPStatus.CONFLICT


class IllegalTransition(Conflict):
    slug = "illegal-transition"


class IdempotencyMismatch(Conflict):
    slug = "idempotency-mismatch"


class PlanetBusy(Conflict):
    slug = "planet-busy"


class NotEmpty(Conflict):
    """Something is where only something new may be put."""

    slug = "not-empty"


class SchemaNewer(Conflict):
    """A database, or a backup, of a later release than this one."""

    slug = "schema-newer"


class Outdated(Rejected):
    """It has changed since the caller saw it, who asked to be told so."""

    slug, status = "outdated", HTTPStatus.PRECONDITION_FAILED


class Unplaceable(Rejected):
    """The fleet, even empty, cannot hold the gang."""

    slug, status = "unplaceable", HTTPStatus.UNPROCESSABLE_ENTITY


class StaleIncarnation(Rejected):
    """A later life of the job exists; this one may no longer write."""

    slug, status = "stale-incarnation", HTTPStatus.GONE


class LetterRefused(Rejected):
    """A signed letter that is forged, misdirected or malformed."""

    slug, status = "letter-refused", HTTPStatus.FORBIDDEN


class TooLarge(Rejected):
    slug, status = "body-too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class NotCarried(Rejected):
    """A kind of request that routers do not pass on."""

    slug, status = "not-carried", HTTPStatus.NOT_IMPLEMENTED


class BackupDamaged(Rejected):
    """A file that is no backup, or not all of one."""

    slug, status = "backup-damaged", HTTPStatus.UNPROCESSABLE_ENTITY


class Unavailable(SingularityError):
    slug, status = "unavailable", HTTPStatus.SERVICE_UNAVAILABLE


class BrokerDown(Unavailable):
    slug = "broker-down"


class NotLeader(Unavailable):
    slug = "not-leader"


class NodeUnreachable(Unavailable):
    slug = "node-unreachable"


class DeviceUnavailable(Unavailable):
    """There is no such accelerator here, or what drives it is missing; `detail` says which."""

    slug = "device-unavailable"


class Overloaded(Unavailable):
    """As many requests wait already as may."""

    slug = "overloaded"


class ReplicaFailed(SingularityError):
    """What was asked of it may have been done, or not."""

    slug, status = "replica-failed", HTTPStatus.BAD_GATEWAY


class ReplicaLate(ReplicaFailed):
    slug, status = "replica-late", HTTPStatus.GATEWAY_TIMEOUT


class HandFailed(SingularityError):
    slug = "hand-failed"


class SandboxFailed(HandFailed):
    slug = "sandbox-failed"


class CheckpointFailed(HandFailed):
    slug = "checkpoint-failed"


class CannotCarry(CheckpointFailed):
    """It would always fail so, by this engine: another may do it. `here`: on this node only."""

    slug = "cannot-carry"

    def __init__(self, detail: str, *, here: bool = False, **facts: object) -> None:
        super().__init__(detail, **facts)
        self.here = here


class RestoreFailed(HandFailed):
    slug = "restore-failed"


class ImageCorrupt(HandFailed):
    slug = "image-corrupt"


class ImageForged(ImageCorrupt):
    """A manifest that no node with the control plane's warrant has signed, or one of another job.
    Treated as a damaged one: never tried again."""

    slug = "image-forged"


class ImageUnfit(HandFailed):
    """The processors here lack what the image was made with; those of another node may not."""

    slug = "image-unfit"


class DeviceFailed(HandFailed):
    """An accelerator, or the process that stands for it, failed at what it was told to run."""

    slug = "device-failed"


class StoreFull(HandFailed):
    slug, status = "store-full", HTTPStatus.INSUFFICIENT_STORAGE
