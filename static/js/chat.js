// The chat page: what the socket says goes to turns, sidebar and composer; what the person does goes to the socket.

import * as attach from "attach";
import { frameBlocks } from "code";
import * as composer from "composer";
import { followEdits } from "edit";
import htmx from "htmx";
import { beside, hasOther, pick, setBeside, setModel } from "picker";
import { anchorTo, growing, isFollowing, keepAt, moveAnchor, startAtEnd } from "scroll";
import { changeConversation, reloadList, useConversation } from "sidebar";
import { Socket } from "socket";
import { LiveTurn, loadMarkdown } from "turn";
import { formatNumber, say } from "words";

const RECONNECTING = 2_000; // ms until a lost connection is worth a word
const POLL = 2_000;
const FAILURES = 5; // then pages are asked instead
const CONNECTED = 3_000;
const LEAVE_DELAY = 3_000;
const LEAVING = "left"; // in the tab's storage: why the page before was left
const CARRIED = "carried"; // there, too: what was being written when a temporary conversation was begun
const ENDED = new Set(["turn.completed", "turn.stopped", "turn.failed", "turn.interrupted"]);

const main = document.querySelector("[data-chat]");
const turns = document.querySelector("[data-turns]");
const announcer = document.querySelector("[data-announce]");
const connection = document.querySelector("[data-connection]");
const notice = document.querySelector("[data-notice]");
const form = document.querySelector("[data-composer]");
const chatId = main.dataset.chat;
const temporary = document.querySelector("[data-temporary]"); // its conversation is kept nowhere, and so is what is written
const siteName = document.title.split(" · ").pop();

const live = new Map(); // turn id → LiveTurn
let pending = null; // the question that is on its way: {command, text, beside, button, isQueued, form}
let pendingBeside = null; // the command that asks a second model, from when the first one is asked
let refused = null; // the question that was refused last
let queued = null; // the one that is asked when the answer ends: {command, text, beside, files}
let isRefusalToStay = false; // it is about the second model
let isPolling = false;
let isPosting = false; // the question that is on its way
let isLeaving = false;
let lostTimer = 0;
let goneTimer = 0; // until the temporary conversation is gone
let wanted = null; // the branch that is on its way: {id, top, name}
let latest = ""; // the turn that began last

// --- The page as it came ---

for (const article of turns.querySelectorAll("[data-turn]")) adopt(article);
const folder = form.elements.folder?.value; // a new chat begins in it
composer.keepDraftOf("known" in main.dataset ? chatId : folder ? `new-${folder}` : "new");
attach.restore(composer.restoreDraft((id) => findTurn(id) !== null));
if (temporary) {
  composer.stopKeeping();
  takeCarried();
  awaitEnd(temporary.dataset.left);
}
composer.onAsk(ask, stop);
followEdits(turns, askInPlace);
composer.onQueued(takeBack, () => composer.showQueued((queued = composer.readQueued())));
findQueued();
form.addEventListener("input", loadMarkdown, { once: true });
showWriting();
tellWhyLeft();
if (!turns.querySelector("[data-welcome]")) startAtEnd();
if (!location.hash) composer.focusText();
showPlace();

const socket = new Socket({
  onOpen: opened,
  onEvent: (event) => (handlers[event.type] ?? (ENDED.has(event.type) ? ended : ignore))(event),
  onClose: lost,
  onShutOut: composer.stopKeeping,
  member: form.dataset.member,
  expects: () => live.size > 0 || pending !== null,
});

const handlers = {
  "turn.started": started,
  "turn.delta": grown,
  "turn.reasoning": grown,
  "turn.block": (event) => live.get(event.turn_id)?.takeBlock(event),
  "turn.rejected": rejected,
  "turn.waiting": (event) => live.get(event.turn_id)?.wait(event),
  "conversation.changed": conversationChanged,
  "list.changed": listChanged,
  "allowance.changed": allowanceChanged,
  notice: ({ text }) => tell(text),
};

function ignore() {}

// --- Asking and stopping ---

function ask({ text, button }) {
  if (pending) return;
  if (button?.name === "with") {
    setModel(button.value);
    askInstead(text);
    return;
  }
  const hindrance = button ? "" : attach.hindrance();
  if (hindrance) {
    composer.refuse(hindrance);
    return;
  }
  const command = {
    type: "turn.start",
    turn_id: newId(),
    conversation_id: chatId,
    text,
    model: composer.model(),
    blocks: true,
    attachments: button ? [] : attach.ids(),
  };
  if (folder) command.folder_id = folder;
  if (composer.effort()) command.effort = composer.effort();
  if (button?.name === "again") {
    const article = button.closest("[data-turn]");
    command.text = article.querySelector("[data-question]").textContent;
    Object.assign(command, placeOf(article));
    if ("recorded" in article.dataset) command.model ??= "recorded";
  } else if (button?.name === "continue") {
    command.text = button.dataset.continue;
    if (button.value !== shownLeaf()) command.parent_id = button.value; // else another tab may be first
  } else if (button) {
    command.text = button.value;
    if (button.name === "recorded") command.model = "recorded"; // an example: its answer is there already
  }
  const question = { command, text: button ? null : text, beside: button ? "" : beside(), button };
  if (live.size && !button) queue(question);
  else send(question);
}

/** Ask what was refused once more, of the model that is chosen now: with its files, in its place. Its buttons go when
 * the person writes on; without a refused question they came with the page, and so did its text. */
function askInstead(text) {
  if (!refused) {
    ask({ text });
    return;
  }
  const { effort: _effort, ...command } = refused.command;
  if (composer.effort()) command.effort = composer.effort();
  Object.assign(command, { turn_id: newId(), model: composer.model() });
  send({ ...refused, command, text: text === command.text ? text : null, isQueued: false, beside: "" });
}

/** Ask the question once more, of a second model: the page shows both when the server has it. */
function askBeside({ turn_id, conversation_id }, model) {
  pendingBeside = { type: "turn.start", turn_id: newId(), conversation_id, model, beside_id: turn_id, blocks: true };
  socket.send(pendingBeside);
}

/** Ask what was written in the place of a turn's question. */
function askInPlace(article, form) {
  if (pending) return;
  const command = {
    type: "turn.start",
    turn_id: newId(),
    conversation_id: chatId,
    text: form.elements.text.value,
    model: composer.model(),
    blocks: true,
    ...placeOf(article),
  };
  if (composer.effort()) command.effort = composer.effort();
  send({ command, text: null, form });
}

/** Return what makes a question a sibling of that turn, with the same files. */
function placeOf(article) {
  const attachments = [...article.querySelectorAll("[data-file]")].map((file) => file.dataset.file);
  return { parent_id: article.dataset.parent || null, attachments };
}

/** Send a question: a command, and the text of the composer that it was, null for that of a button. */
function send(question) {
  isRefusalToStay = false;
  tell("");
  composer.sending(question.text === null ? null : question.command.turn_id);
  deliver(question);
}

/** It goes out again until there is an answer to it, with the same id each time: so it is asked once. */
function deliver(question) {
  pending = question;
  if (socket.send(pending.command)) return;
  if (isPolling) askByForm();
  else tell(say("unsent"));
}

// --- A question in line: asked when the answer ends ---

function queue(question) {
  if (queued) {
    composer.refuse(say("queue_full"));
    return;
  }
  queued = { ...question, files: composer.attached() };
  composer.keepQueued(queued);
  attach.used(question.command.attachments);
  composer.sent(question.text);
  setBeside("");
  announcer.textContent = say("queued");
}

/** What was in line when the page was left. It is asked only where its answer is still waited for: who comes back later
 * finds it in the composer. */
function findQueued() {
  queued = composer.readQueued();
  if (!queued) return;
  if (findTurn(queued.command.turn_id)) dropQueued();
  else if (live.size) composer.showQueued(queued);
  else takeBack();
}

/** Put the question in line back into the composer: its writer wants it, or the answer it waited for did not come, or is
 * out of sight. */
function takeBack() {
  if (!queued || pending?.isQueued) return;
  const { text, files } = queued;
  dropQueued();
  composer.giveBack(text);
  attach.restore(files);
  composer.focusText();
}

function dropQueued() {
  queued = null;
  composer.keepQueued(null);
}

/** Ask as the form does without JavaScript, but keep the page until there is an answer. */
async function askByForm() {
  if (isPosting) return;
  isPosting = true;
  const { command, text, isQueued, button, form: own } = pending;
  const data = new FormData(own ?? form);
  for (const name of ["turn_id", "text", "model", "effort"]) data.set(name, command[name] ?? "");
  data.set("beside", pending.beside ?? "");
  data.delete("attachments");
  for (const id of command.attachments) data.append("attachments", id);
  if (button) data.set(button.name, button.value);
  try {
    const response = await fetch((own ?? form).action, { method: "POST", body: data });
    if (pending?.command !== command) return; // the socket came back, and was faster
    if (response.ok && new URL(response.url).pathname === `/c/${chatId}/`) {
      pending = null;
      if (isQueued) dropQueued();
      else composer.sent(text);
      location.assign(response.url);
      return;
    }
    if (response.redirected) {
      location.reload(); // logged out
      return;
    }
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const sentence = page.querySelector("[data-refusal], [data-sentence]")?.textContent.trim();
    const html = page.querySelector("[data-ways]")?.innerHTML;
    if (sentence) rejected({ turn_id: command.turn_id, detail: sentence, html });
    else if (response.status >= 400 && response.status < 500) rejected({ turn_id: command.turn_id, detail: say("not_changed") });
    else tell(say("unsent")); // a proxy's page, which says nothing to people
  } catch {
    if (pending?.command === command) tell(say("unsent"));
  } finally {
    isPosting = false;
  }
}

function stop() {
  if (!pending) composer.refuse("");
  for (const turn of live.values()) {
    if (turn.isStopping) continue;
    turn.isStopping = true;
    if (!socket.send({ type: "turn.stop", turn_id: turn.id })) stopByRequest(turn);
  }
}

/** Stop without a socket. The page hears of the end as of any other. */
async function stopByRequest(turn) {
  const headers = { "X-CSRFToken": form.elements.csrfmiddlewaretoken.value };
  const response = await fetch(`/api/v1/turns/${turn.id}/stop`, { method: "POST", headers }).catch(() => null);
  if (response?.ok) return;
  turn.isStopping = false;
  if (live.has(turn.id)) composer.refuse(say("not_changed"));
}

// --- What the socket says ---

function opened() {
  clearTimeout(lostTimer);
  if (connection.textContent) {
    connection.textContent = say("connected");
    setTimeout(() => (connection.textContent = ""), CONNECTED);
  }
  isPolling = false;
  for (const turn of live.values()) follow(turn);
  if (pending) {
    tell("");
    socket.send(pending.command); // the same id: a question that did arrive is not asked twice
  }
  if (pendingBeside) socket.send(pendingBeside);
}

function follow(turn) {
  turn.isStopping = false;
  socket.send({ type: "turn.watch", turn_id: turn.id, blocks: true, ...turn.place });
}

function started({ turn_id, conversation_id, beside_id, html }) {
  useConversation(conversation_id);
  if (conversation_id !== chatId) return;
  latest = turn_id;
  const isOurs = pending?.command.turn_id === turn_id;
  if (!findTurn(turn_id)) {
    const article = parse(html);
    if (beside_id || !hasPlaceFor(article)) {
      wanted = isOurs && !pending.isQueued ? { id: turn_id } : null;
      showBranch();
    } else {
      const add = () => {
        document.querySelector("[data-welcome]")?.remove();
        removeBranch(article.dataset.parent);
        turns.append(article);
      };
      if (isOurs && !pending.isQueued) add();
      else growing(add);
      htmx.process(article);
      adopt(article);
      if (isOurs && (!pending.isQueued || isFollowing())) anchorTo(article);
    }
  }
  if (pendingBeside?.turn_id === turn_id) pendingBeside = null;
  if (isOurs) {
    const { command, text, isQueued, beside: second } = pending;
    if (second) askBeside(command, second);
    if (isQueued) {
      dropQueued();
    } else {
      attach.used(command.attachments);
      composer.sent(text);
      setBeside("");
      composer.focusText();
    }
    pending = null;
    form.elements.turn_id.value = newId();
    if (!("known" in main.dataset)) becomeKnown();
  } else if (live.has(turn_id)) {
    follow(live.get(turn_id)); // another tab asked; the server does not know yet that we want the text
  }
  announcer.textContent = say("writing");
  showWriting();
  if (temporary) postponeEnd();
}

/** What is being written goes along into a temporary conversation, and into no draft. */
document.querySelector("[data-begin-temporary]")?.addEventListener("submit", () => {
  try {
    sessionStorage.setItem(CARRIED, form.elements.text.value);
    composer.setText("");
  } catch {
    // No storage: it stays where it is.
  }
});

function takeCarried() {
  try {
    const text = sessionStorage.getItem(CARRIED);
    sessionStorage.removeItem(CARRIED);
    if (text && composer.isEmpty()) composer.setText(text);
  } catch {
    // No storage.
  }
}

/** Each question keeps a temporary conversation for another while. */
function postponeEnd() {
  const { kept, zone } = temporary.dataset;
  const format = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: zone });
  temporary.querySelector("[data-gone]").textContent = format.format(Date.now() + kept * 1_000);
  awaitEnd(kept);
}

/** Then the server has nothing of it any more, and says so. */
function awaitEnd(seconds) {
  clearTimeout(goneTimer);
  goneTimer = setTimeout(() => location.reload(), (Number(seconds) + 1) * 1_000);
}

function grown(event) {
  const turn = live.get(event.turn_id);
  if (turn && !turn.take(event)) follow(turn); // something is missing: from where we are, once more
}

function ended({ turn_id, html }) {
  const old = findTurn(turn_id);
  if (!old) return;
  const article = parse(html);
  enhance(article);
  const turn = live.get(turn_id);
  moveAnchor(old, article);
  if (turn) turn.finish(article);
  else growing(() => old.replaceWith(article));
  htmx.process(article);
  live.delete(turn_id);
  if (!pending && !isRefusalToStay) composer.refuse(""); // "wait for the answer" no longer holds
  const words = article.querySelector("[data-answer]").textContent.trim().split(/\s+/).filter(Boolean).length;
  const notes = [...article.querySelectorAll(".turn-note-error"), ...article.querySelectorAll(".turn-note:not(.turn-note-error)")];
  const note = notes.map((element) => element.textContent.trim()).join(" ");
  announcer.textContent = note || (words ? say("finished", { words: formatNumber(words) }) : say("ended"));
  showWriting();
  if (document.hidden && !document.title.startsWith("● ")) document.title = `● ${document.title}`;
  if (!queued || live.size || pending) return;
  if (["completed", "stopped"].includes(article.dataset.status)) deliver({ ...queued, isQueued: true });
  else takeBack(); // it may have been about the answer that did not come
}

function rejected({ turn_id, code, detail, html }) {
  const turn = live.get(turn_id);
  if (turn && code === "not_found") {
    leave();
    return;
  }
  if (turn?.isStopping) {
    turn.isStopping = false; // the next click tries again
    composer.refuse(detail);
    return;
  }
  if (turn_id && turn_id === pendingBeside?.turn_id) {
    pendingBeside = null;
    composer.refuse(detail, html); // the first model answers all the same
    isRefusalToStay = true;
    return;
  }
  if (!pending || (turn_id && turn_id !== pending.command.turn_id)) return;
  const { command, text, isQueued, form: own } = pending;
  refused = pending;
  pending = null;
  composer.refuse(detail, html);
  if (own) return; // it is still there
  if (isQueued) takeBack();
  else if (text !== null || composer.isEmpty()) composer.setText(command.text);
  composer.focusText();
}

function conversationChanged({ conversation_id, html, leaf_id }) {
  const isCurrent = conversation_id === chatId;
  const row = html ? parse(html) : null;
  changeConversation(conversation_id, row, { isCurrent });
  if (!isCurrent) return; // what is half written waits: it may be taken back
  if (!row) {
    leave();
    return;
  }
  if (leaf_id && leaf_id !== shownLeaf() && !wanted) showBranch();
  const title = row.querySelector("a").textContent;
  document.querySelector("[data-title]").textContent = title;
  const mark = document.title.startsWith("● ") ? "● " : ""; // an answer nobody has seen yet
  document.title = `${mark}\u2068${title}\u2069 · ${siteName}`; // isolated, as the server does
}

async function listChanged() {
  reloadList();
  if (temporary || !("known" in main.dataset)) return;
  const response = await fetch(`/c/${chatId}/rename/`, { headers: { "HX-Request": "true" } }).catch(() => null);
  if (response?.status === 404) leave();
}

document.addEventListener("submit", ({ target, submitter }) => {
  const isTrashing = target.matches("[data-order]") && submitter?.value === `trash:${chatId}`;
  if (isTrashing || temporary?.contains(target)) prepareToLeave();
});

/** What was being written goes along into a new chat. */
function prepareToLeave() {
  isLeaving = true;
  isPolling = false;
  if (pending?.isQueued) pending = null;
  takeBack();
  composer.moveDraft("new");
}

/** The conversation is gone: on to a new chat. */
function leave() {
  if (isLeaving || !("known" in main.dataset)) return;
  prepareToLeave();
  // Who deletes it here is sent on by the answer; leaving twice at once would break off the first leaving.
  const wait = document.querySelector("dialog[open]") ? LEAVE_DELAY : 0;
  setTimeout(() => {
    try {
      sessionStorage.setItem(LEAVING, say("deleted"));
    } catch {
      // No storage: left without a word.
    }
    location.replace("/"); // nobody goes back to where it was
  }, wait);
}

function tellWhyLeft() {
  try {
    const reason = sessionStorage.getItem(LEAVING);
    sessionStorage.removeItem(LEAVING);
    if (reason) tell(reason);
  } catch {
    // No storage.
  }
}

function allowanceChanged({ used, allowance, packs }) {
  const text = document.querySelector("[data-allowance-used]");
  text.textContent = text.dataset.format.replace("%s", formatNumber(used, 1));
  const bar = document.querySelector("[data-allowance-bar]");
  if (bar && allowance !== null) {
    bar.max = allowance || 1;
    bar.value = used;
  }
  const inPacks = document.querySelector("[data-allowance-packs]");
  const left = packs.reduce((sum, pack) => sum + pack.left, 0);
  inPacks.textContent = inPacks.dataset.format.replace("%s", formatNumber(left, 1));
  inPacks.hidden = packs.length === 0;
}

// --- Without a socket ---

function lost(failures) {
  if (failures === 1) lostTimer = setTimeout(() => (connection.textContent = say("reconnecting")), RECONNECTING);
  if (failures === FAILURES) {
    clearTimeout(lostTimer);
    connection.textContent = say("polling");
    isPolling = true;
    poll();
  }
}

async function poll() {
  while (isPolling) {
    if (pending) askByForm();
    for (const turn of [...live.values()]) {
      const html = await fetchTurn(turn.id);
      if (html && isPolling) replaceWithSaved(turn, html);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
}

async function fetchTurn(id) {
  try {
    const response = await fetch(`/turns/${id}/`, { headers: { "HX-Request": "true" } });
    if (response.redirected) location.reload(); // logged out
    if (response.status === 404) leave();
    return response.ok ? await response.text() : "";
  } catch {
    return ""; // no network: once more later
  }
}

function replaceWithSaved(turn, html) {
  const article = parse(html);
  if (!isOpen(article)) {
    ended({ turn_id: turn.id, html });
    return;
  }
  const text = article.querySelector("[data-answer]").textContent;
  if (text) growing(() => turn.showPlain(text));
}

// --- Pieces ---

function findTurn(id) {
  return turns.querySelector(`[data-turn="${CSS.escape(id)}"]`);
}

function isOpen(article) {
  return ["queued", "streaming"].includes(article.dataset.status);
}

function adopt(article) {
  if (isOpen(article)) live.set(article.dataset.turn, new LiveTurn(article, growing, announce));
  else enhance(article);
}

/** Whether a turn follows one that is shown, alone, or is a beginning where one is. */
function hasPlaceFor({ dataset: { parent } }) {
  if (turns.querySelector("[data-later]")) return false;
  const before = parent ? findTurn(parent) : turns.querySelector("[data-turn]");
  return parent ? before !== null && !before.closest("[data-pair]") : !before?.dataset.parent;
}

/** A question asked in the place of another one takes that, and what followed goes out of sight. */
function removeBranch(parent) {
  const all = [...turns.querySelectorAll("[data-turn]")];
  const first = all.findIndex((article) => article.dataset.parent === parent);
  if (first >= 0) for (const article of all.slice(first)) (article.closest("[data-pair]") ?? article).remove();
  forgetRemoved();
  if (!live.size) takeBack(); // what was in line may have been about what is out of sight now
}

/** What is out of sight goes on, and is followed no more. */
function forgetRemoved() {
  for (const [id, turn] of live) {
    if (turn.article.isConnected) continue;
    turn.close();
    live.delete(id);
  }
}

function becomeKnown() {
  main.dataset.known = "";
  history.replaceState(null, "", `/c/${chatId}/`);
  composer.moveDraft(chatId);
  document.querySelector("[data-begin-temporary]")?.remove(); // this one is kept
}

function announce(text) {
  announcer.textContent = text;
}

function showWriting() {
  composer.showStop(live.size > 0);
}

function tell(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

/** Return the one element of a fragment the server rendered. */
function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild;
}

/** Show the buttons that need scripts, and frame code and tables. */
function enhance(article) {
  const copy = article.querySelector("[data-copy-answer]");
  if (copy) copy.hidden = false;
  const other = article.querySelector("[data-again-with]");
  if (other) other.hidden = !hasOther(article.querySelector("[data-answer]").dataset.label);
  for (const answer of article.querySelectorAll(".prose")) frameBlocks(answer);
}

// --- Asking another model: the question again, from whoever is chosen ---

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-again-with]");
  if (!button) return;
  event.preventDefault(); // its menu is closed by now: the picker stands beside the button that opened that
  const askThem = (key) => {
    setModel(key);
    if (button.isConnected) form.requestSubmit(button);
  };
  pick(button.closest("details").querySelector("summary"), askThem);
});

// --- Copying ---

document.addEventListener("click", (event) => {
  const code = event.target.closest("[data-copy-code]");
  if (code) copy(code, Promise.resolve(code.closest(".code").querySelector("pre").textContent));
  const answer = event.target.closest("[data-copy-answer]");
  if (answer) copy(answer, sourceOf(answer.closest("[data-turn]").dataset.turn));
});

/** Return an answer as the model wrote it. */
async function sourceOf(id) {
  const response = await fetch(`/api/v1/turns/${id}`);
  return (await response.json()).answer;
}

async function copy(button, text) {
  try {
    if (globalThis.ClipboardItem) {
      const blob = text.then((found) => new Blob([found], { type: "text/plain" }));
      await navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })]); // within the click, as Safari wants it
    } else {
      await navigator.clipboard.writeText(await text);
    }
  } catch {
    announcer.textContent = say("not_copied");
    tell(say("not_copied"));
    return;
  }
  announcer.textContent = say("copied");
  button.dataset.done = "";
  if ("copyCode" in button.dataset) button.textContent = say("copied");
  setTimeout(() => {
    delete button.dataset.done;
    if ("copyCode" in button.dataset) button.textContent = say("copy");
  }, 2_000);
}

// --- Branches ---

function shownLeaf() {
  if (turns.querySelector("[data-later]")) return "";
  return turns.querySelector("[data-leaf]")?.dataset.leaf ?? [...turns.querySelectorAll("[data-turn]")].at(-1)?.dataset.turn;
}

/** Show the branch that the server has chosen. */
function showBranch() {
  htmx.ajax("GET", `/c/${chatId}/`, { target: turns, swap: "innerHTML" });
}

/** Where an address leads to: to a turn that is on another branch, or on no page yet, the server shows the way. */
function showPlace() {
  const id = location.hash.match(/^#turn-([\da-f-]{36})$/)?.[1];
  if (new URLSearchParams(location.search).has("turn")) history.replaceState(null, "", location.pathname + location.hash);
  else if (id && "known" in main.dataset && !findTurn(id)) location.replace(`${location.pathname}?turn=${id}#turn-${id}`);
}

document.querySelector("[data-branch]").addEventListener("submit", ({ submitter }) => {
  const shown = submitter.closest("[data-turn], [data-pair]");
  wanted = { id: submitter.value, top: shown.getBoundingClientRect().top, name: submitter.dataset.sibling };
});

/** Whoever chose a branch finds it where the other one was, and the button they pressed. */
function showWanted() {
  const article = wanted && findTurn(wanted.id);
  if (!article) {
    growing(() => {});
    return;
  }
  const { top, name } = wanted;
  if (top === undefined) {
    anchorTo(article);
    return;
  }
  const shown = article.closest("[data-pair]") ?? article;
  keepAt(shown, top);
  const buttons = [...shown.querySelectorAll("[data-sibling]:enabled")].filter(({ offsetParent }) => offsetParent);
  const button = buttons.find(({ dataset }) => dataset.sibling === name) ?? buttons[0] ?? article;
  button.focus({ preventScroll: true });
}

// --- Turns that htmx brought ---

document.addEventListener("htmx:after:swap", ({ detail }) => {
  forgetRemoved();
  for (const article of turns.querySelectorAll("[data-turn]:not([data-seen])")) {
    if (live.has(article.dataset.turn)) continue;
    if (!isOpen(article)) enhanceOnce(article);
    else {
      adopt(article);
      follow(live.get(article.dataset.turn));
    }
  }
  if (detail.ctx.target !== turns) return;
  if (!live.size) takeBack();
  showWanted();
  wanted = null;
  showWriting();
  if (detail.ctx.latest !== latest && !findTurn(latest)) showBranch(); // it began since the server was asked
});

document.addEventListener("htmx:before:request", ({ detail }) => {
  detail.ctx.latest = latest;
});

document.addEventListener("htmx:finally:request", ({ detail }) => {
  if (detail.ctx.target === turns) wanted = null; // it was refused, say
});

function enhanceOnce(article) {
  article.dataset.seen = "";
  if (!article.querySelector(".code, .table-scroll")) enhance(article);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && document.title.startsWith("● ")) document.title = document.title.slice(2);
});

/** Return a UUID version 7 (RFC 9562): milliseconds, then random bits; of version 8 for a turn of a temporary conversation. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  new DataView(bytes.buffer).setUint32(0, Math.floor(Date.now() / 0x10000));
  new DataView(bytes.buffer).setUint16(4, Date.now() % 0x10000);
  bytes[6] = (bytes[6] & 0x0f) | (temporary ? 0x80 : 0x70);
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}
