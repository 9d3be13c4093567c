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

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
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
    const data = await answer.json();
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
