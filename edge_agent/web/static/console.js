// Keys of the review page, and the banner for a console that does not answer. htmx does everything else.
"use strict";

const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- review -------------------------------------------------------------------------------------------------------
const ITEMS_MIN = 5;
const RETRY_MS = 3000;
const startTime = Date.now();
let retryTimer;
let judged = 0;
let againRequested = false;

const waiting = () => all("#queue > .item:not(.sent)");
const current = () => waiting()[0] || one("#end");
const pending = () => all("#queue > .item.sent");

function show() {
  if (!one("#queue")) return;
  const item = current();
  if (item && !item.contains(document.activeElement)) item.focus({ preventScroll: true });
  fetchMore();
}

function fetchMore() {
  const more = one("#more");
  if (more && waiting().length < ITEMS_MIN && !more.classList.contains("htmx-request")) htmx.trigger(more, "more");
}

function count() {
  const minutes = (Date.now() - startTime) / 60000;
  const pace = judged > 4 && minutes > 0.2 ? `, ${(judged / minutes).toFixed(0)} a minute` : "";
  const shown = one("#count");
  if (shown) shown.textContent = `${judged} judged${pace}`;
}

function skip(item) {
  item.remove();
  const line = document.createElement("li");
  const button = document.createElement("button");
  const about = document.createElement("span");
  about.className = "about";
  about.textContent = one(".input", item).textContent;
  button.type = "button";
  button.className = "quiet";
  button.dataset.key = "Backspace";
  button.textContent = "skipped: again";
  button.addEventListener("click", () => {
    line.remove();
    one("#queue").prepend(item);
    show();
  });
  line.append(about, button);
  one("#judged").prepend(line);
  show();
}

// A key pressed twice judges once; an answer that is being sent is reopened when it is stored.
function press(key) {
  if (key === "Backspace" && pending().length) {
    againRequested = true;
    return true;
  }
  const item = current();
  const focus = item && all("[data-focus]", item).find((each) => each.dataset.focus.split(" ").includes(key));
  if (focus) {
    focus.focus();
    focus.setSelectionRange(0, focus.tagName === "TEXTAREA" ? 0 : focus.value.length);
    return true;
  }
  const selector = `[data-key="${CSS.escape(key)}"]`;
  const button = (item && one(selector, item)) || (key === "Backspace" && one(`#judged ${selector}`));
  if (button) button.click();
  return Boolean(button);
}

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (!one("#queue") || event.isComposing) return;
  if (target.matches("input, textarea, select")) {
    if (event.key === "Escape") current()?.focus();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && target.form) target.form.requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if ((event.key === "Enter" || event.key === " ") && target.closest("button, a, summary")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (press(key)) event.preventDefault();
});

document.addEventListener("click", (event) => {
  const skipButton = event.target.closest("[data-skip]");
  if (skipButton) skip(skipButton.closest(".item"));
});

document.addEventListener("htmx:beforeRequest", (event) => {
  const elt = event.detail.elt;
  if (elt.id === "charts" && one("details[open]", elt)) event.preventDefault(); // a table that somebody reads stays open
  const item = elt.closest("form") && elt.closest(".item");
  if (!item) return;
  one(":scope > .error", item).textContent = "";
  item.classList.add("sent");
  show();
});

document.addEventListener("htmx:afterRequest", (event) => {
  const { elt, successful, xhr } = event.detail;
  showLost(xhr.status === 0);
  const item = elt.closest("form") && elt.closest(".item");
  if (item && successful) {
    item.remove();
    judged += 1;
    one("#judged .none")?.remove();
    count();
  } else if (item) {
    item.classList.remove("sent");
    one("#queue").prepend(item);
    item.focus();
  }
  const place = elt.closest(".item, #judged > li") || elt.closest("form");
  if (!successful && place) {
    const error = one(".error", place);
    const ending = elt.closest("form") ? "; the judgement was not stored." : ".";
    if (error) error.textContent = xhr.responseText || `This console does not answer${ending}`;
  }
  if (!successful && elt.id === "more") {
    one("p", elt).textContent = `${xhr.responseText || "This console does not answer"}. The page retries every few seconds.`;
    clearTimeout(retryTimer);
    retryTimer = setTimeout(fetchMore, RETRY_MS);
  }
  if (againRequested && !pending().length) {
    againRequested = false;
    press("Backspace");
  }
});

document.addEventListener("htmx:afterSwap", (event) => {
  // An answer that is reviewed again leaves the list of judged ones.
  if (event.detail.requestConfig?.path.startsWith("/review/again")) event.detail.requestConfig.elt.closest("li")?.remove();
  if (event.detail.target.id === "main") focusFirst();
  show();
});

// --- the audit of redaction: a missed value is selected in the original ------------------------------------------------
// A press would clear the selection before the click.
document.addEventListener("pointerdown", (event) => {
  if (event.target.closest("[data-add-selection]")) event.preventDefault();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-add-selection]");
  const selection = getSelection();
  if (!button || !one("[data-original]")?.contains(selection.anchorNode)) return;
  const field = document.getElementById(button.dataset.addSelection);
  const value = selection.toString().trim();
  if (value) field.value = [field.value.trim(), value].filter(Boolean).join("; ");
  selection.removeAllRanges();
});

// --- a console that does not answer ---------------------------------------------------------------------------------
function showLost(isLost) {
  const banner = one("#lost");
  if (banner) banner.hidden = !isLost;
}
document.addEventListener("htmx:sendError", () => showLost(true));
document.addEventListener("htmx:timeout", () => showLost(true));

// Instead of the attribute autofocus, which a browser ignores before its first paint, and reports when a key came first.
const focusFirst = () => one("[data-first]")?.focus();

document.addEventListener("DOMContentLoaded", () => {
  focusFirst();
  show();
});
