// Editing a question where it stands: the server's form takes its place, until it is asked or given up.

import { focusText, isSending } from "composer";

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
    if (form.elements.text.value.trim()) ask(form.closest("[data-turn]"), form);
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
  document.addEventListener("htmx:after:swap", () => {
    const text = turns.querySelector("[data-edit-text]:not([data-begun])");
    if (!text) return;
    text.dataset.begun = "";
    for (const other of turns.querySelectorAll("[data-edit-form]")) if (!other.contains(text)) other.remove();
    text.focus();
    text.setSelectionRange(text.value.length, text.value.length);
  });
}

function close(form) {
  const link = form.closest("[data-turn]").querySelector("[data-edit]");
  form.remove();
  if (field.value) link.focus();
  else focusText();
}
