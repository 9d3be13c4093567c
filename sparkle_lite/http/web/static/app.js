// Small conveniences; every page can be read without them.
"use strict";

(() => {
  // The page's language in the reader's own variety of it: days and months are written differently.
  const page = document.documentElement.lang;
  const language = navigator.languages.find((one) => one.split("-")[0] === page.split("-")[0]) || page;
  const full = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
  const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  const units = [["year", 31536e6], ["month", 2592e6], ["day", 864e5], ["hour", 36e5], ["minute", 6e4]];

  function ago(ms) {
    const away = ms - Date.now();
    const found = units.find(([, length]) => Math.abs(away) >= length);
    return found ? relative.format(Math.trunc(away / found[1]), found[0]) : relative.format(0, "minute");
  }

  // Instants are written in UTC; people live in zones.
  function localise(root) {
    for (const each of root.querySelectorAll("time[data-ms]")) {
      const ms = Number(each.dataset.ms);
      if ("ago" in each.dataset) {
        each.textContent = ago(ms);
        if (!each.title.includes("\n")) each.title = `${full.format(ms)}\n${each.title}`;
      } else {
        each.textContent = full.format(ms);
      }
    }
  }

  async function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      // Plain http to another machine: the clipboard is closed to scripts, but a selection can be copied.
      const range = document.createRange();
      range.selectNodeContents(source);
      const selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      if (!document.execCommand("copy")) return;
      selection.removeAllRanges();
    }
    const before = button.textContent;
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = before; }, 1500);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  // A form that can't be undone asks first; without this script it is sent at once, and says so beside its button.
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });

  // A control that chooses a page shows it at once.
  document.addEventListener("change", (event) => {
    if ("submits" in event.target.dataset) event.target.form.requestSubmit();
  });

  document.addEventListener("htmx:load", (event) => localise(event.target.parentNode || document));
  localise(document);
  const current = document.querySelector(".nav [aria-current]");
  if (current) current.parentElement.scrollLeft = current.offsetLeft - 16;
  for (const each of document.querySelectorAll("[data-needs-script]")) each.hidden = false;
  setInterval(() => localise(document), 60000);
})();
