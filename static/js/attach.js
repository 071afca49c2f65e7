// Files of a question: chosen, pasted or dropped; uploaded at once, one line each under its progress.

import { refuse } from "composer";
import { formatNumber, say } from "words";

const ASK_AGAIN = 400; // ms between two looks at a file that is being read
const PATIENCE = 120_000; // ms; the server says earlier that nobody reads it

const form = document.querySelector("[data-composer]");
const list = form.querySelector("[data-attached]");
const template = form.querySelector("[data-attached-template]");
const input = form.querySelector("[data-attach-input]");
const button = form.querySelector("[data-attach]");
const announcer = document.querySelector("[data-announce]");
const mostFiles = Number(form.dataset.mostFiles);
const mostBytes = Number(form.dataset.mostBytes);

const requests = new WeakMap(); // line → the XMLHttpRequest that sends its file

/** Return the ids of the files that go with the question. */
export function ids() {
  return [...list.querySelectorAll("[name=attachments]")].map((field) => field.value);
}

/** Return why the question cannot go yet; empty when it can. */
export function hindrance() {
  const states = [...list.children].map((line) => line.dataset.state);
  if (states.includes("failed")) return say("files_failed");
  return states.every((state) => state === "ready") ? "" : say("files_waiting");
}

/** The server has the question with these files. */
export function used(gone) {
  for (const line of [...list.children]) if (gone.includes(idOf(line))) line.remove();
}

/** Attach files once more that the server has. */
export async function attachAgain(ids) {
  for (const id of ids) {
    const answer = await look(id);
    if (answer?.name) uploaded(addLine(answer.name), answer);
  }
}

function add(files) {
  let room = mostFiles - list.children.length;
  for (const file of files) {
    if (room-- <= 0) {
      refuse(say("files_many", { most: mostFiles }));
      break;
    }
    const line = addLine(file.name);
    if (file.size > mostBytes) fail(line, say("file_too_large")); // not a byte of it is sent
    else upload(line, file);
  }
}

function addLine(name) {
  const line = template.content.firstElementChild.cloneNode(true);
  line.dataset.state = "sending";
  line.querySelector("[data-name]").textContent = name;
  line.querySelector("[data-remove-name]").textContent = say("file_remove", { name });
  line.querySelector("[data-progress]").setAttribute("aria-label", name);
  list.append(line);
  return line;
}

function upload(line, file) {
  const request = new XMLHttpRequest(); // fetch does not tell how much has gone
  const body = new FormData();
  body.append("file", file, file.name || "image.png");
  request.open("POST", "/api/v1/attachments");
  request.responseType = "json";
  request.setRequestHeader("X-CSRFToken", form.elements.csrfmiddlewaretoken.value);
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    line.querySelector("[data-progress]").value = loaded / total;
    note(line, say("file_uploading", { percent: `${formatNumber((100 * loaded) / total)} %` }));
  });
  request.addEventListener("load", () => {
    if (request.status === 202 && request.response) uploaded(line, request.response);
    else fail(line, request.response?.detail ?? say("file_unsent"));
  });
  request.addEventListener("error", () => fail(line, say("file_unsent")));
  requests.set(line, request);
  request.send(body);
}

async function uploaded(line, answer) {
  line.dataset.id = answer.id;
  line.dataset.state = "reading";
  line.querySelector("[data-progress]").removeAttribute("value");
  note(line, say("file_reading"));
  const until = Date.now() + PATIENCE;
  while (line.isConnected && ["uploaded", "processing"].includes(answer.status) && Date.now() < until) {
    await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN));
    answer = (await look(answer.id)) ?? answer; // without a network it is asked once more
  }
  if (!line.isConnected) return;
  if (answer.status === "ready") ready(line, answer);
  else fail(line, answer.error?.detail ?? say("file_unsent"));
}

async function look(id) {
  try {
    const response = await fetch(`/api/v1/attachments/${id}`);
    if (response.status === 404) return { id, status: "gone" };
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

function ready(line, { id, kind, name }) {
  line.dataset.state = "ready";
  const field = document.createElement("input");
  Object.assign(field, { type: "hidden", name: "attachments", value: id });
  line.append(field);
  line.querySelector("[data-progress]").remove();
  line.querySelector("[data-name]").textContent = name;
  note(line, "");
  if (kind === "image") {
    const image = document.createElement("img");
    image.alt = "";
    image.src = `/attachments/${id}/preview/`;
    line.querySelector("[data-picture]").replaceChildren(image);
  }
  tell(say("file_attached", { name }));
}

function fail(line, reason) {
  line.dataset.state = "failed";
  line.querySelector("[data-progress]")?.remove();
  note(line, reason);
  line.scrollIntoView({ block: "nearest" });
  tell(say("file_failed", { name: line.querySelector("[data-name]").textContent, reason }));
}

function remove(line) {
  const next = line.nextElementSibling ?? line.previousElementSibling;
  requests.get(line)?.abort();
  const id = idOf(line);
  if (id) {
    const headers = { "X-CSRFToken": form.elements.csrfmiddlewaretoken.value };
    fetch(`/api/v1/attachments/${id}`, { method: "DELETE", headers }).catch(() => {}); // else it goes after a day
  }
  line.remove();
  (next?.querySelector("[data-remove]") ?? button).focus();
  tell(say("file_removed", { name: line.querySelector("[data-name]").textContent }));
  refuse("");
}

function idOf(line) {
  return line.dataset.id ?? line.querySelector("[name=attachments]")?.value;
}

function note(line, text) {
  const place = line.querySelector("[data-note]");
  if (place) place.textContent = text;
}

function tell(text) {
  announcer.textContent = text;
}

button.addEventListener("click", () => input.click());
input.addEventListener("change", () => {
  add([...input.files]);
  input.value = ""; // the same file may be chosen again
});
list.addEventListener("click", (event) => {
  const line = event.target.closest("[data-remove]")?.closest("li");
  if (line) remove(line);
});
addEventListener("paste", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length || event.clipboardData.types.includes("text/plain")) return; // a table brings a picture of itself
  event.preventDefault();
  add(files);
});

// --- Dropping, anywhere over the chat ---

let depth = 0; // elements the drag is over: leaving a child is not leaving the page

function brings(event) {
  return event.dataTransfer?.types.includes("Files");
}

function dropping(isOver) {
  if (!isOver) depth = 0;
  form.toggleAttribute("data-dropping", isOver);
}

addEventListener("dragenter", (event) => {
  if (!brings(event)) return;
  event.preventDefault();
  depth += 1;
  dropping(true);
});
addEventListener("dragover", (event) => {
  if (brings(event)) event.preventDefault();
});
addEventListener("dragleave", (event) => {
  if (brings(event) && --depth <= 0) dropping(false);
});
addEventListener("drop", (event) => {
  if (!brings(event)) return;
  event.preventDefault(); // or the browser opens it in the place of the chat
  dropping(false);
  add([...event.dataTransfer.files]);
});
