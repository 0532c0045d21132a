"""The pages as a browser without scripts has them: who sees what, and what is put into them."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

import httpx
import pytest
from api_client import ADMIN, JOIN, SPEC, Agent, Api, run, turn
from browsing import Html, proof_in, see, sign_in, visitor

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
