// What is live on the pages: refreshing while somebody looks, charts, and the tail of a log.

// -- refreshing: elements with data-live ask for themselves again every so many seconds ------------
const live = document.getElementById("live");
const trouble = document.getElementById("trouble");
const asked = new WeakMap();

function wanted() {
  return document.visibilityState === "visible" && live.getAttribute("aria-pressed") === "true";
}

function refresh(now) {
  for (const part of document.querySelectorAll("[data-live]")) {
    if (!asked.has(part)) asked.set(part, now);
    if (now - asked.get(part) < 1000 * Number(part.dataset.live)) continue;
    asked.set(part, now);
    part.dispatchEvent(new CustomEvent("refresh"));
  }
}

function press(on) {
  live.setAttribute("aria-pressed", String(on));
  live.lastElementChild.textContent = on ? "Live" : "Paused";
  live.firstElementChild.textContent = on ? "●" : "‖";
}

press(sessionStorage.getItem("paused") !== "yes");
live.addEventListener("click", () => {
  const on = live.getAttribute("aria-pressed") !== "true";
  sessionStorage.setItem("paused", on ? "no" : "yes");
  press(on);
  follow();
});
setInterval(() => wanted() && refresh(performance.now()), 250);
document.addEventListener("visibilitychange", () => {
  if (wanted()) refresh(Number.MAX_SAFE_INTEGER);
  for (const part of document.querySelectorAll("[data-live]")) asked.set(part, performance.now());
  follow();
});

// -- trouble: what is shown stays, and it is said that it is old ------------------------------------
let good = new Date();
function stale(why) {
  trouble.textContent = `${why}; this is how it was at ${good.toLocaleTimeString()}.`;
  trouble.hidden = false;
}
document.addEventListener("htmx:error", () => stale("The server does not answer"));
document.addEventListener("htmx:response:error", (event) => {
  const status = event.detail.ctx.response.status;
  if (status !== 401) stale(status === 503 || status === 429 ? "The server is busy" : `The server answers ${status}`);
});
document.addEventListener("htmx:after:swap", () => {
  good = new Date();
  trouble.hidden = true;
  draw();
});

// -- charts: their points are in data-x and data-y, which a refresh changes -------------------------
const charts = new WeakMap();
const WHOLE = [1, 2, 5].flatMap((n) => [0, 1, 2, 3, 4, 5, 6].map((power) => n * 10 ** power)).sort((a, b) => a - b);
const dark = matchMedia("(prefers-color-scheme: dark)");

// As people here write it; seconds only where marks are less than a minute apart, days where more.
function clock(_, marks, __, ___, apart_s) {
  const parts = apart_s >= 86400 ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(apart_s < 60 && { second: "2-digit" }) };
  const told = new Intl.DateTimeFormat(undefined, parts);
  return marks.map((at_s) => told.format(1000 * at_s));
}

function options(place) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const paths = "after" in place.dataset ? uPlot.paths.stepped({ align: 1 }) : "before" in place.dataset ? uPlot.paths.stepped({ align: -1 }) : undefined;
  const mark = Number(place.dataset.mark);
  return {
    width: Math.max(place.clientWidth, 120),
    height: place.clientHeight,
    padding: [8, 8, 0, 0],
    cursor: { y: false },
    scales: { y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.08 : 1] }, x: mark ? { range: (_, low, high) => [low, Math.max(high, mark)] } : {} },
    axes: [{ ...axis, size: 28, space: 64, values: clock }, { ...axis, size: 52, ...("after" in place.dataset && { incrs: WHOLE }) }],
    series: [{}, { label: place.dataset.label, stroke: colour("--accent"), width: 2, fill: colour("--accent-soft"), paths, points: { show: false }, spanGaps: false }],
    hooks: mark ? { draw: [(plot) => {
      const x = plot.valToPos(mark, "x", true);
      plot.ctx.fillStyle = colour("--bad");
      plot.ctx.fillRect(x - 1, plot.bbox.top, 2, plot.bbox.height);
    }] } : {},
  };
}

function draw() {
  for (const place of document.querySelectorAll(".chart")) {
    const said = place.dataset.x + place.dataset.y;
    const points = () => [JSON.parse(place.dataset.x), JSON.parse(place.dataset.y)];
    const known = charts.get(place);
    if (!known) charts.set(place, { said, plot: new uPlot(options(place), points(), place) });
    else if (known.said !== said) {
      known.said = said;
      known.plot.setData(points());
    }
  }
}

function redraw() {
  for (const place of document.querySelectorAll(".chart")) {
    charts.get(place)?.plot.destroy();
    charts.delete(place);
  }
  draw();
}
dark.addEventListener("change", redraw);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) redraw();
  width = innerWidth;
});

// -- the log of a rank: goes on after the last piece that came, and stands still while nobody looks --
const KEPT = 400_000; // characters
let source = null;
let last = "";

function follow() {
  const place = document.getElementById("log");
  if (!place) return;
  source?.close();
  source = null;
  if (!wanted()) return;
  const pre = place.querySelector("pre");
  const said = place.querySelector("[role=status]");
  const rank = place.querySelector("select")?.value ?? "0";
  source = new EventSource(`${place.dataset.log}?rank=${rank}${last ? `&after=${last}` : ""}`);
  source.addEventListener("log", (event) => {
    last = event.lastEventId;
    const below = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 24;
    pre.append(JSON.parse(event.data));
    while (pre.textContent.length > KEPT && pre.childNodes.length > 1) pre.firstChild.remove();
    if (below) pre.scrollTop = pre.scrollHeight;
    said.textContent = "";
  });
  source.addEventListener("open", () => { if (!pre.textContent) said.textContent = "nothing was printed yet"; });
  source.addEventListener("error", () => {
    if (source?.readyState === EventSource.CLOSED) said.textContent = pre.textContent ? "that is all of it" : "nothing was printed";
  });
}

document.getElementById("log")?.querySelector("select")?.addEventListener("change", () => {
  last = "";
  document.querySelector("#log pre").replaceChildren();
  follow();
});

document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
draw();
follow();
