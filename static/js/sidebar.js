// The list of conversations: a drawer on narrow screens, and what other tabs change in it.

import htmx from "htmx";
import { closeDialog } from "page";
import { say } from "words";

const sidebar = document.querySelector("[data-sidebar]");
const opener = document.querySelector("[data-sidebar-open]");
const column = document.querySelector(".chat-column"); // out of reach while the drawer lies over it
const list = sidebar.querySelector("[data-conversations]");
const toasts = document.querySelector("[data-toasts]");
const OPEN_FOLDERS = "open-folders"; // in the browser's storage: their ids

function openDrawer() {
  sidebar.dataset.open = document.body.dataset.drawer = "";
  column.inert = true;
  opener.setAttribute("aria-expanded", "true");
  sidebar.querySelector("[data-sidebar-close]").focus();
}

function closeDrawer() {
  if (!("open" in sidebar.dataset)) return;
  delete sidebar.dataset.open;
  delete document.body.dataset.drawer;
  column.inert = false;
  opener.setAttribute("aria-expanded", "false");
  opener.focus();
}

opener.setAttribute("role", "button");
opener.setAttribute("aria-expanded", "false");
opener.addEventListener("click", (event) => {
  event.preventDefault();
  openDrawer();
});
opener.addEventListener("keydown", (event) => {
  if (event.key !== " ") return;
  event.preventDefault();
  openDrawer();
});
sidebar.querySelector("[data-sidebar-close]").addEventListener("click", closeDrawer);
document.addEventListener("click", (event) => {
  if (!event.target.closest("[data-sidebar], [data-sidebar-open], [data-toasts], dialog")) closeDrawer();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented && "open" in sidebar.dataset) {
    event.preventDefault();
    closeDrawer();
  }
});

matchMedia("(width >= 53.75rem)").addEventListener("change", closeDrawer); // a column again

function rowOf(id) {
  return sidebar.querySelector(`[data-conversation="${CSS.escape(id)}"]`);
}

/** Show a conversation's new line, in its place; an empty one says that it is gone. */
export function changeConversation(id, row, { isCurrent }) {
  const old = rowOf(id);
  if (!row) {
    remove(old);
    return;
  }
  if (isCurrent) row.querySelector("a").setAttribute("aria-current", "page");
  if (old?.dataset.place === row.dataset.place) {
    replace(old, row);
  } else {
    remove(old);
    put(row);
  }
  htmx.process(row);
}

function remove(row) {
  const group = row?.closest("section");
  row?.remove();
  if (group && !group.querySelector("li")) group.hidden = true;
}

/** Put a new line where the server has it after a reload, as far as that is on the page. */
function put(row) {
  const { place, used } = row.dataset;
  if (place === "archive") return;
  if (place === "list") {
    putByDate(row, Date.parse(used));
    return;
  }
  const section = list.querySelector(place === "pinned" ? "[data-pinned]" : `[data-folder="${CSS.escape(place)}"]`);
  if (place === "pinned") section.hidden = false;
  section?.querySelector(place === "pinned" ? "ul" : "ul[data-loaded]")?.prepend(row); // else it comes with the folder
}

function putByDate(row, used) {
  if (new Date(used).toDateString() === new Date().toDateString()) {
    const today = list.querySelector("[data-today]");
    const older = [...today.querySelectorAll("li")].find((line) => Date.parse(line.dataset.used) < used);
    today.hidden = false;
    today.querySelector("ul").insertBefore(row, older ?? null);
    return;
  }
  const dated = [...list.querySelectorAll(".conversation[data-place=list]")];
  const older = dated.find((line) => Date.parse(line.dataset.used) < used);
  if (older) older.before(row);
  else if (dated.length && !list.querySelector("[hx-trigger=revealed]")) dated.at(-1).after(row); // else it comes later
}

/** The list has changed in more than one place: read it again. */
export async function reloadList() {
  const response = await fetch("/conversations/sidebar/", {
    headers: { "HX-Request": "true", "HX-Current-URL": location.href },
  }).catch(() => null); // no network: it is there after the next change
  if (response?.redirected) location.reload(); // logged out
  else if (response?.ok) showList(await response.text());
}

function showList(html) {
  list.innerHTML = html;
  htmx.process(list);
  openFolders();
}

/** Whoever is in the old line, with its menu open, say, is in the new one then. */
function replace(old, row) {
  const places = (line) => [...line.querySelectorAll("a, summary")];
  const at = places(old).indexOf(document.activeElement);
  row.querySelector("details").open = old.querySelector("details").open;
  old.replaceWith(row);
  places(row)[at]?.focus({ preventScroll: true });
}

/** A conversation was used just now. */
export function useConversation(id) {
  const row = rowOf(id);
  if (row) toTop(row);
}

function toTop(row) {
  row.dataset.used = new Date().toISOString();
  if (row.dataset.place !== "list") {
    row.parentElement?.prepend(row);
    return;
  }
  const today = sidebar.querySelector("[data-today]");
  const before = row.closest("section");
  today.hidden = false;
  if (today.querySelector("ul").firstElementChild !== row) today.querySelector("ul").prepend(row);
  if (before && !before.querySelector("li")) before.hidden = true;
}

// --- Folders stay as they were left ---

function storedFolders() {
  try {
    return new Set(JSON.parse(localStorage.getItem(OPEN_FOLDERS)) ?? []);
  } catch {
    return new Set(); // no storage, or not ours
  }
}

function openFolders() {
  const open = storedFolders();
  for (const folder of list.querySelectorAll("[data-folder]")) if (open.has(folder.dataset.folder)) folder.open = true;
}

list.addEventListener(
  "toggle",
  ({ target }) => {
    if (!target.matches("[data-folder]")) return;
    const open = storedFolders();
    if (target.open) open.add(target.dataset.folder);
    else open.delete(target.dataset.folder);
    try {
      localStorage.setItem(OPEN_FOLDERS, JSON.stringify([...open]));
    } catch {
      // No storage: they are closed the next time.
    }
  },
  true, // it does not bubble
);
openFolders();

// --- What a menu does to a conversation: here, without leaving the page, and with a way to undo it ---

document.addEventListener("submit", (event) => {
  const { target: form, submitter } = event;
  if (!form.matches("[data-order]")) return;
  const own = document.querySelector("[data-chat]").dataset.chat;
  if (submitter?.value === `trash:${own}`) return; // the page goes with it: the server says where to
  event.preventDefault();
  order(form, submitter);
});

async function order(form, submitter) {
  const hadFocus = submitter.closest("[data-conversation]")?.dataset.conversation;
  const response = await fetch(form.action, {
    method: "POST",
    body: new FormData(form, submitter),
    headers: { "HX-Request": "true" },
  }).catch(() => null);
  if (response?.redirected) {
    location.reload(); // logged out
    return;
  }
  if (form.closest("dialog")) closeDialog();
  if (!response?.ok) {
    showToast(sentence(say("not_changed")));
    return;
  }
  const found = document.createElement("template");
  found.innerHTML = await response.text();
  for (const { dataset } of found.content.querySelectorAll("[data-gone]")) {
    changeConversation(dataset.gone, null, {});
  }
  for (const row of [...found.content.querySelectorAll("[data-conversation]")]) {
    const id = row.dataset.conversation;
    changeConversation(id, row, { isCurrent: id === document.querySelector("[data-chat]").dataset.chat });
  }
  const toast = found.content.querySelector("[data-toast]");
  showToast(toast);
  // Who had the focus in a line that is gone can undo it at once; else it stays in the line.
  const row = hadFocus && rowOf(hadFocus);
  if (row) row.querySelector("summary").focus({ preventScroll: true });
  else (toast.querySelector("[data-undo]") ?? toast.querySelector("button")).focus({ preventScroll: true });
}

function sentence(text) {
  const toast = document.createElement("div");
  toast.className = "toast notice";
  toast.textContent = text;
  return toast;
}

function showToast(toast) {
  toasts.replaceChildren(toast);
}
