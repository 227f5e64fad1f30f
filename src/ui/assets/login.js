// The password some demos are behind: asked for once the router says so, never kept by the page.

import { byId, setText } from "./dom.js";

/** Wires the dialog; `onOpen()` runs once the router has opened a session. */
export function startLogin(onOpen) {
  const dialog = byId("login");
  const password = byId("login-password");
  // Without a session there is nothing behind the dialog to go back to.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  byId("login-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = byId("login-send");
    button.disabled = true;
    setText(byId("login-error"), "");
    try {
      const response = await fetch("/api/auth", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ password: password.value }),
        signal: AbortSignal.timeout(10000),
      });
      if (response.ok) {
        dialog.close();
        onOpen();
      } else {
        const told = await response.json().catch(() => null);
        setText(byId("login-error"), told?.error?.message ?? `The router answered ${response.status}.`);
      }
    } catch {
      setText(byId("login-error"), "The router could not be reached.");
    }
    password.value = "";
    button.disabled = false;
    if (dialog.open) password.focus();
  });
}

/** Shows the dialog unless it is shown. */
export function askForPassword() {
  const dialog = byId("login");
  if (!dialog.open) dialog.showModal();
}
