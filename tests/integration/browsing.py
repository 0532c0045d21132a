"""A browser without scripts, and what a page says and is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser

import httpx
from api_client import Api

VOID = {"meta", "link", "input", "img", "br"}


class Html(HTMLParser):
    """What a page says, and what it is made of: every tag closed, ids of one thing each."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", list[str]()
        self.feed(source)
        self.close()
        assert self._open == [], "tags that are not closed"
        ids = [a["id"] for _, a in self.tags if "id" in a]
        assert len(ids) == len(set(ids)), ids

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, (tag, self._open)

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [a[name] or "" for t, a in self.tags if t == tag and name in a]


@contextmanager
def visitor(api: Api, token: str | None = None) -> Iterator[httpx.Client]:
    """A browser; with a token, one that is signed in."""
    with httpx.Client(base_url=api.http.base_url, timeout=20.0) as http:
        if token is not None:
            answer = sign_in(http, token)
            assert answer.status_code == 303, answer.text
        yield http


def proof_in(http: httpx.Client, path: str = "/ui/login") -> str:
    page = Html(http.get(path).text)
    (found,) = [a["value"] for t, a in page.tags if t == "input" and a.get("name") == "proof"]
    return found or ""


def sign_in(http: httpx.Client, shown: str, back: str = "/ui/") -> httpx.Response:
    sent = {"proof": proof_in(http), "shown": shown, "next": back}
    return http.post("/ui/login", data=sent)


def see(http: httpx.Client, path: str, status: int = 200) -> Html:
    """A page, which is sound in itself."""
    answer = http.get(path)
    assert answer.status_code == status, (path, answer.status_code, answer.text)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Html(answer.text)
    for tag, attributes in page.tags:
        assert not {a for a in attributes if a.startswith("on") or a == "style"}, (tag, attributes)
    assert all(s.startswith("/ui/static/") for s in page.values("script", "src"))
    assert len(page.values("script", "src")) == sum(t == "script" for t, _ in page.tags)
    assert sum(t == "h1" for t, _ in page.tags) == 1 and sum(t == "main" for t, _ in page.tags) == 1
    return page
