// What scripts add to the blocks of an answer: code gets the name of its language and buttons, tables a place to scroll.

import { say } from "words";

const ENDINGS = {
  python: "py", javascript: "js", typescript: "ts", bash: "sh", shell: "sh", ruby: "rb", rust: "rs", kotlin: "kt",
  markdown: "md", mermaid: "mmd", csharp: "cs", "c++": "cpp", yaml: "yml", text: "txt", plaintext: "txt",
};

/** Frame what is in `root`: an element, or a fragment that is about to be shown. */
export function frameBlocks(root) {
  for (const table of root.querySelectorAll("table")) {
    const box = document.createElement("div");
    box.className = "table-scroll";
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", say("table"));
    table.replaceWith(box);
    box.append(table);
  }
  for (const pre of root.querySelectorAll("pre")) {
    frameCode(pre);
    if (pre.querySelector(":scope > .language-mermaid")) import("diagram").then(({ draw }) => draw(pre.parentElement));
  }
}

/** Put a `<pre>` into its frame. */
export function frameCode(pre) {
  const box = document.createElement("div");
  box.className = "code";
  const head = document.createElement("div");
  head.className = "code-head";
  const label = document.createElement("span");
  label.className = "code-language";
  head.append(label, button("wrapCode", "wrap"), button("downloadCode", "download"), button("copyCode", "copy"));
  pre.replaceWith(box);
  box.append(head, pre);
  pre.tabIndex = 0;
  pre.setAttribute("role", "group"); // a landmark would need a name of its own
  head.querySelector("[data-wrap-code]").setAttribute("aria-pressed", "false");
  nameLanguage(pre);
}

function button(name, word) {
  const made = document.createElement("button");
  made.className = "code-button";
  made.type = "button";
  made.dataset[name] = "";
  made.textContent = say(word);
  return made;
}

/** Say which language the code of a framed `<pre>` is in. */
export function nameLanguage(pre) {
  const language = pre.firstElementChild?.className.match(/language-(\S+)/)?.[1] ?? "";
  pre.parentElement.querySelector(".code-language").textContent = language;
  pre.setAttribute("aria-label", language ? say("code_in", { language }) : say("code"));
}

document.addEventListener("click", (event) => {
  const wrap = event.target.closest("[data-wrap-code]");
  if (wrap) wrap.setAttribute("aria-pressed", wrap.closest(".code").classList.toggle("code-wrapped"));
  const download = event.target.closest("[data-download-code]");
  if (download) save(download.closest(".code"));
});

function save(box) {
  const language = box.querySelector(".code-language").textContent.toLowerCase();
  const ending = ENDINGS[language] ?? (/^[a-z0-9]{1,5}$/.test(language) ? language : "txt");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([box.querySelector("pre").textContent], { type: "text/plain" }));
  link.download = `code.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000); // some browsers begin to read later
}

// --- Formulas are copied as they were written ---

document.addEventListener("copy", (event) => {
  const selection = getSelection();
  if (!selection.rangeCount || !selection.getRangeAt(0).cloneContents().querySelector("math")) return;
  const place = document.createElement("div");
  place.append(selection.getRangeAt(0).cloneContents());
  for (const math of place.querySelectorAll("math[alttext]")) {
    const mark = math.getAttribute("display") === "block" ? "$$" : "$";
    math.replaceWith(mark + math.getAttribute("alttext") + mark);
  }
  place.className = "answer-copied";
  document.body.append(place); // what is not shown has no lines
  event.clipboardData.setData("text/plain", place.innerText);
  place.remove();
  event.preventDefault();
});
