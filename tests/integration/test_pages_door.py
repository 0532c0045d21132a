"""The pages as a browser without scripts has them: who sees what, and what is put into them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from urllib.parse import quote, urlsplit

import httpx
import pytest
from api_client import ADMIN, JOIN, SPEC, Agent, Api, bearer, run, turn

from singularity.primitives.messages import Report

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"
PAGES = ("", "queue", "jobs", "services", "fairness", "fleet", "drains", "plane")
OF_PLANET = ("drains", "plane")
SERVICE = {
    "name": "cnn",
    "kind": "serve",
    "run": "python serve.py --port $PORT",
    "devices": "cpu:1",
    "replicas": {"min": 1, "max": 2},
    "target": {"concurrency": 2},
    "slo": {"wait_p99": "1s"},
}
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


# -- who comes in ---------------------------------------------------------------------------------


def test_nothing_but_login_and_files_is_shown_to_strangers(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet)
    inner = [f"jobs/{job['id']}{more}" for more in ("", "/why", "/log")]
    with visitor(api) as http:
        for path in (*PAGES, *inner, "services/x", "fleet/east-1", "drains/x", "session"):
            answer = http.get(f"/ui/{path}")
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/ui/login?next=%2Fui%2F")
            again = http.get(f"/ui/{path}", headers={"HX-Request": "true"})
            assert again.status_code == 401 and again.headers["HX-Redirect"].startswith("/ui/login")
        see(http, "/ui/login")
        assert http.get("/ui/nothing").status_code == 404
        assert http.get("/").headers["location"] == http.get("/ui").headers["location"] == "/ui/"
        for found in Html(http.get("/ui/login").text).values("link", "href"):
            assert http.get(found).status_code == 200
        for path in ("/ui/static/../app.py", "/ui/static/%2e%2e/app.py", "/ui/static/vendor"):
            assert http.get(path).status_code == 404


def test_a_token_signs_in_and_is_not_told_again(api: Api) -> None:
    with visitor(api) as http:
        answer = sign_in(http, ADMIN, "/ui/queue?limit=5")
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/queue?limit=5")
        (cookie,) = [c for c in answer.headers.get_list("set-cookie") if "Max-Age=43200" in c]
        for word in ("HttpOnly", "SameSite=strict", "Path=/ui"):
            assert word in cookie
        assert "Secure" not in cookie and ADMIN.partition(".")[2] not in cookie
        page = see(http, "/ui/")
        assert http.get("/ui/session").status_code == 204
        assert ADMIN.partition(".")[2] not in page.text
    with visitor(api) as http:
        http.headers["X-Forwarded-Proto"] = "https"
        answer = sign_in(http, ADMIN)
        assert all("Secure" in c for c in answer.headers.get_list("set-cookie") if "43200" in c)


@pytest.mark.parametrize(
    "shown", ["", "x", "sgl_first.wrong", "sgc_x.y", JOIN, "Ünicode", "a" * 5000]
)
def test_who_shows_nothing_good_stays_outside(api: Api, shown: str) -> None:
    with visitor(api) as http:
        answer = sign_in(http, shown)
        assert answer.status_code in (401, 403)
        assert 'role="alert"' in answer.text and "43200" not in str(answer.headers)


@pytest.mark.parametrize(
    "back", ["//evil.test/", "https://evil.test/", "/v1/jobs", "/ui/\\evil", ""]
)
def test_signing_in_leads_nowhere_but_to_a_page(api: Api, back: str) -> None:
    with visitor(api) as http:
        assert sign_in(http, ADMIN, back).headers["location"] == "/ui/"


def test_a_link_signs_in_once(api: Api) -> None:
    viewer = api.token("viewer", "vision")
    made = api.ok("POST", "/v1/logins", token=viewer)
    path = urlsplit(made["path"])
    assert (path.path, path.fragment) == ("/ui/login", made["code"])
    with visitor(api, made["code"]) as http:
        assert "viewer of project vision" in see(http, "/ui/").text
    with visitor(api) as http:
        assert sign_in(http, made["code"]).status_code == 401
    assert api.call("POST", "/v1/logins", token=api.token("router"))[0] == 403
    assert api.call("GET", "/v1/jobs", token=made["code"])[0] == 401


def test_a_session_ends_by_signing_out_and_with_its_token(api: Api) -> None:
    made = api.ok("POST", "/v1/tokens", {"role": "viewer", "name": "me"})
    with visitor(api, made["token"]) as http:
        proof = proof_in(http, "/ui/")
        assert http.post("/ui/logout", data={"proof": proof}).status_code == 303
        assert http.get("/ui/").status_code == 303
    with visitor(api, made["token"]) as http:
        see(http, "/ui/")
        api.ok("DELETE", f"/v1/tokens/{made['id']}")
        assert http.get("/ui/").status_code == 303


def test_forms_of_others_are_refused(api: Api) -> None:
    with visitor(api, ADMIN) as http, visitor(api, ADMIN) as other:
        for proof in ("", "x", proof_in(other, "/ui/"), proof_in(http, "/ui/login")):
            assert http.post("/ui/logout", data={"proof": proof}).status_code == 403
        good = {"proof": proof_in(http, "/ui/")}
        for origin in ("https://evil.test", "null"):
            answer = http.post("/ui/logout", data=good, headers={"Origin": origin})
            assert answer.status_code == 403
        assert http.get("/ui/", headers={"Host": "evil.test"}).status_code == 403
        see(http, "/ui/")
    with visitor(api) as http:
        assert http.post("/ui/login", data={"shown": ADMIN}).status_code == 403


def test_a_cookie_is_nothing_to_the_routes(api: Api) -> None:
    with visitor(api, ADMIN) as http:
        for cookie in http.cookies.jar:
            answer = httpx.get(
                f"{api.http.base_url}/v1/jobs", headers={"Cookie": f"{cookie.name}={cookie.value}"}
            )
            assert answer.status_code == 401
            assert api.call("GET", "/v1/jobs", token=cookie.value or "")[0] == 401


def test_every_answer_says_what_a_browser_shall_refuse(api: Api) -> None:
    with visitor(api, ADMIN) as http:
        style = Html(http.get("/ui/").text).values("link", "href")[-1]
        for path in ("/ui/", "/ui/login", "/ui/nothing", "/ui/jobs/none", style):
            answer = http.get(path)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'") and "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy and "script-src 'self';" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            kept = answer.headers["cache-control"]
            assert ("immutable" in kept) == (path == style) and (kept == "no-store") != (
                path == style
            )


# -- who sees what --------------------------------------------------------------------------------


def test_whoever_has_one_project_sees_what_the_routes_would_show(
    api: Api, fleet: list[Agent]
) -> None:
    jobs = {p: run(api, fleet, name=f"of-{p}", project=p) for p in ("vision", "speech")}
    api.ok(
        "POST",
        "/v1/jobs",
        {**SPEC, "name": "patient", "project": "speech", "devices": "cpu:4", "ranks": 1},
    )
    services = {
        p: api.ok("POST", "/v1/services", {**SERVICE, "project": p, "name": f"svc-{p}"})
        for p in jobs
    }
    drain = api.ok("POST", "/v1/drains", {"target": "node/east-2"})
    tokens = {
        role: api.token(role, "vision") for role in ("viewer", "submitter", "operator", "admin")
    }
    for role, token in {**tokens, "all": ADMIN}.items():
        with visitor(api, token) as http:
            everything = role == "all"
            for name in PAGES:
                allowed = everything or name not in OF_PLANET
                page = see(http, f"/ui/{name}", 200 if allowed else 403) if allowed else None
                if page is None:
                    assert http.get(f"/ui/{name}").status_code == 403
                    continue
                assert ("of-speech" in page.text) <= everything
                assert ("svc-speech" in page.text) <= everything
                assert (f"/ui/{OF_PLANET[0]}" in page.values("a", "href")) == everything
            assert "of-vision" in see(http, "/ui/jobs").text
            assert ("patient" in see(http, "/ui/queue").text) == everything
            assert "svc-vision" in see(http, "/ui/services").text
            mine = 200 if everything else 404
            others = {
                f"jobs/{jobs['speech']['id']}": mine,
                f"jobs/{jobs['speech']['id']}/why": mine,
            }
            others |= {f"jobs/{jobs['speech']['id']}/log": mine, "jobs/of-speech": mine}
            others |= {
                f"services/{services['speech']['id']}": mine,
                "services/svc-speech/why": mine,
            }
            others[f"drains/{drain['id']}"] = 200 if everything else 403
            for path, status in others.items():
                with http.stream("GET", f"/ui/{path}") as answer:
                    assert answer.status_code == status, (role, path)
            see(http, f"/ui/jobs/{jobs['vision']['id']}")
            see(http, f"/ui/services/{services['vision']['id']}")
            node = see(http, f"/ui/fleet/{jobs['speech']['placement'][0]['node']}")
            assert (jobs["speech"]["id"] in node.text) == everything


def test_the_world_counts_others_without_naming_them(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet, name="of-speech", project="speech", tier="premium")
    with visitor(api, api.token("viewer", "vision")) as http:
        text = " ".join(see(http, "/ui/").text.split())
        assert "others 1" in text and "premium" not in text
    with visitor(api, ADMIN) as http:
        assert "premium 1" in " ".join(see(http, "/ui/").text.split())


def test_an_empty_planet_says_what_to_do(api: Api) -> None:
    told = {
        "": "singularity up",
        "queue": "singularity run job.yaml",
        "jobs": "singularity run --ranks",
        "services": "singularity run examples/inference/service.yaml",
        "fairness": "singularity quota set",
        "fleet": "singularity nodes token",
        "drains": "singularity drain region/NAME --plan",
        "plane": "loop schedule",
    }
    with visitor(api, ADMIN) as http:
        for name, command in told.items():
            assert command in see(http, f"/ui/{name}").text, name


def test_what_is_refreshed_is_the_part_that_changes(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet)
    with visitor(api, ADMIN) as http:
        for name in (*PAGES, "jobs/digits"):
            whole = http.get(f"/ui/{name}").text
            part = http.get(f"/ui/{name}", headers={"HX-Request": "true"}).text
            assert part.strip().startswith("<main") and part.strip().endswith("</main>")
            assert Html(part).tags[0] in Html(whole).tags


# -- what is put in -------------------------------------------------------------------------------


def test_what_jobs_nodes_and_people_say_stays_text(api: Api, fleet: list[Agent]) -> None:
    job = run(api, fleet, name="script")
    known = {"job": job["id"], "incarnation": job["incarnation"]}
    agent = next(a for a in fleet if a.node == job["placement"][0]["node"])
    agent.beat(Report(**known, node=agent.node, phase="refused", reason=EVIL))
    for _ in range(3):
        turn(api, fleet)
    api.ok("POST", "/v1/drains", {"target": "node/east-1", "reason": EVIL})
    api.ok("POST", "/v1/nodes/north-1/quarantine", {"reason": EVIL})
    found = 0
    with visitor(api, ADMIN) as http:
        (drain,) = api.ok("GET", "/v1/drains")["items"]
        paths = [
            *PAGES,
            "jobs/script",
            "fleet/north-1",
            f"fleet/{agent.node}",
            f"drains/{drain['id']}",
        ]
        for path in (*paths, f"jobs?project={EVIL}", "jobs?state=running"):
            page = see(http, f"/ui/{path}")
            assert "49" not in re.findall(r"\{\{7\*7\}\}|onerror=alert\(2\)>\"'&(\d+)", page.text)
            assert not [a for t, a in page.tags if t == "img" and a.get("src") == "x"]
            found += EVIL in page.text
        for path in (f"/ui/jobs/{EVIL}", f"/ui/fleet/{EVIL}", f"/ui/services/{EVIL}"):
            see(http, path.replace("/script", "%2Fscript"), 404)
        assert found >= 4
    with visitor(api) as http:
        page = see(http, f"/ui/login?next={quote(f'/ui/{EVIL}')}")
        assert f"/ui/{EVIL}" in page.values("input", "value")


def test_a_log_is_told_as_it_was_printed_and_goes_on_where_it_was_broken_off(
    api: Api, fleet: list[Agent]
) -> None:
    job = run(api, fleet)
    path = api.serving.settings.volume / "jobs" / job["id"] / "logs" / "rank-0.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{EVIL}\nsecond\n")
    api.ok("POST", f"/v1/jobs/{job['id']}/cancel")
    for _ in range(3):
        turn(api, fleet)
    with visitor(api, ADMIN) as http:
        whole = http.get(f"/ui/jobs/{job['id']}/log")
        assert whole.headers["content-type"].startswith("text/event-stream")
        (last,) = re.findall(r"^id: (\d+)$", whole.text, re.M)
        assert int(last) == path.stat().st_size and "<script>" in whole.text
        first = len(EVIL) + 1
        rest = http.get(f"/ui/jobs/{job['id']}/log?after={first}")
        assert "second" in rest.text and "script" not in rest.text
        same = http.get(f"/ui/jobs/{job['id']}/log", headers={"Last-Event-ID": str(first)})
        assert same.text == rest.text
        for ended in ({"params": {"after": last}}, {"headers": {"Last-Event-ID": last}}):
            assert http.get(f"/ui/jobs/{job['id']}/log", **ended).status_code == 204
        assert http.get(f"/ui/jobs/{job['id']}/log?rank=7").status_code == 404


# -- what the routes tell for it ------------------------------------------------------------------


def test_the_queue_tells_who_is_next_what_binds_and_what_would_help(
    api: Api, fleet: list[Agent]
) -> None:
    place = {"regions": "us-east"}
    run(api, fleet, name="holds", devices="cpu:4", ranks=4, project="vision", place=place)
    for n, tier in enumerate(("basic", "standard")):
        wide = {"name": f"wide-{n}", "tier": tier, "devices": "cpu:12", "ranks": 12}
        assert api.call("POST", "/v1/jobs", {**SPEC, **wide})[0] == 422, "no cluster is so large"
        api.ok("POST", "/v1/jobs", {**SPEC, **wide, "devices": "cpu:8", "ranks": 8})
    api.schedule()
    found = api.ok("GET", "/v1/queue")
    assert [j["name"] for j in found["items"]] == ["wide-1", "wide-0"] and found["waiting"] == 2
    first, second = found["items"]
    why = api.ok("GET", f"/v1/jobs/{first['job']}/why")
    assert first["reasons"] == why["reasons"][: len(first["reasons"])]
    assert first["change"] == why["changes"][0]
    assert first["eta"]["after"] == why["eta"]["after"] and first["eta"]["p50_s"] is not None
    assert second["reasons"][0]["kind"] in ("order", "capacity")
    assert api.ok("GET", "/v1/queue?limit=1")["waiting"] == 2
    held = api.ok("POST", f"/v1/jobs/{second['job']}/suspend")
    found = api.ok("GET", "/v1/queue")
    assert [j["job"] for j in found["items"]] == [first["job"], held["id"]]
    assert found["items"][1]["reasons"][0]["kind"] == "held"
    assert api.ok("GET", "/v1/queue", token=api.token("viewer", "vision"))["waiting"] == 0


def test_a_drain_burns_down_as_its_jobs_leave(api: Api, fleet: list[Agent]) -> None:
    jobs = [
        run(api, fleet, name=f"job-{n}", place={"regions": ["us-east", "eu-*"]}) for n in range(2)
    ]
    home = {j["region"] for j in jobs}
    assert len(home) == 1
    target = f"region/{home.pop()}"
    drain = api.ok("POST", "/v1/drains", {"target": target, "within": "1h"})
    first = api.ok("GET", f"/v1/drains/{drain['id']}/burndown")["points"]
    assert [p["remaining"] for p in first] == [2, 2] and first[0]["at_s"] == drain["at_s"]
    for _ in range(6):
        turn(api, fleet, step=5)
    points = api.ok("GET", f"/v1/drains/{drain['id']}/burndown")["points"]
    assert [p["remaining"] for p in points] == [2, 1, 0, 0]
    assert [p["at_s"] for p in points] == sorted(p["at_s"] for p in points)
    api.ok("DELETE", f"/v1/drains/{drain['id']}")
    ended = api.ok("GET", f"/v1/drains/{drain['id']}/burndown")["points"]
    assert [p["remaining"] for p in ended] == [2, 1, 0, 0]
    with visitor(api, ADMIN) as http:
        assert "ended" in see(http, f"/ui/drains/{drain['id']}").text
    assert (
        api.call("GET", f"/v1/drains/{drain['id']}/burndown", token=api.token("viewer", "x"))[0]
        == 403
    )


def test_the_plane_tells_who_leads_and_what_is_broken(api: Api, fleet: list[Agent]) -> None:
    run(api, fleet)
    found = api.ok("GET", "/v1/plane")
    assert found["figures"]["invariant_violations"] == 0 and found["jobs"]["running"] == 1
    assert {"outbox_letters", "unaccounted_devices"} <= set(found["figures"])
    told = api.http.get("/metrics", headers=bearer(ADMIN)).text
    for name, value in found["figures"].items():
        assert f"singularity_{name} {value:g}" in told or name == "outbox_letters"
    assert found["loops"] == [], "no loop runs here"
    assert api.call("GET", "/v1/plane", token=api.token("viewer", "vision"))[0] == 403
