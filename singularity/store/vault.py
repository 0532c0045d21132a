"""What makes chunks unreadable to others and manifests unforgeable.

A chunk is named by the blake3 of its bytes, keyed by the project where there is a key: equal
memory is stored once inside a project, and a name tells nothing to who has no key. Each chunk is
encrypted by a key of its own, made from its name, so no key ever meets two plaintexts that matter.
A manifest is signed by the key of the life that saved it, which the control plane warrants.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from typing import Final, Self

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict, ValidationError

from singularity.primitives.errors import ImageCorrupt, ImageForged
from singularity.primitives.messages import Papers, warrant_text
from singularity.primitives.model import JobId

from . import packing
from .blobs import Bytes

_NONCE_BYTES: Final = 12
_NAMES: Final = "singularity store v1: names of chunks"
_BODIES: Final = "singularity store v1: bodies"
_SIGNED: Final = b"singularity-manifest-v1\0"
_MANIFEST_MOST_BYTES: Final = 1 << 30


class _Head(BaseModel):
    """The first line of a manifest; what follows it is the body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    project: str
    encrypted: bool
    public: str = ""
    warrant: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Life:
    """Whose manifest it is, or should be."""

    job: JobId
    incarnation: int


class Vault:
    """Of one project. Thread-safe."""

    def __init__(self, papers: Papers | None) -> None:
        """Without papers everything is in the clear, and anybody's manifest is believed."""
        self._papers = papers
        key = base64.b64decode(papers.key) if papers else b""
        self._names = blake3(key, derive_key_context=_NAMES).digest() if key else None
        self._bodies = blake3(key, derive_key_context=_BODIES).digest() if key else None

    @classmethod
    def open(cls) -> Self:
        return cls(None)

    # -- chunks ----------------------------------------------------------------------------------

    def name(self, data: Bytes) -> str:
        """Of a chunk; equal for equal bytes, inside the project."""
        if self._names is None:
            return blake3(data).hexdigest()
        return blake3(data, key=self._names).hexdigest()

    def pack(self, name: str, data: memoryview, base: Bytes | None = None) -> bytes:
        """As a patch over `base`, which is as long, if there is one."""
        small = packing.pack(data) if base is None else packing.pack_patch(data, base)
        return self._close(name, small)

    def unpack(self, name: str, packed: bytes, length: int, base: Bytes | None = None) -> Bytes:
        """The chunk, if these are the `length` bytes of that name; else ImageCorrupt."""
        try:
            small = self._opened(name, packed)
            data: Bytes
            if base is None:
                data = packing.unpack(small, length)
            else:
                data = packing.unpack_patch(small, base)
        except (InvalidTag, ValueError) as error:
            raise ImageCorrupt(f"chunk {name} cannot be unpacked", chunk=name) from error
        if len(data) != length or self.name(data) != name.partition("-")[0]:
            raise ImageCorrupt(f"chunk {name} is damaged", chunk=name)
        return data

    # -- manifests -------------------------------------------------------------------------------

    def sign(self, life: Life, text: bytes) -> bytes:
        """A manifest that says `text`, as it is stored."""
        papers = self._papers
        packed = packing.pack(text)
        project = papers.project if papers else ""
        head = _Head(project=project, encrypted=self._bodies is not None)
        body = self._close(_label(life), packed)
        if papers is not None:
            seed = base64.b64decode(papers.seed)
            signature = Ed25519PrivateKey.from_private_bytes(seed).sign(_statement(life, body))
            signed = {"signature": base64.b64encode(signature).decode()}
            known = {"public": papers.public, "warrant": papers.warrant}
            head = head.model_copy(update=signed | known)
        return head.model_dump_json().encode() + b"\n" + body

    def read(self, life: Life, stored: bytes) -> bytes:
        """The text of a manifest of `life`. Raises ImageForged when that life never signed it, and
        ImageCorrupt when it is damaged."""
        head, body = _split(stored)
        if self._papers is not None:
            _verify(self._papers, head, life, body)
        elif head.encrypted:
            raise ImageCorrupt(f"the manifest of {life.job} is encrypted, and there is no key")
        try:
            packed = self._opened(_label(life), body) if head.encrypted else body
            return packing.unpack(packed, _MANIFEST_MOST_BYTES)
        except (InvalidTag, ValueError) as error:
            raise ImageCorrupt(f"the manifest of {life.job} cannot be unpacked") from error

    # -- what goes from node to node -------------------------------------------------------------

    def seal(self, label: str, data: bytes) -> bytes:
        """Readable inside the project only, and only as what `label` says."""
        return self._close(label, data)

    def unseal(self, label: str, data: bytes) -> bytes:
        """Raises ImageCorrupt when that was not sealed so."""
        try:
            return self._opened(label, data)
        except (InvalidTag, ValueError) as error:
            raise ImageCorrupt(f"what came as {label} was sealed as something else") from error

    # -- small things ----------------------------------------------------------------------------

    def _close(self, label: str, data: bytes) -> bytes:
        if self._bodies is None:
            return data
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + _cipher(self._bodies, label).encrypt(nonce, data, label.encode())

    def _opened(self, label: str, data: bytes) -> bytes:
        if self._bodies is None:
            return data
        nonce, body = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
        return _cipher(self._bodies, label).decrypt(nonce, body, label.encode())


def _cipher(key: bytes, label: str) -> AESGCM:
    """With a key of its own for each label."""
    return AESGCM(blake3(label.encode(), key=key).digest())


def project_of(stored: bytes) -> str:
    """Whose manifest it says it is. Raises ImageCorrupt."""
    return _split(stored)[0].project


def _split(stored: bytes) -> tuple[_Head, bytes]:
    line, mark, body = stored.partition(b"\n")
    try:
        if mark:
            return _Head.model_validate_json(line), body
    except ValidationError:
        pass  # told below
    raise ImageCorrupt("this is no manifest")


def _verify(papers: Papers, head: _Head, life: Life, body: bytes) -> None:
    if not head.signature:
        raise ImageForged(f"the manifest of {life.job} is not signed", job=life.job)
    if head.project != papers.project:
        detail = f"the manifest of {life.job} is of project {head.project}, not {papers.project}"
        raise ImageForged(detail, job=life.job)
    warranted = warrant_text(papers.project, life.job, life.incarnation, head.public)
    try:
        plane = Ed25519PublicKey.from_public_bytes(base64.b64decode(papers.plane))
        plane.verify(base64.b64decode(head.warrant, validate=True), warranted)
        signer = Ed25519PublicKey.from_public_bytes(base64.b64decode(head.public, validate=True))
        signer.verify(base64.b64decode(head.signature, validate=True), _statement(life, body))
    except (InvalidSignature, ValueError) as error:
        detail = f"the manifest was not signed by life {life.incarnation} of {life.job}"
        raise ImageForged(detail, job=life.job, incarnation=life.incarnation) from error
    if head.encrypted is not bool(papers.key):
        raise ImageCorrupt(f"the manifest of {life.job} is sealed otherwise", job=life.job)


def _label(life: Life) -> str:
    return json.dumps(["manifest", life.job, life.incarnation])


def _statement(life: Life, body: bytes) -> bytes:
    return _SIGNED + _label(life).encode() + b"\0" + body
