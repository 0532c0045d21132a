"""The pages in a browser, over a planet that is real: what happens is shown, calmly, to everybody.

Needs a Chromium on the path; `apt-get install chromium` brings one.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from singularity.cli.embedded import Planet
from singularity.cli.fleet import Cluster, Fleet, Region

PATIENCE_S = 120.0
FLEET = Fleet(
    regions={
        name: Region(clusters={f"{name}-a": Cluster(nodes=1, devices=2)}) for name in ("us", "eu")
    }
)
PRINTING = Path(__file__).parent / "jobs" / "printing.py"
PAGES = ("", "queue", "jobs", "services", "fairness", "fleet", "fleet/us-a-1", "drains", "plane")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


class Scene:
    """A planet, and somebody who steers it beside the browser."""

    def __init__(self, planet: Planet, root: Path) -> None:
        self.planet, self.root = planet, root
        headers = {"Authorization": f"Bearer {planet.token}"}
        self.http = httpx.Client(base_url=planet.url, headers=headers, timeout=30)

    def call(self, method: str, path: str, body: object = None) -> Any:
        answer = self.http.request(method, f"/v1/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def until(self, what: str, ready: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < deadline_s, f"never: {what}"
            time.sleep(0.1)

    def job(self, name: str) -> str:
        """One that prints; its id."""
        place = self.root / name
        place.mkdir()
        run = [sys.executable, str(PRINTING), str(place)]
        spec = {"name": name, "run": run, "devices": "cpu:1", "checkpoint": {"every": "never"}}
        return str(self.call("POST", "jobs", spec)["id"])

    def running(self, job: str) -> None:
        self.until(f"{job} to run", lambda: self.call("GET", f"jobs/{job}")["state"] == "running")

    def tell(self, name: str, line: str) -> None:
        (self.root / name / line).touch()

    def link(self) -> str:
        return self.planet.url + str(self.call("POST", "logins")["path"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("pages")
    with Planet(root / "planet", FLEET) as planet:
        found = Scene(planet, root)
        yield found
        found.http.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def newcomer(chromium: Browser, scene: Scene, **how: Any) -> Iterator[Page]:
    """A browser that comes in by a link."""
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **how})
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    page.goto(scene.link())
    page.wait_for_url("**/ui/")
    try:
        yield page
    finally:
        context.close()


@contextmanager
def visitor(chromium: Browser, scene: Scene, **how: Any) -> Iterator[Page]:
    """One to which nothing that a page does may go wrong."""
    wrong = list[str]()
    with newcomer(chromium, scene, **how) as page:
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        yield page
        assert wrong == []


def patient(what: Any) -> Any:
    expect.set_options(timeout=1000 * PATIENCE_S)
    return expect(what)


def test_a_link_signs_in_leaves_nothing_in_the_address_and_is_good_once(
    chromium: Browser, scene: Scene
) -> None:
    link = scene.link()
    context = chromium.new_context()
    page = context.new_page()
    page.goto(link)
    page.wait_for_url("**/ui/")
    assert "sgc_" not in page.content()
    cookies = {c["name"]: c for c in context.cookies()}
    (session,) = [c for name, c in cookies.items() if not name.endswith("_form")]
    assert session["httpOnly"] and session["sameSite"] == "Strict" and session["path"] == "/ui"
    page.goto(f"{scene.planet.url}/ui/login?next=/ui/fleet")
    page.wait_for_url("**/ui/fleet")  # who is signed in need not do it again
    page.locator(".menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/ui/login")
    page.goto(f"{scene.planet.url}/ui/queue")
    page.wait_for_url("**/ui/login?next=*")
    page.goto(link)
    patient(page.get_by_role("alert")).to_contain_text("not valid")
    page.get_by_label("Token").fill(scene.planet.token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/ui/")
    context.close()


@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_can_be_read(
    chromium: Browser, scene: Scene, width: int, scheme: Any
) -> None:
    name = f"fits-{width}-{scheme}"
    job = scene.job(name)
    scene.running(job)
    viewport = {"width": width, "height": 800}
    with visitor(chromium, scene, viewport=viewport, color_scheme=scheme) as page:
        for path in (*PAGES, f"jobs/{job}"):
            page.goto(f"{scene.planet.url}/ui/{path}")
            patient(page.get_by_role("heading", level=1)).to_be_visible()
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(wide) == 0, f"{path} is wider than {width}"
            ground, ink = page.evaluate(_COLOURS)
            assert (ground < ink) == (scheme == "dark")
            assert max(ground, ink) + 0.05 >= 7 * (min(ground, ink) + 0.05), "hard to read"
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className") == "skip"
        page.goto(f"{scene.planet.url}/ui/jobs/{job}")
        patient(page.locator("#why")).to_contain_text("placed")
        patient(page.locator(".gantt .life.running")).to_have_count(1)
    scene.tell(name, "end")


# Of the page and of its text: how bright they are.
_COLOURS = """() => {
  const style = getComputedStyle(document.body);
  const bright = (text) => {
    const [r, g, b] = text.match(/[0-9.]+/g).map((n) => n / 255).map(
      (n) => (n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [bright(style.backgroundColor), bright(style.color)];
}"""


def test_what_happens_is_shown_without_a_new_page(chromium: Browser, scene: Scene) -> None:
    with visitor(chromium, scene, viewport={"width": 1280, "height": 300}) as page:
        page.goto(f"{scene.planet.url}/ui/jobs")
        page.evaluate("window.same = true")
        job = scene.job("shown")
        row = page.locator(f"#job-{job}")
        patient(row).to_contain_text("running")
        row.get_by_role("link").focus()
        page.evaluate("window.scrollTo(0, 40)")
        top = page.evaluate("window.scrollY")
        scene.tell("shown", "end")
        patient(row).to_contain_text("succeeded")
        assert page.evaluate("window.same"), "the page was loaded anew"
        assert page.evaluate("document.activeElement.textContent") == "shown"
        assert page.evaluate("window.scrollY") == top

        page.goto(f"{scene.planet.url}/ui/jobs/{job}")
        page.get_by_text("1 life as a table").click()
        with page.expect_response(
            lambda r: "hx-request" in r.request.headers and r.url.endswith(job)
        ):
            page.evaluate(
                "document.getElementById('main').dispatchEvent(new CustomEvent('refresh'))"
            )
        patient(page.locator("details.more")).to_have_attribute("open", "")


def test_nobody_is_asked_while_nobody_looks(chromium: Browser, scene: Scene) -> None:
    with visitor(chromium, scene) as page:
        page.clock.install()
        page.goto(f"{scene.planet.url}/ui/fleet")
        asked: list[str] = []
        page.on("request", lambda r: asked.append(r.url) if "hx-request" in r.headers else None)

        def look(how: str) -> None:
            page.evaluate(
                """how => {
                  const said = {value: how, configurable: true};
                  Object.defineProperty(document, "visibilityState", said);
                  document.dispatchEvent(new Event("visibilitychange"));
                }""",
                how,
            )

        look("hidden")
        page.clock.run_for(60_000)
        assert asked == []
        with page.expect_request(lambda r: "hx-request" in r.headers):
            look("visible")
        live = page.get_by_role("button", name="Live")
        live.click()
        patient(page.get_by_role("button", name="Paused")).to_have_attribute(
            "aria-pressed", "false"
        )
        asked.clear()
        page.clock.run_for(60_000)
        assert asked == []
        page.reload()
        patient(page.get_by_role("button", name="Paused")).to_be_visible()
        page.get_by_role("button", name="Paused").click()
        with page.expect_request(lambda r: "hx-request" in r.headers):
            page.clock.run_for(6_000)


def test_a_log_is_told_live_as_text_and_to_its_end(chromium: Browser, scene: Scene) -> None:
    job = scene.job("talks")
    scene.running(job)
    with visitor(chromium, scene) as page:
        page.goto(f"{scene.planet.url}/ui/jobs/{job}")
        log = page.locator("#log pre")
        patient(log).to_contain_text("<img src=x onerror='window.hit=1'><script>")
        for line in ("line-1", "line-2"):
            scene.tell("talks", line)
            patient(log).to_contain_text(f"here is {line}")
        page.get_by_role("button", name="Live").click()
        page.get_by_role("button", name="Paused").click()  # goes on where it was, and tells it once
        scene.tell("talks", "line-3")
        patient(log).to_contain_text("here is line-3")
        assert log.inner_text().count("here is line-2") == 1
        scene.tell("talks", "end")
        patient(page.locator("#log")).to_contain_text("that is all of it")
        assert log.locator("*").count() == 0 and page.evaluate("window.hit") is None


def test_what_is_not_ours_does_not_run(chromium: Browser, scene: Scene) -> None:
    with newcomer(chromium, scene) as page:
        refused = page.evaluate("""() => new Promise((done) => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => {
              found.push(event.violatedDirective);
              if (found.length === 2) done([found.sort(), window.hit ?? null]);
            });
            const script = document.createElement("script");
            script.textContent = "window.hit = 1";
            document.body.append(script);
            const image = document.createElement("img");
            image.src = "http://127.0.0.1:9/x";
            document.body.append(image);
        })""")
        assert refused == [["img-src", "script-src-elem"], None]


def test_trouble_is_said_and_what_was_known_stays(chromium: Browser, scene: Scene) -> None:
    with newcomer(chromium, scene) as page:
        page.context.set_offline(True)  # a server that is killed is back before a page asks again
        patient(page.locator("#trouble")).to_contain_text("The server does not answer")
        patient(page.get_by_role("heading", name="us", exact=True)).to_be_visible()
        page.context.set_offline(False)
        patient(page.locator("#trouble")).to_be_hidden()
