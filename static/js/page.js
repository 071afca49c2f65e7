// What every page does: theme, menus, the dialog, the reader's time zone. Forms and links work without it.

import "htmx";
import { forgetDrafts } from "drafts";

// --- Theme: at once here, and remembered by the server ---

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("[data-theme-switch]")) return;
  event.preventDefault();
  const data = new FormData(form, event.submitter);
  document.documentElement.dataset.theme = data.get("theme");
  for (const button of form.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button === event.submitter);
  }
  fetch(form.action, { method: "POST", body: data, redirect: "manual" }).catch(() => {});
});

// --- A form that came back: where there is something to mend ---

document.querySelector("main :is([aria-invalid=true], .form-errors)")?.focus();

// --- A password can be seen while it is written; what is sent is one again, or the browser would keep it as a text ---

for (const button of document.querySelectorAll("[data-show]")) {
  const field = button.parentElement.querySelector("input");
  const show = (isShown) => {
    field.type = isShown ? "text" : "password";
    button.setAttribute("aria-pressed", isShown);
  };
  button.hidden = false;
  button.addEventListener("click", () => show(field.type === "password"));
  field.form.addEventListener("submit", () => show(false));
}

// --- What was said can be put away ---

document.addEventListener("click", ({ target }) => {
  if (!target.closest("[data-dismiss]")) return;
  target.closest(".notice").remove();
  document.querySelector("main").focus(); // else it would be lost with the button
});

// --- A link to copy stands in a field, for who has no scripts ---

for (const type of ["click", "focusin"]) {
  document.addEventListener(type, ({ target }) => {
    if (target.matches?.("[data-link]")) target.select();
  });
}

document.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-copy-link]");
  if (!button) return;
  const field = button.closest("[data-link-box]").querySelector("[data-link]");
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    button.nextElementSibling.textContent = button.dataset.copied;
  } catch {
    // It is selected: whoever pressed the button presses the keys.
  }
});

// --- The time zone of whoever signs up ---

for (const field of document.querySelectorAll("input[type=hidden][name=time_zone]")) {
  field.value = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "";
}

// --- Who logs out leaves nothing half-written behind, nor does a conversation that is deleted for good ---

document.addEventListener("submit", ({ target, submitter }) => {
  if ("forgets" in target.dataset) forgetDrafts(() => true);
  if (submitter?.value === "erase") {
    const ids = new FormData(target).getAll("conversation");
    forgetDrafts((key) => ids.some((id) => key.endsWith(`:${id}`)));
  }
});

// --- A part of a page leads nowhere else, but for who is logged out: then the page does, as it would have ---

document.addEventListener("htmx:before:response", (event) => {
  if (!event.detail.ctx.response.raw.redirected) return;
  event.preventDefault();
  location.reload();
});

// --- A part that renews itself may take away what has the focus, such as “Cancel” of what is over: what stands in its
// place has it then ---

let held = []; // what had the focus, and what it stood in, from within

document.addEventListener("htmx:before:swap", () => {
  held = [];
  if (!document.activeElement.closest("[data-renews]")) return;
  for (let at = document.activeElement; at; at = at.parentElement) held.push(at);
});

document.addEventListener("htmx:after:swap", () => {
  if (!held.length || held[0].isConnected || document.activeElement !== document.body) return;
  held.find((one) => one.isConnected)?.querySelector("a, button")?.focus({ preventScroll: true });
});

// --- Menus: one open at a time, closed by Escape and by a click elsewhere ---

function closeMenus(except) {
  for (const menu of document.querySelectorAll("details[data-menu][open]")) {
    if (menu !== except) menu.open = false;
  }
}

document.addEventListener("click", (event) => {
  const menu = event.target.closest("details[data-menu]");
  closeMenus(event.target.closest(".menu-item") ? null : menu);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const open = document.querySelector("details[data-menu][open]");
  if (!open) return;
  event.preventDefault(); // Escape closes one thing at a time
  open.open = false;
  open.querySelector("summary").focus();
});

// --- The dialog: htmx puts a form into it; a form that was accepted closes it ---

const dialog = document.querySelector("[data-dialog]");
let opener = null; // what has the focus when the dialog is closed

/** Return what opens the dialog: the button of the menu `element` is in, or what has the focus while a key presses it. */
function openerOf(element) {
  const menu = element.closest("details");
  const isPressedByKey = element.matches("[data-shortcuts]") && !menu?.open;
  return menu && !isPressedByKey ? menu.querySelector("summary") : document.activeElement;
}

/** Show a fragment that has an element called `dialog-title`. */
export function openDialog(fragment) {
  opener = openerOf(document.activeElement);
  closeMenus(null);
  dialog.firstElementChild.replaceChildren(fragment);
  dialog.showModal();
}

export function closeDialog() {
  dialog.close();
}

if (dialog) {
  const content = dialog.firstElementChild;
  document.addEventListener("htmx:before:request", (event) => {
    if (!dialog.contains(event.target)) opener = openerOf(event.target);
  });
  document.addEventListener("htmx:after:swap", ({ target, detail }) => {
    if (dialog.open) {
      if (!dialog.contains(target)) return;
      const rest = content.querySelector("[data-stays]"); // a form whose answer is to be read
      if (rest) rest.focus();
      else if (detail.ctx.response.status < 400) dialog.close();
      else content.querySelector("input:not([type=hidden]), [data-close]")?.focus();
    } else if (content.firstElementChild) {
      closeMenus(null);
      dialog.showModal();
      showSingleKeys();
      content.querySelector("input:not([type=hidden], [type=checkbox])")?.select();
    }
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) {
      event.preventDefault();
      dialog.close();
    }
  });
  dialog.addEventListener("close", () => {
    if (dialog.open) return; // the event comes late: it was opened again meanwhile
    content.replaceChildren();
    if (document.activeElement && document.activeElement !== document.body) return; // and so may a key have been faster
    if (opener?.isConnected && opener !== document.body) opener.focus();
    else document.querySelector("[data-text]")?.focus();
  });
}

// --- The keyboard: what /shortcuts/ lists. A key alone does nothing in a field, nor where somebody turned it off, whose
// screen reader or voice has other plans with it (WCAG 2.1.4). ---

const SINGLE_KEYS_OFF = "single-keys-off"; // in the browser's storage
const FIELD = "input, textarea, select, [contenteditable]";
const isMac = /Mac|iP(hone|ad)/.test(navigator.platform);
const field = document.querySelector("[data-text]");

const KEYS = { "?": () => document.querySelector("[data-shortcuts]").click(), "/": () => field?.focus() };
const CONTROL_KEYS = { k: openPalette };
const CONTROL_SHIFT_KEYS = { o: () => location.assign("/") };

document.addEventListener("keydown", (event) => {
  if (!dialog || event.defaultPrevented || event.isComposing || event.repeat) return;
  const action = actionOf(event);
  if (!action) return;
  event.preventDefault();
  action();
});

function actionOf(event) {
  const { key, shiftKey, altKey, target } = event;
  const isOther = dialog.open && !dialog.querySelector(".palette"); // it wants an answer first
  if (isMac ? event.metaKey && !event.ctrlKey : event.ctrlKey && !event.metaKey) {
    return isOther || altKey ? null : (shiftKey ? CONTROL_SHIFT_KEYS : CONTROL_KEYS)[key.toLowerCase()];
  }
  if (event.ctrlKey || event.metaKey || (altKey && !event.getModifierState("AltGraph"))) return null;
  return dialog.open || target.closest?.(`${FIELD}, [popover]`) || areSingleKeysOff() ? null : KEYS[key];
}

function openPalette() {
  import("palette").then(({ toggle }) => toggle()).catch(() => {}); // no network: nothing opens
}

for (const button of document.querySelectorAll("[data-palette-open]")) {
  button.hidden = false;
  button.addEventListener("click", openPalette);
}

function areSingleKeysOff() {
  try {
    return localStorage.getItem(SINGLE_KEYS_OFF) !== null;
  } catch {
    return false; // no storage
  }
}

function showSingleKeys() {
  for (const choice of document.querySelectorAll("[data-single-keys-choice]")) {
    choice.hidden = false;
    choice.querySelector("input").checked = !areSingleKeysOff();
  }
}

document.addEventListener("change", ({ target }) => {
  if (!target.matches("[data-single-keys]")) return;
  try {
    if (target.checked) localStorage.removeItem(SINGLE_KEYS_OFF);
    else localStorage.setItem(SINGLE_KEYS_OFF, "");
  } catch {
    // No storage: they stay on.
  }
});
showSingleKeys();
