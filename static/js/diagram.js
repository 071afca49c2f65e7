// Mermaid diagrams, loaded when there is one. A frame of its own draws each (diagram-frame.js): without our origin, without
// network, under a policy that lets styles be written inline, as Mermaid does. The source is what is copied and kept.
// A browser caches nothing for such a frame, so the library is loaded here, once, and handed in.

import { growing } from "scroll";
import { say } from "words";

const PATIENCE = 20_000; // ms until the source is all there will be
const MOST_TEXT = 4_000; // characters: a browser draws where it scrolls, too
const LEAST = 600; // px of width
const MOST = 8_000; // px of a side

const MOST_FRAMES = 8; // each holds some 10 MB, and an answer may have hundreds of diagrams

let library = null; // on its way, as a Blob
let drawing = null; // the box whose frame is at it: one after the other, or the page stands still
const near = new Set(); // boxes that are in sight, or about to be
const frames = new Map(); // of each box, its frame, the oldest first
const nearness = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) near.add(target);
      else near.delete(target);
    }
    drawNext();
  },
  { rootMargin: "400px" },
);

/** Show the code in `box` as a diagram while it is near. */
export function draw(box) {
  if (box.querySelector("pre").textContent.length <= MOST_TEXT) nearness.observe(box);
}

function drawNext() {
  if (drawing?.isConnected) return;
  for (const [box, frame] of frames) {
    if (!box.isConnected) frames.delete(box);
    else if (frames.size > MOST_FRAMES && !near.has(box)) clear(box, frame);
  }
  drawing = [...near].find((box) => box.isConnected && !frames.has(box)) ?? null;
  if (drawing) begin(drawing);
}

/** Take a frame away, and leave its place as large as it is: nothing on the page moves. */
function clear(box, frame) {
  const place = frame.parentElement;
  frames.delete(box);
  place.style.setProperty("--was", `${place.offsetHeight}px`);
  frame.remove();
}

function begin(box) {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.src = "/diagram/";
  frame.title = say("diagram");
  frame.width = Math.max(LEAST, box.clientWidth); // what takes all the width there is (Gantt) takes this
  frames.set(box, frame);
  frame.addEventListener("load", () => ask(box, frame), { once: true });
  (box.querySelector(":scope > .diagram") ?? makePlace(box)).append(frame);
}

function makePlace(box) {
  const place = document.createElement("div");
  place.className = "diagram";
  place.tabIndex = 0;
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", say("diagram"));
  box.append(place);
  return place;
}

function isOver(box) {
  if (drawing !== box) return;
  drawing = null;
  drawNext();
}

function loadLibrary() {
  return fetch(document.querySelector("[data-mermaid]").dataset.mermaid).then((response) => {
    if (!response.ok) throw new Error(response.status);
    return response.blob();
  });
}

async function ask(box, frame) {
  const { port1: answers, port2 } = new MessageChannel();
  const timer = setTimeout(giveUp, PATIENCE);
  function giveUp() {
    answers.close();
    clearTimeout(timer);
    if (frames.get(box) !== frame) return; // it was taken away meanwhile
    nearness.unobserve(box);
    near.delete(box);
    frames.delete(box);
    growing(() => {
      frame.parentElement?.remove();
      box.classList.remove("code-drawn");
      box.querySelector("[data-source]")?.remove();
    });
    isOver(box);
  }
  answers.onmessage = ({ data }) => {
    clearTimeout(timer);
    if (frames.get(box) !== frame) return;
    if (!isSide(data?.width) || !isSide(data?.height)) return giveUp();
    growing(() => {
      frame.width = Math.ceil(data.width);
      frame.height = Math.ceil(data.height);
      frame.parentElement?.removeAttribute("style");
      if (!box.querySelector("[data-source]")) show(box);
    });
    isOver(box);
  };
  try {
    const text = box.querySelector("pre").textContent;
    const message = { library: await (library ??= loadLibrary()), text, isDark: isDark() };
    frame.contentWindow?.postMessage(message, "*", [port2]); // a sandbox has no origin to name
  } catch {
    library = null;
    giveUp();
  }
}

function isSide(value) {
  return typeof value === "number" && value > 0 && value <= MOST;
}

function show(box) {
  box.classList.add("code-drawn");
  const button = document.createElement("button");
  button.className = "code-button";
  button.type = "button";
  button.dataset.source = "";
  button.textContent = say("source");
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    const isDrawn = box.classList.toggle("code-drawn");
    button.setAttribute("aria-pressed", !isDrawn);
  });
  box.querySelector("[data-wrap-code]").before(button);
}

// --- The theme ---

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme === "dark" || (theme !== "light" && prefersDark.matches);
}

function drawAgain() {
  for (const [box, frame] of frames) {
    if (box !== drawing && box.isConnected) ask(box, frame);
  }
}

new MutationObserver(drawAgain).observe(document.documentElement, { attributeFilter: ["data-theme"] });
prefersDark.addEventListener("change", drawAgain);
