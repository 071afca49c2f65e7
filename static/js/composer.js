// Where a question is written: drafts that survive a reload, Enter that respects an input method, and the buttons.

import { forgetDrafts, readDraft, writeDraft } from "drafts";
import { say } from "words";

const SAVE_DELAY = 300; // ms

const form = document.querySelector("[data-composer]");
const field = form.querySelector("[data-text]");
const refusal = form.querySelector("[data-refusal]");
const ways = form.querySelector("[data-ways]");
const sendButton = form.querySelector("[data-send]");
const stopButton = form.querySelector("[data-stop]");
const queuedBox = form.querySelector("[data-queued]");
const picker = form.querySelector("[data-model]");
const effortField = form.querySelector("[data-effort]");
const files = form.querySelector("[data-attached]");

const drafts = `draft:${form.dataset.member}:`;

let key = "";
let queuedKey = "";
let isWriting = false; // an answer
let timer = 0;
let isOver = false; // whoever writes here is logged out
let asked = { model: valueSentWith(picker), effort: valueSentWith(effortField) }; // what the page begins with next time

forgetDrafts((found) => !found.startsWith(drafts)); // of whoever was at this browser before

function save(fields) {
  if (!isOver) writeDraft(key, fields);
}

/** Keep nothing any more: whoever logs out in another tab leaves no draft behind, nor does a temporary conversation. */
export function stopKeeping() {
  isOver = true;
}

function saveAll() {
  timer = 0;
  save(content());
}

function saveSoon() {
  clearTimeout(timer);
  timer = setTimeout(saveAll, SAVE_DELAY);
}

function valueSentWith(list) {
  return [...list.options].find(({ defaultSelected }) => defaultSelected)?.value ?? "";
}

/** Return what a draft keeps: of the model and the effort, what the page would not begin with. */
function content() {
  const fields = {};
  if (field.value) fields.text = field.value;
  const chosen = { model: picker.value, effort: effort() };
  if (chosen.model !== asked.model || chosen.effort !== asked.effort) Object.assign(fields, chosen);
  if (attached().length) fields.files = attached();
  return fields;
}

/** Return the files of the question, `{id, name}`. */
export function attached() {
  const kept = [...files.children].filter(({ dataset }) => dataset.id && dataset.state !== "failed");
  return kept.map((line) => ({ id: line.dataset.id, name: line.querySelector("[data-name]").textContent }));
}

function forgetTimer() {
  clearTimeout(timer);
  timer = 0;
}

/** Another tab has removed the draft that all tabs share. If that was because its question was asked, what is written
 * here is another one. A draft that went with a log-out stays gone. */
function keepOwn(removed) {
  const { text, turn_id } = JSON.parse(removed);
  if (turn_id && field.value && field.value !== text) saveAll();
}

/** Keep drafts under this name from now on. */
export function keepDraftOf(name) {
  key = drafts + name;
  queuedKey = `${drafts}queued:${name}`;
}

function editKey(turn) {
  return `${drafts}edit-${turn}:${key.slice(drafts.length)}`; // it goes with the conversation
}

/** Keep how the question of a turn is being edited; an empty text is none. */
export function keepEdit(turn, text) {
  if (!isOver) writeDraft(editKey(turn), text ? { text } : {});
}

export function readEdit(turn) {
  return readDraft(editKey(turn)).text;
}

/** Take what is being written along into the chat of this name, unless something is being written there. */
export function moveDraft(name) {
  forgetTimer();
  save({});
  keepDraftOf(name);
  if (field.value && !readDraft(key).text) saveAll();
}

/** Put back what was being written, unless that question is on the page: its answer to the send was lost. Return the
 * files that were attached. */
export function restoreDraft(isKnown) {
  const draft = readDraft(key);
  if (!refusal.hidden) return []; // the form came filled
  if (draft.turn_id && isKnown(draft.turn_id)) {
    save({});
    return [];
  }
  if ("model" in draft) choose(picker, draft.model);
  if (draft.effort) choose(effortField, draft.effort);
  if (draft.text && !field.value) setText(draft.text);
  return draft.files ?? [];
}

function choose(list, value) {
  if (![...list.options].some((option) => option.value === value && !option.disabled)) return; // not on offer any more
  list.value = value;
  list.dispatchEvent(new Event("change", { bubbles: true }));
}

export function setText(text) {
  field.value = text;
  field.dispatchEvent(new Event("input"));
}

export function isEmpty() {
  return !field.value.trim();
}

/** Put a text back, before what has been written since. */
export function giveBack(text) {
  setText([text, field.value].filter((part) => part.trim()).join("\n\n"));
}

/** Return the question that was to be asked when the answer ends, as it was given to `keepQueued`; null for none. */
export function readQueued() {
  const { text, command, files, beside } = readDraft(queuedKey);
  return command ? { text, command, files, beside } : null;
}

/** Show and keep the question that is asked when the answer ends; null for none. */
export function keepQueued(question) {
  if (!isOver) writeDraft(queuedKey, question ?? {});
  showQueued(question);
}

export function showQueued(question) {
  const hadFocus = queuedBox.contains(document.activeElement);
  queuedBox.hidden = !question;
  queuedBox.querySelector("[data-queued-text]").textContent = question?.text ?? "";
  if (hadFocus && !question) field.focus({ preventScroll: true });
}

/** Call `takeBack()` for the button beside a queued question, `changed()` when another tab has changed it. */
export function onQueued(takeBack, changed) {
  queuedBox.querySelector("[data-take-back]").addEventListener("click", takeBack);
  addEventListener("storage", (event) => event.key === queuedKey && changed());
}

export function model() {
  return picker.value || null;
}

/** Return how hard the model shall think; empty when that is left to it, or is not in its power. */
export function effort() {
  return effortField.disabled ? "" : effortField.value;
}

/** Whether a key sends what is written, and is no new line. */
export function isSending(event) {
  if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return false; // 229: an input method has it
  const isTouch = matchMedia("(pointer: coarse)").matches;
  return event.ctrlKey || event.metaKey || (!event.shiftKey && !event.altKey && !isTouch);
}

/** Call `ask({text, button})` for what the form sends, `stop()` for the stop button. */
export function onAsk(ask, stop) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = event.submitter?.name ? event.submitter : null;
    if (button || field.value.trim()) ask({ text: field.value, button });
  });
  field.addEventListener("keydown", (event) => {
    if (!isSending(event)) return;
    event.preventDefault();
    form.requestSubmit(sendButton);
  });
  stopButton.addEventListener("click", () => {
    stop();
    focusText();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.defaultPrevented && !stopButton.hidden && !document.querySelector("dialog[open]")) {
      stop();
    }
  });
  field.addEventListener("input", (event) => {
    if (event.isTrusted) refuse(""); // the person goes on
    showSend();
    saveSoon();
  });
  form.addEventListener("change", saveSoon);
  new MutationObserver(saveSoon).observe(files, { childList: true, attributeFilter: ["data-state"], subtree: true });
  addEventListener("pagehide", () => timer && saveAll());
  addEventListener("storage", (event) => event.key === key && !event.newValue && keepOwn(event.oldValue));
  document.addEventListener("submit", (event) => event.target.dataset.forgets === "" && forgetTimer()); // logs out
  form.dataset.ready = ""; // until here Enter is a new line and the button posts the form
}

/** The question is on its way: it stays in the field until the server has it. Null for one that was never there. */
export function sending(turnId) {
  forgetTimer();
  save(turnId ? { ...content(), turn_id: turnId } : content());
  refuse("");
  form.setAttribute("aria-busy", "true");
  sendButton.setAttribute("aria-disabled", "true");
}

/** The server has the question. */
export function sent(text) {
  settled();
  asked = { model: picker.value, effort: effort() };
  if (field.value === text) setText(""); // else the person went on writing
  forgetTimer();
  saveAll();
}

/** The question was refused: it stays where it is, under the reason and the ways on, which are the server's HTML. */
export function refuse(sentence, waysOn = "") {
  settled();
  refusal.hidden = !sentence;
  refusal.textContent = sentence;
  ways.innerHTML = waysOn;
}

function settled() {
  form.removeAttribute("aria-busy");
  sendButton.removeAttribute("aria-disabled");
}

/** While an answer is written there is a button to stop it; one to send, once there is something to put in line. */
export function showStop(isNow) {
  const hadFocus = document.activeElement === stopButton;
  isWriting = isNow;
  stopButton.hidden = !isWriting;
  showSend();
  if (hadFocus && !isWriting) focusText();
}

function showSend() {
  sendButton.hidden = isWriting && !field.value.trim();
  sendButton.title = sendButton.querySelector("span").textContent = say(isWriting ? "send_later" : "send");
}

/** On a touch screen the keyboard would come up and hide the answer. */
export function focusText() {
  if (!matchMedia("(pointer: coarse)").matches) field.focus({ preventScroll: true });
}
