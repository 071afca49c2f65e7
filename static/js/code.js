// A block of code: the name of its language, a button that copies it, and a place to scroll.

import { say } from "words";

/** Put a `<pre>` into its frame. */
export function frameCode(pre) {
  const box = document.createElement("div");
  box.className = "code";
  const head = document.createElement("div");
  head.className = "code-head";
  const label = document.createElement("span");
  label.className = "code-language";
  const button = document.createElement("button");
  button.className = "code-copy";
  button.type = "button";
  button.dataset.copyCode = "";
  button.textContent = say("copy");
  head.append(label, button);
  pre.replaceWith(box);
  box.append(head, pre);
  pre.tabIndex = 0;
  pre.setAttribute("role", "region");
  nameLanguage(pre);
}

/** Say which language the code of a framed `<pre>` is in. */
export function nameLanguage(pre) {
  const language = pre.firstElementChild?.className.match(/language-(\S+)/)?.[1] ?? "";
  pre.parentElement.querySelector(".code-language").textContent = language;
  pre.setAttribute("aria-label", language ? say("code_in", { language }) : say("code"));
}
