// Editing a question where it stands: the server's form takes its place, until it is asked or given up.

import { focusText, isSending, keepEdit, readEdit } from "composer";
import htmx from "htmx";

const field = document.querySelector("[data-text]");

/** Call `ask(article, form)` for each question that was edited. The arrow up in an empty composer edits the last one. */
export function followEdits(turns, ask) {
  field.addEventListener("keydown", (event) => {
    const { key, ctrlKey, metaKey, altKey, shiftKey, isComposing } = event;
    if (key !== "ArrowUp" || field.value || ctrlKey || metaKey || altKey || shiftKey || isComposing) return;
    const link = [...turns.querySelectorAll("[data-edit]")].filter(({ offsetParent }) => offsetParent).at(-1);
    if (!link) return;
    event.preventDefault();
    link.click();
  });
  turns.addEventListener("submit", (event) => {
    const form = event.target.closest("[data-edit-form]");
    if (!form) return;
    event.preventDefault();
    if (!form.elements.text.value.trim()) return;
    keepEdit(form.dataset.editForm, "");
    ask(form.closest("[data-turn]"), form);
  });
  turns.addEventListener("input", ({ target }) => {
    if (!target.matches("[data-edit-text]")) return;
    keepEdit(target.form.dataset.editForm, target.value === target.defaultValue ? "" : target.value);
  });
  turns.addEventListener("click", (event) => {
    const cancel = event.target.closest("[data-edit-cancel]");
    if (!cancel) return;
    event.preventDefault();
    close(cancel.closest("form"));
  });
  turns.addEventListener("keydown", (event) => {
    const form = event.target.closest("[data-edit-form]");
    if (!form) return;
    if (event.key === "Escape" && !event.isComposing) {
      event.preventDefault(); // it stops no answer
      close(form);
    } else if (event.target.matches("textarea") && isSending(event)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  const begin = () => {
    const text = turns.querySelector("[data-edit-text]:not([data-begun])");
    if (!text) return;
    text.dataset.begun = "";
    for (const other of turns.querySelectorAll("[data-edit-form]")) if (!other.contains(text)) other.remove();
    text.value = readEdit(text.form.dataset.editForm) ?? text.value;
    text.focus();
    text.setSelectionRange(text.value.length, text.value.length);
  };
  document.addEventListener("htmx:after:swap", begin);
  // What was being edited before a reload. Not by a click: htmx may not have got the links yet, and they would leave the page.
  document.addEventListener("DOMContentLoaded", () => {
    const link = [...turns.querySelectorAll("[data-edit]")].findLast((each) => readEdit(each.closest("[data-turn]").dataset.turn));
    if (link) htmx.ajax("GET", link.href, { target: link.closest(".question"), swap: "beforeend" });
  });
}

function close(form) {
  keepEdit(form.dataset.editForm, "");
  const link = form.closest("[data-turn]").querySelector("[data-edit]");
  form.remove();
  if (field.value) link.focus();
  else focusText();
}
