"""Who a browser is: a signed cookie that names a token, and what proves that a form is ours.

Nothing is kept here. A session ends when its time is over, or with the token by which it began;
signing out makes the browser forget it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from singularity.api.auth import CODE, Caller, Role, Tokens
from singularity.primitives.errors import Forbidden, Unauthenticated
from singularity.primitives.transport import SigningKey

LASTS_S: Final = 12 * 3600
_MOST: Final = 1000  # characters of a cookie that are looked at


class Sessions:
    """Safe to share between threads, and by servers of one planet."""

    def __init__(self, key: SigningKey, tokens: Tokens) -> None:
        self._key, self._tokens = key.session_key(), tokens
        # Browsers do not tell the ports of one machine apart: each planet has its own names.
        self.cookie = f"singularity_{key.mark}"
        self.form_cookie = f"{self.cookie}_form"

    def begin(self, shown: str, now_s: float) -> str:
        """The cookie of whoever has shown a token, or a code that is used up by it. Raises
        Unauthenticated, and Forbidden to agents, routers and who only may join."""
        shown = shown.strip()
        if shown.startswith(f"{CODE}_"):
            who = self._tokens.redeem(shown, now_s)
        else:
            who = self._tokens.caller(f"Bearer {shown}", now_s)
        if who.role < Role.VIEWER:
            raise Forbidden("the pages are for tokens of people, not of nodes or routers")
        said = f"{int(now_s) + LASTS_S} {secrets.token_urlsafe(12)} {who.token}"
        body = urlsafe_b64encode(said.encode()).decode()
        return f"{body}.{self._sign('session', body)}"

    def caller(self, cookie: str, now_s: float) -> Caller:
        """Whose cookie that is, as the token stands now. Raises Unauthenticated."""
        body, _, signature = cookie[:_MOST].partition(".")
        if not hmac.compare_digest(self._sign("session", body).encode(), signature.encode()):
            raise Unauthenticated("sign in first")
        until_s, _, token = urlsafe_b64decode(body).decode().split(" ", 2)
        if now_s >= int(until_s):
            raise Unauthenticated("the session is over; sign in again")
        return self._tokens.holder(token, now_s)

    def proof(self, cookie: str) -> str:
        """What a form carries, so that only pages of ours can make a browser with `cookie` send
        it."""
        return self._sign("form", cookie)

    def check(self, cookie: str, proof: str) -> None:
        """Raises Forbidden."""
        same = hmac.compare_digest(self.proof(cookie).encode(), proof.encode())
        if not cookie or not same:
            raise Forbidden("this form was not made for you, or is too old; load the page again")

    def _sign(self, what: str, text: str) -> str:
        said = f"{what}\0{text}".encode("utf-8", "replace")
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()
