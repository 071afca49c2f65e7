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

// --- The time zone of whoever signs up ---

for (const field of document.querySelectorAll("input[type=hidden][name=time_zone]")) {
  field.value = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "";
}

// --- Who logs out leaves nothing half-written behind, nor does a conversation that is deleted ---

document.addEventListener("submit", ({ target: { dataset } }) => {
  if ("forgets" in dataset) forgetDrafts((key) => key.endsWith(dataset.forgets)); // all keys end with nothing
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
let opener = null;

if (dialog) {
  const content = dialog.firstElementChild;
  document.addEventListener("htmx:before:request", (event) => {
    if (!dialog.contains(event.target)) opener = event.target.closest("details")?.querySelector("summary");
  });
  document.addEventListener("htmx:after:swap", ({ target, detail }) => {
    if (dialog.open) {
      if (!dialog.contains(target)) return;
      if (detail.ctx.response.status < 400) dialog.close();
      else content.querySelector("input:not([type=hidden]), [data-close]")?.focus();
    } else if (content.firstElementChild) {
      dialog.showModal();
      content.querySelector("input:not([type=hidden])")?.select();
    }
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) {
      event.preventDefault();
      dialog.close();
    }
  });
  dialog.addEventListener("close", () => {
    content.replaceChildren();
    if (opener?.isConnected) opener.focus();
    else document.querySelector("[data-text]")?.focus();
  });
}
