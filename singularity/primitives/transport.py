"""Letters from the control plane to a node: signed here, carried by Celery, opened there.

Celery is a letter-box, not an executor: the one task, `agent.exec`, hands the sealed letter to the
agent and returns in milliseconds. Its own message signing is not used (the task name is outside
the signature and pickled messages run code); what counts is the Ed25519 signature over the
envelope, which names node, epoch and place in the log, so a letter that is forged, replayed or
sent to another node is worth nothing. This is the only module that imports Celery.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import ValidationError

from .errors import BrokerDown, LetterRefused
from .messages import Envelope, Papers, Sealed, Start, warrant_text
from .model import JobId, Sealing
from .nodes import NodeId

if TYPE_CHECKING:
    from celery import Celery

_CONTEXT: Final = b"singularity-letter-v1\0"
_TASK: Final = "agent.exec"
_TOGETHER: Final = 50  # letters in one message


class SigningKey:
    """The control plane's private key. Agents only ever see `public`, and what is derived from the
    private half for them. Checkpoints are `sealing`: without this key they cannot be read again."""

    def __init__(self, key: Ed25519PrivateKey, sealing: Sealing = Sealing.ENCRYPTED) -> None:
        self._key, self._sealing = key, sealing
        self._raw = key.private_bytes_raw()
        self.public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        self.mark = hashlib.sha256(self.public.encode()).hexdigest()[:8]  # of the planet
        self._of_projects: dict[str, str] = {}

    @classmethod
    def load_or_create(cls, path: Path, sealing: Sealing = Sealing.ENCRYPTED) -> SigningKey:
        """Read the key at `path`, or make one there, readable by its owner only."""
        with suppress(FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_bytes(Ed25519PrivateKey.generate().private_bytes_raw())
            try:
                os.link(draft, path)  # atomic: of two processes that start at once, one wins
            finally:
                draft.unlink()
        return cls(Ed25519PrivateKey.from_private_bytes(path.read_bytes()), sealing)

    def gang_secret(self, job: JobId, incarnation: int) -> str:
        """What the nodes of one gang prove to each other that they are of it."""
        about = f"gang\0{job}\0{incarnation}".encode()
        return hmac.new(self._raw, about, hashlib.sha256).hexdigest()

    def papers(self, project: str, job: JobId, incarnation: int) -> Papers | None:
        """By which this life of the job saves and reads checkpoints of the project. A life's
        signing key and a project's key are derived, so nothing of them is ever stored here."""
        if self._sealing is Sealing.NONE:
            return None
        seed = self._derived(f"manifests\0{project}\0{job}\0{incarnation}")
        life = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        public = base64.b64encode(life).decode()
        warrant = self._key.sign(warrant_text(project, job, incarnation, public))
        return Papers(
            project=project,
            key=self._project_key(project) if self._sealing is Sealing.ENCRYPTED else "",
            seed=base64.b64encode(seed).decode(),
            public=public,
            warrant=base64.b64encode(warrant).decode(),
            plane=self.public,
        )

    def _project_key(self, project: str) -> str:
        if (found := self._of_projects.get(project)) is None:
            found = base64.b64encode(self._derived(f"project\0{project}")).decode()
            self._of_projects[project] = found
        return found

    def _derived(self, purpose: str) -> bytes:
        info = f"singularity-store-v1\0{purpose}".encode()
        kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info)
        return kdf.derive(self._raw)

    def broker_password(self, node: NodeId, generation: int) -> str:
        """By which the node comes to the broker; another for each credential that it is given."""
        return self._derived(f"broker\0{node}\0{generation}").hex()

    def session_key(self) -> bytes:
        """By which the cookies and forms of browsers are signed."""
        return self._derived("browsers")

    def seal(self, envelope: Envelope) -> Sealed:
        command = envelope.command
        if isinstance(command, Start):
            secret = self.gang_secret(command.job, command.incarnation)
            papers = self.papers(command.project, command.job, command.incarnation)
            command = command.model_copy(update={"secret": secret, "papers": papers})
            envelope = envelope.model_copy(update={"command": command})
        body = envelope.model_dump_json()
        signature = self._key.sign(_CONTEXT + body.encode())
        return Sealed(body=body, sig=base64.b64encode(signature).decode())


class VerifyKey:
    """The control plane's public key, as an agent holds it."""

    def __init__(self, public: str) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public))

    def open(self, sealed: Sealed, node: NodeId) -> Envelope:
        """The envelope inside, or LetterRefused when it is not from the control plane to `node`."""
        try:
            signature = base64.b64decode(sealed.sig, validate=True)
            self._key.verify(signature, _CONTEXT + sealed.body.encode())
            envelope = Envelope.model_validate_json(sealed.body)
        except (InvalidSignature, ValueError, ValidationError) as error:
            raise LetterRefused(f"letter refused: {type(error).__name__}", node=node) from None
        if not node == envelope.node == envelope.command.node:
            raise LetterRefused(f"letter for {envelope.node} arrived at {node}", node=node)
        return envelope


class Letterbox:
    """The sending end. Safe to share between threads; reconnects by itself."""

    def __init__(self, broker_url: str) -> None:
        self._app = _app(broker_url)

    def publish(self, node: NodeId, letters: Sequence[Sealed]) -> None:
        """Put letters into the node's queue. Raises BrokerDown; then some may have arrived."""
        from kombu.exceptions import OperationalError

        try:
            with self._app.producer_pool.acquire(block=True, timeout=5) as producer:
                for first in range(0, len(letters), _TOGETHER):
                    part = letters[first : first + _TOGETHER]
                    self._app.send_task(
                        _TASK,
                        args=[[letter.model_dump() for letter in part]],
                        queue=queue_of(node),
                        producer=producer,
                        retry=False,
                    )
        except (OperationalError, OSError) as error:
            raise BrokerDown(f"the broker does not answer: {error}; the relay repeats") from error


def queue_of(node: NodeId) -> str:
    return f"node.{node}"


def keys_of(node: NodeId) -> tuple[str, ...]:
    """Patterns of all that the node's consumer reads or writes in a Redis. The names of nodes have
    no character that means something there, nor a colon."""
    queue = queue_of(node)
    bindings = (f"_kombu.binding{kind}.{queue}" for kind in ("", "_permanent"))
    return queue, f"{queue}:*", *bindings


def consume(broker_url: str, node: NodeId, deliver: Callable[[Sealed], None]) -> None:
    """Run a Celery worker on the node's queue until SIGTERM. `deliver` must be quick.

    No gossip, no mingle, no remote control, JSON only, results ignored. A letter counts as taken
    before `deliver` runs: one lost here is pulled over HTTP or repeated by the relay.
    """
    app = _app(broker_url)
    queue = queue_of(node)  # what is taken and not acknowledged is beside it, and not with others'
    app.conf.broker_transport_options |= {
        "unacked_key": f"{queue}:unacked",
        "unacked_index_key": f"{queue}:unacked_index",
        "unacked_mutex_key": f"{queue}:unacked_mutex",
        "priority_steps": [0],
    }

    def execute(letters: list[dict[str, Any]]) -> None:
        for letter in letters:
            deliver(Sealed.model_validate(letter))

    app.task(name=_TASK)(execute)
    app.worker_main(
        [
            *("--quiet", "worker", "--pool", "solo", "--loglevel", "WARNING"),
            *("--hostname", f"agent@{node}", "--queues", queue_of(node)),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
    )


def _app(broker_url: str) -> Celery:
    from celery import Celery

    app = Celery("singularity", broker=broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_prefetch_multiplier=64,  # headroom: a full prefetch hangs after a broker restart
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "retry_on_timeout": True,
        },
    )
    return app
