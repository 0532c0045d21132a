"""/v1/logins: how whoever has a token lets a browser in without showing it."""

from __future__ import annotations

from fastapi import APIRouter

from singularity.api.services import Serving, Viewer
from singularity.api.views import Json

router = APIRouter(prefix="/v1/logins", tags=["tokens"])


@router.post("", status_code=201)
def login(who: Viewer, serving: Serving) -> Json:
    """A code for the login page, good once and for two minutes; who shows it may see there what the
    caller may see here."""
    code, until_s = serving.tokens.code(who, serving.clock.now_s())
    return {"code": code, "expires_at_s": until_s, "path": f"/ui/login#{code}"}
