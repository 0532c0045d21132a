"""/v1/tokens: who may come in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field, StringConstraints

from singularity.api.auth import parse_role
from singularity.api.documents import Document
from singularity.api.nouns import AToken, Tokens
from singularity.api.schemas import Name
from singularity.api.services import Admin, Serving

router = APIRouter(prefix="/v1/tokens", tags=["tokens"])


class TokenRequest(Document):
    role: str
    name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,100}$")]
    project: Name | None = None
    expires_s: Annotated[float, Field(gt=0, le=10 * 365 * 86400.0)] | None = None


@router.post("", status_code=201)
def create(body: TokenRequest, _: Admin, serving: Serving) -> AToken:
    """The answer is the only time that the token is shown."""
    now_s = serving.clock.now_s()
    until_s = None if body.expires_s is None else now_s + body.expires_s
    role = parse_role(body.role)
    id_, text = serving.tokens.create(role, body.name, now_s, body.project, until_s)
    shown = body.model_dump(include={"role", "name", "project"})
    return {"id": id_, "token": text, "expires_at_s": until_s, **shown}


@router.get("")
def known(_: Admin, serving: Serving) -> Tokens:
    return {"items": serving.tokens.known(), "next": None}


@router.delete("/{token_id}", status_code=204)
def revoke(token_id: str, _: Admin, serving: Serving) -> Response:
    serving.tokens.revoke(token_id, serving.clock.now_s())
    return Response(status_code=204)
