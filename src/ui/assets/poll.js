// Asks for the figures once a second while the tab is visible, one request at a time, and says how
// fresh they are. A failing router is asked less often, never more.

const EVERY_MS = 1000;
const TIMEOUT_MS = 4000;
const SLOWEST_MS = 5000;

/**
 * Starts polling `url`. `onData(json)` on success; `onLink(state, age in ms)` on each change of the link,
 * `locked` where the router wants a password. Answers a function that asks at once.
 */
export function poll(url, { onData, onLink, staleMs }) {
  let last = null;
  let failures = 0;
  let timer = 0;
  let asking = null;
  let locked = false;

  const report = (error) => {
    const age = last === null ? null : performance.now() - last;
    if (document.hidden) onLink("paused", age);
    else if (locked) onLink("locked", age);
    else if (age !== null && age <= staleMs) onLink("live", age);
    else if (error || failures > 0) onLink(last === null ? "unreachable" : "stale", age);
    else onLink("loading", age);
  };

  const ask = async () => {
    clearTimeout(timer);
    if (document.hidden || asking) return;
    const control = new AbortController();
    asking = control;
    const limit = setTimeout(() => control.abort(), TIMEOUT_MS);
    let data = null;
    let failed = null;
    try {
      const response = await fetch(url, { cache: "no-store", signal: control.signal });
      locked = response.status === 401;
      if (!response.ok) throw new Error(`status ${response.status}`);
      data = await response.json();
      last = performance.now();
      failures = 0;
      onData(data);
    } catch (error) {
      failed = error;
      failures += 1;
      // Figures that came and could not be drawn are a fault of this page.
      if (data !== null) console.error(error);
    } finally {
      clearTimeout(limit);
      asking = null;
    }
    report(failed);
    if (!document.hidden) timer = setTimeout(ask, Math.min(EVERY_MS * 2 ** Math.min(failures, 3), SLOWEST_MS));
  };

  document.addEventListener("visibilitychange", () => {
    report(null);
    if (!document.hidden) ask();
  });
  setInterval(() => report(null), EVERY_MS);
  ask();
  return ask;
}
