// A shared page: frames of code, tables and diagrams. All of it can be read without.

import { frameBlocks } from "code";
import { say } from "words";

for (const answer of document.querySelectorAll(".prose")) frameBlocks(answer);

document.addEventListener("click", async ({ target }) => {
  const button = target.closest("[data-copy-code]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.closest(".code").querySelector("pre").textContent);
  } catch {
    document.querySelector("[data-announce]").textContent = say("not_copied");
    return;
  }
  document.querySelector("[data-announce]").textContent = say("copied");
  button.textContent = say("copied");
  setTimeout(() => (button.textContent = say("copy")), 2_000);
});
