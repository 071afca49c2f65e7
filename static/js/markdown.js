// The last block of an answer, Markdown to DOM nodes while it is being written. Nothing a model writes becomes an
// attribute, save safe links, the start of a list and the name of a code's language; images are never loaded. When the
// block is over, the server's HTML takes its place.

import { frameCode, nameLanguage } from "code";
import * as smd from "streaming-markdown";
import { say } from "words";

const SAFE_LINK = /^(https?:|mailto:)/i;
const MAX_DEPTH = 20; // of the parser's 24 levels: one character opens at most three, and what is deeper hangs it
// Characters it holds back until it knows what they are: it reads them again with each one.
const MAX_GUESS_LENGTH = 2_000;

const TAGS = new Map([
  [smd.PARAGRAPH, "p"], [smd.BLOCKQUOTE, "blockquote"], [smd.LINE_BREAK, "br"], [smd.RULE, "hr"],
  [smd.HEADING_1, "h4"], [smd.HEADING_2, "h5"], [smd.HEADING_3, "h6"], // as the server does: the page has the first
  [smd.HEADING_4, "h6"], [smd.HEADING_5, "h6"], [smd.HEADING_6, "h6"],
  [smd.ITALIC_AST, "em"], [smd.ITALIC_UND, "em"], [smd.STRONG_AST, "strong"], [smd.STRONG_UND, "strong"],
  [smd.STRIKE, "s"], [smd.CODE_INLINE, "code"], [smd.LINK, "a"], [smd.RAW_URL, "a"],
  [smd.LIST_UNORDERED, "ul"], [smd.LIST_ORDERED, "ol"], [smd.LIST_ITEM, "li"],
  [smd.CODE_BLOCK, "code"], [smd.CODE_FENCE, "code"], [smd.TABLE, "table"], [smd.TABLE_ROW, "tr"],
]);

const FORMULAS = new Map([[smd.EQUATION_BLOCK, "$$"], [smd.EQUATION_INLINE, "$"]]);

/** Return a writer into `node`: `write(text)`. What the parser cannot take is shown as it was written. */
export function markdownWriter(node) {
  const nodes = [node];
  const top = () => nodes[nodes.length - 1];
  const formulas = []; // of each node but the first, what stands around a formula: it is shown as it was written
  let plain = null; // where the rest goes once the parser was given up
  let text = ""; // added in one piece

  function flush() {
    if (text) append(plain ?? top(), text);
    text = "";
  }
  function mark(formula) {
    if (formula) append(top(), formula);
  }
  const parser = smd.parser({
    data: null,
    add_token: (_, type) => {
      flush();
      if (type === 1) return; // the document, which is `node`
      nodes.push(open(top(), type));
      formulas.push(FORMULAS.get(type) ?? "");
      mark(formulas.at(-1));
    },
    end_token: () => {
      flush();
      if (nodes.length === 1) return;
      mark(formulas.pop());
      nodes.pop();
    },
    add_text: (_, more) => (text += more),
    set_attr: (_, type, value) => set(top(), type, value),
  });

  function parse(char) {
    smd.parser_write(parser, char);
    if (parser.len < MAX_DEPTH && parser.pending.length < MAX_GUESS_LENGTH) return;
    flush();
    plain = plainPart(node);
    if (parser.token !== smd.RAW_URL) text = parser.pending; // of an address it shows every character at once
  }
  return {
    write(more) {
      for (const char of more) {
        if (plain) text += char;
        else parse(char);
      }
      flush();
    },
  };
}

function plainPart(node) {
  const part = node.appendChild(document.createElement("div"));
  part.className = "answer-plain";
  return part;
}

function open(parent, type) {
  let tag = TAGS.get(type) ?? "span";
  if (type === smd.CODE_BLOCK || type === smd.CODE_FENCE) {
    parent = parent.appendChild(document.createElement("pre"));
    frameCode(parent);
  }
  if (type === smd.TABLE_ROW) {
    const isHead = parent.children.length === 0;
    const wanted = isHead ? "thead" : "tbody";
    parent = parent.querySelector(`:scope > ${wanted}`) ?? parent.appendChild(document.createElement(wanted));
  }
  if (type === smd.TABLE_CELL) tag = parent.parentElement?.tagName === "THEAD" ? "th" : "td";
  const element = parent.appendChild(document.createElement(tag));
  if (type === smd.CHECKBOX) {
    element.className = "task";
    element.textContent = "☐";
  }
  if (type === smd.IMAGE) {
    element.className = "image-off";
    element.append(`${say("image")} `);
  }
  return element;
}

function append(element, text) {
  const last = element.lastChild;
  if (last?.nodeType === Node.TEXT_NODE) last.appendData(text); // one node a paragraph, not one a token
  else element.append(text);
}

function set(element, type, value) {
  if (type === smd.HREF && element.tagName === "A" && SAFE_LINK.test(value.trim())) {
    element.href = value.trim();
    element.rel = "noopener noreferrer nofollow";
    element.target = "_blank";
  }
  if (type === smd.CHECKED) element.textContent = "☑";
  if (type === smd.START && /^\d{1,9}$/.test(value)) element.setAttribute("start", value);
  if (type === smd.LANG && /^[\w+#.-]{1,30}$/.test(value)) {
    element.className = `language-${value}`;
    nameLanguage(element.parentElement);
  }
}
