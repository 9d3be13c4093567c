// The charts of the first page.
"use strict";

(() => {
  // The page's language in the reader's own variety of it: days and months are written differently.
  const page = document.documentElement.lang;
  const language = navigator.languages.find((one) => one.split("-")[0] === page.split("-")[0]) || page;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const short = new Intl.NumberFormat(language, { notation: "compact", maximumFractionDigits: 1 });
  const long = new Intl.NumberFormat(language);
  const moment = new Intl.DateTimeFormat(language, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
  const hour = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit" });
  const day = new Intl.DateTimeFormat(language, { month: "short", day: "numeric" });
  const HEIGHT = 220;
  // Steps that a chart shows at least, however young the server is.
  const LEAST = 12;

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // What came in since the server began, with a step behind the last one: a step is as wide as the time it stands for.
  function since(data) {
    const all = [data.submissions, ...Object.values(data.rows)];
    const began = data.times.findIndex((_, index) => all.some((values) => values[index]));
    const start = Math.max(0, Math.min(began < 0 ? Infinity : began - 1, data.times.length - LEAST));
    const cut = (values) => [...values.slice(start), values.at(-1)];
    const rows = Object.fromEntries(Object.entries(data.rows).map(([name, values]) => [name, cut(values)]));
    const times = data.times.slice(start);
    return { times: [...times, 2 * times.at(-1) - times.at(-2)], submissions: cut(data.submissions), rows };
  }

  function draw(place, data) {
    const names = place.dataset.series.split(" ");
    const labels = place.dataset.labels.split("|");
    const tints = ["--accent", "--warn"];
    const values = names.map((name) => (name === "submissions" ? data.submissions : data.rows[name]));
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const options = {
      width: place.clientWidth,
      height: HEIGHT,
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { y: { range: (u, low, high) => [0, Math.max(high * 1.08, 4)] } },
      axes: [
        { ...axis, grid: { show: false }, values: (u, marks, _, __, step) => marks.map((s) => (step < 86400 ? hour : day).format(s * 1000)), space: 64 },
        { ...axis, values: (u, marks) => marks.map((mark) => short.format(mark)), size: 54 },
      ],
      series: [
        { label: place.dataset.time, value: (u, s) => (s == null ? "–" : moment.format(s * 1000)) },
        ...names.map((name, index) => ({
          label: labels[index],
          stroke: colour(tints[index]),
          width: 2,
          fill: index ? undefined : colour(tints[index]) + "22",
          points: { show: false },
          paths: uPlot.paths.stepped({ align: 1 }),
          value: (u, value) => (value == null ? "–" : long.format(value)),
        })),
      ],
    };
    place.replaceChildren();
    return new uPlot(options, [data.times, ...values], place);
  }

  async function start() {
    const places = [...document.querySelectorAll("[data-chart]")];
    if (!places.length) return;
    const answer = await fetch(places[0].dataset.chart, { headers: { accept: "application/json" } });
    if (!answer.ok) return;
    const data = since(await answer.json());
    const drawn = new Map();
    const all = () => places.forEach((place) => { drawn.get(place)?.destroy(); drawn.set(place, draw(place, data)); });
    all();
    dark.addEventListener("change", all);
    const watch = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const chart = drawn.get(target);
        if (chart && chart.width !== target.clientWidth) chart.setSize({ width: target.clientWidth, height: HEIGHT });
      }
    });
    places.forEach((place) => watch.observe(place));
  }

  start();
})();
