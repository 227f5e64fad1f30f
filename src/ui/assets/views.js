// The views of the page: one is shown, named by the address after `#`, so that it can be linked to.

import { byId, setAttribute } from "./dom.js";

const FIRST = "overview";
const listeners = [];

/** Whether this view is shown. */
export const isShown = (name) => !byId(`view-${name}`).hidden;

/** Calls `listener(name)` on each change of view. */
export function onView(listener) {
  listeners.push(listener);
}

/** Wires the navigation. */
export function startViews() {
  window.addEventListener("hashchange", () => show(true));
  show(false);
}

function show(focus) {
  const asked = location.hash.slice(1);
  if (asked === "main") return;
  const name = document.getElementById(`view-${asked}`) ? asked : FIRST;
  for (const view of document.querySelectorAll("main > .view")) view.hidden = view.dataset.view !== name;
  for (const link of document.querySelectorAll(".views a")) {
    setAttribute(link, "aria-current", link.dataset.view === name ? "page" : null);
  }
  if (focus) {
    window.scrollTo(0, 0);
    // Who steers by keyboard goes on in the view, not behind the navigation.
    byId("main").focus({ preventScroll: true });
  }
  for (const listener of listeners) listener(name);
}
