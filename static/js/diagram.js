// Mermaid diagrams, loaded when there is one. A frame of its own draws each (diagram-frame.js): without our origin, without
// network, under a policy that lets styles be written inline, as Mermaid does. The source is what is copied and kept.
// A browser caches nothing for such a frame, so the library is loaded here, once, and handed in.

import { growing } from "scroll";
import { say } from "words";

const PATIENCE = 20_000; // ms until the source is all there will be
const MOST_TEXT = 4_000; // characters: a browser draws where it scrolls, too
const LEAST = 600; // px of width
const MOST = 8_000; // px of a side

let library = null; // on its way, as a Blob
const drawn = new Map(); // of each frame, the code it shows
const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) begin(target);
  },
  { rootMargin: "400px" },
);

/** Show the code in `box` as a diagram once it is near. */
export function draw(box) {
  if (box.querySelector("pre").textContent.length <= MOST_TEXT) near.observe(box);
}

function begin(box) {
  near.unobserve(box);
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.src = "/diagram/";
  frame.title = say("diagram");
  frame.width = Math.max(LEAST, box.clientWidth); // what takes all the width there is (Gantt) takes this
  const place = document.createElement("div");
  place.className = "diagram";
  place.tabIndex = 0;
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", say("diagram"));
  place.append(frame);
  box.append(place);
  frame.addEventListener("load", () => ask(box, frame), { once: true });
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
    drawn.delete(frame);
    clearTimeout(timer);
    growing(() => {
      frame.parentElement?.remove();
      box.classList.remove("code-drawn");
      box.querySelector("[data-source]")?.remove();
    });
  }
  answers.onmessage = ({ data }) => {
    clearTimeout(timer);
    if (!isSide(data?.width) || !isSide(data?.height)) return giveUp();
    growing(() => {
      frame.width = Math.ceil(data.width);
      frame.height = Math.ceil(data.height);
      if (!drawn.has(frame)) show(box);
      drawn.set(frame, box);
    });
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
  for (const [frame, box] of drawn) {
    if (frame.isConnected) ask(box, frame);
    else drawn.delete(frame);
  }
}

new MutationObserver(drawAgain).observe(document.documentElement, { attributeFilter: ["data-theme"] });
prefersDark.addEventListener("change", drawAgain);
