// Keys on the reviewer's desk, and what is said when this console does not answer. Everything else is htmx's.
"use strict";

const one = (what, within = document) => within.querySelector(what);
const all = (what, within = document) => [...within.querySelectorAll(what)];

// --- the desk -------------------------------------------------------------------------------------------------------
const FEW = 5;
const begun = Date.now();
let judged = 0;
let wantsAgain = false;

const waiting = () => all("#queue > .item:not(.sent)");
const current = () => waiting()[0] || one("#end");
const under_way = () => all("#queue > .item.sent");

function show() {
  if (!one("#queue")) return;
  const item = current();
  if (item && !item.contains(document.activeElement)) item.focus({ preventScroll: true });
  const more = one("#more");
  if (more && waiting().length < FEW && !more.classList.contains("htmx-request")) htmx.trigger(more, "more");
}

function count() {
  const minutes = (Date.now() - begun) / 60000;
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
  one("#said").prepend(line);
  show();
}

// What was pressed twice by accident is not judged twice; what is under way is waited for before it is taken back.
function press(key) {
  if (key === "Backspace" && under_way().length) {
    wantsAgain = true;
    return true;
  }
  const item = current();
  const focus = item && all("[data-focus]", item).find((each) => each.dataset.focus.split(" ").includes(key));
  if (focus) {
    focus.focus();
    focus.setSelectionRange(0, focus.tagName === "TEXTAREA" ? 0 : focus.value.length);
    return true;
  }
  const named = `[data-key="${CSS.escape(key)}"]`;
  const button = (item && one(named, item)) || (key === "Backspace" && one(`#said ${named}`));
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
  const skipped = event.target.closest("[data-skip]");
  if (skipped) skip(skipped.closest(".item"));
});

document.addEventListener("htmx:beforeRequest", (event) => {
  const item = event.detail.elt.closest("form") && event.detail.elt.closest(".item");
  if (!item) return;
  one(":scope > .error", item).textContent = "";
  item.classList.add("sent");
  show();
});

document.addEventListener("htmx:afterRequest", (event) => {
  const { elt, successful, xhr } = event.detail;
  lost(xhr.status === 0);
  const item = elt.closest("form") && elt.closest(".item");
  if (item && successful) {
    item.remove();
    judged += 1;
    one("#said .none")?.remove();
    count();
  } else if (item) {
    item.classList.remove("sent");
    one("#queue").prepend(item);
    item.focus();
  }
  if (!successful && elt.closest("form, .item")) {
    const error = one(".error", elt.closest(".item") || elt);
    if (error) error.textContent = xhr.responseText || "This console does not answer; nothing was kept.";
  }
  if (wantsAgain && !under_way().length) {
    wantsAgain = false;
    press("Backspace");
  }
});

document.addEventListener("htmx:afterSwap", (event) => {
  // An answer that is judged again stands on the desk, and no more among those that were judged.
  if (event.detail.requestConfig?.path.startsWith("/review/again")) event.detail.requestConfig.elt.closest("li")?.remove();
  show();
});

// --- a console that does not answer ---------------------------------------------------------------------------------
function lost(is) {
  const banner = one("#lost");
  if (banner) banner.hidden = !is;
}
document.addEventListener("htmx:sendError", () => lost(true));
document.addEventListener("htmx:timeout", () => lost(true));

document.addEventListener("DOMContentLoaded", () => {
  // Not the attribute autofocus: a browser leaves that out where it has drawn nothing yet, and complains where a key was quicker.
  one("[data-first]")?.focus();
  show();
});
