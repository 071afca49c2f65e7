// The list of conversations: a drawer on narrow screens, and what other tabs change in it.

import htmx from "htmx";

const sidebar = document.querySelector("[data-sidebar]");
const opener = document.querySelector("[data-sidebar-open]");
const column = document.querySelector(".chat-column"); // out of reach while the drawer lies over it

function openDrawer() {
  sidebar.dataset.open = "";
  column.inert = true;
  opener.setAttribute("aria-expanded", "true");
  sidebar.querySelector("[data-sidebar-close]").focus();
}

function closeDrawer() {
  if (!("open" in sidebar.dataset)) return;
  delete sidebar.dataset.open;
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
  if (!event.target.closest("[data-sidebar], [data-sidebar-open], dialog")) closeDrawer();
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

/** Show a conversation's new line; an empty one says that it is gone. */
export function changeConversation(id, row, { isCurrent }) {
  const old = rowOf(id);
  if (!row) {
    const group = old?.closest("section");
    old?.remove();
    if (group && !group.querySelector("li")) group.hidden = true;
    return;
  }
  if (isCurrent) row.querySelector("a").setAttribute("aria-current", "page");
  if (old) replace(old, row);
  else toTop(row);
  htmx.process(row);
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
  const today = sidebar.querySelector("[data-today]");
  const before = row.closest("section");
  today.hidden = false;
  if (today.querySelector("ul").firstElementChild !== row) today.querySelector("ul").prepend(row);
  if (before && !before.querySelector("li")) before.hidden = true;
}
