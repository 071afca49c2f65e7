// One turn on the page: takes its live text, exactly, and shows it once a frame. Blocks that are over come as the
// server's HTML, the same that the saved answer shows; what follows them is shown by `markdown` meanwhile.

import { frameBlocks } from "code";
import { say } from "words";

const WAITING = 5_000; // ms before the first word
const HIGH_SURROGATES = /[\ud800-\udbff]/g;

let markdown = null; // comes before it is needed; while it is away, text is shown as it was written

/** Get the parser: somebody is about to read an answer that is being written. */
export function loadMarkdown() {
  import("markdown").then((module) => (markdown = module), () => {});
}

function writerInto(node) {
  if (markdown) return markdown.markdownWriter(node);
  return { isPlain: true, write: (text) => node.append(text) };
}

/** Return the length of a text as the server counts it: in code points. */
function lengthOf(text) {
  return text.length - (text.match(HIGH_SURROGATES)?.length ?? 0);
}

/** Return the text without its first `count` code points. */
function skip(text, count) {
  let index = 0;
  while (count-- > 0) index += text.codePointAt(index) > 0xffff ? 2 : 1;
  return text.slice(index);
}

export class LiveTurn {
  gen = 0;
  at = { "turn.delta": 0, "turn.reasoning": 0 };
  isStopping = false;
  #pending = { "turn.delta": "", "turn.reasoning": "" };
  #pendingBlocks = [];
  #frame = 0;
  #blocks = []; // of each, its HTML and its nodes
  #end = 0; // of the last of them
  #rest = ""; // the text after it
  #tail = null; // where the rest is shown
  #writer = null;

  /** `onGrowth(change)` wraps whatever makes the article taller; `announce(text)` says it to who cannot see the page. */
  constructor(article, onGrowth, announce) {
    this.article = article;
    this.id = article.dataset.turn;
    this.onGrowth = onGrowth;
    this.answer = article.querySelector("[data-answer]");
    loadMarkdown();
    this.answer.replaceChildren(); // what the server put there comes again, over the socket
    this.waiting = setTimeout(() => {
      this.#progress(say("waiting"));
      announce(say("waiting"));
    }, WAITING);
  }

  /** Where to go on: the fields of a `turn.watch`. */
  get place() {
    return { gen: this.gen, at: this.at["turn.delta"], reasoning_at: this.at["turn.reasoning"] };
  }

  /** Take a `turn.delta` or `turn.reasoning`; return false when something before it is missing. */
  take({ type, gen, at, text }) {
    if (gen < this.gen) return true;
    if (gen > this.gen) this.#begin(gen);
    const have = this.at[type];
    if (at > have) return false;
    const fresh = at < have ? skip(text, have - at) : text;
    if (fresh) {
      this.at[type] = at + lengthOf(text);
      this.#pending[type] += fresh;
      this.#frame ||= requestAnimationFrame(() => this.#show()); // a hidden tab gets no frame, and catches up in one
    }
    return true;
  }

  /** Take a `turn.block`: it comes after its text. */
  takeBlock(block) {
    if (block.gen !== this.gen) return;
    this.#pendingBlocks.push(block);
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  /** Take a `turn.waiting`. */
  wait({ place }) {
    clearTimeout(this.waiting);
    this.#progress(place ? say("in_line", { place }) : say("waiting"));
  }

  /** Put the server's article in the place of this one. */
  finish(article) {
    this.close();
    const wasOpen = this.article.querySelector("[data-reasoning][open]");
    const hadFocus = this.article.contains(document.activeElement);
    this.onGrowth(() => this.article.replaceWith(article));
    if (wasOpen) article.querySelector("[data-reasoning]")?.setAttribute("open", "");
    if (hadFocus) article.focus({ preventScroll: true });
  }

  /** Show the text so far as it is, while nothing follows it; `#begin` starts over. */
  showPlain(text) {
    this.gen = 0;
    this.#begin(0);
    this.answer.append(text);
    this.#progress("");
  }

  close() {
    clearTimeout(this.waiting);
    cancelAnimationFrame(this.#frame);
  }

  #begin(gen) {
    this.gen = gen; // 0 until the first text: whatever generation comes, it starts over
    this.at = { "turn.delta": 0, "turn.reasoning": 0 };
    this.#pending = { "turn.delta": "", "turn.reasoning": "" };
    this.#pendingBlocks = [];
    this.#blocks = [];
    this.#end = 0;
    this.#rest = "";
    this.#writer = null;
    this.answer.replaceChildren();
    this.article.querySelector("[data-reasoning-text]")?.replaceChildren();
  }

  #show() {
    this.#frame = 0;
    clearTimeout(this.waiting);
    this.onGrowth(() => {
      const { "turn.delta": text, "turn.reasoning": reasoning } = this.#pending;
      this.#pending = { "turn.delta": "", "turn.reasoning": "" };
      if (reasoning) this.#think(reasoning);
      if (text) {
        if (!this.#writer) this.#beginTail();
        this.#rest += text;
        this.#progress("");
      }
      if (this.#placeBlocks() || (text && markdown && this.#writer.isPlain)) {
        this.#tail.replaceChildren();
        this.#writer = writerInto(this.#tail);
        this.#writer.write(this.#rest);
      } else if (text) {
        this.#writer.write(text);
      }
    });
  }

  #beginTail() {
    this.article.querySelector("[data-reasoning-title]").textContent = say("thoughts");
    this.#tail = document.createElement("div");
    this.#tail.className = "answer-tail prose";
    this.#tail.dir = "auto";
    this.answer.append(this.#tail);
    this.#writer = writerInto(this.#tail);
  }

  /** Put the server's blocks before the rest, and take their text from it; return whether there were any. */
  #placeBlocks() {
    const blocks = this.#pendingBlocks;
    this.#pendingBlocks = [];
    const before = this.#end;
    for (const { index, end, html } of blocks) {
      const old = this.#blocks[index];
      if (index > this.#blocks.length || old?.html === html) continue; // the latter: sent again after a lost connection
      const template = document.createElement("template");
      template.innerHTML = html;
      frameBlocks(template.content);
      const nodes = [...template.content.childNodes];
      const next = old ? old.nodes.at(-1)?.nextSibling : this.#tail;
      for (const node of old?.nodes ?? []) node.remove();
      this.answer.insertBefore(template.content, next ?? this.#nodeAfter(index));
      this.#blocks[index] = { html, nodes };
      this.#end = Math.max(this.#end, end);
    }
    this.#rest = skip(this.#rest, this.#end - before);
    return this.#end > before;
  }

  /** Return the first node after a block that has none itself. */
  #nodeAfter(index) {
    return this.#blocks.slice(index + 1).find(({ nodes }) => nodes.length)?.nodes[0] ?? this.#tail;
  }

  #think(text) {
    this.article.querySelector("[data-reasoning]").hidden = false;
    this.#progress(""); // its title says that the model thinks
    const node = this.article.querySelector("[data-reasoning-text]");
    if (node.firstChild) node.firstChild.appendData(text);
    else node.append(text);
  }

  #progress(text) {
    const line = this.article.querySelector("[data-progress]");
    line.hidden = !text;
    line.querySelector("[data-progress-text]").textContent = text;
  }
}
