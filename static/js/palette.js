// Where to go from anywhere: conversations, models and pages, found by name. Loaded when somebody opens it.

import { Combobox } from "combobox";
import { closeDialog, openDialog } from "page";

const DELAY = 200; // ms from the last letter until the server is asked
const template = document.querySelector("[data-palette]");

let asked = null; // the request whose answer is wanted

/** Open the palette; where it is open, close it. */
export async function toggle() {
  if (document.querySelector(".palette")) {
    closeDialog();
    return;
  }
  const fragment = template.content.cloneNode(true);
  const box = fragment.querySelector(".palette");
  const search = box.querySelector("[data-palette-search]");
  const list = box.querySelector("[data-palette-list]");
  const status = box.querySelector("[data-palette-status]");
  const combobox = new Combobox({ box, search, list, take, filtered, close: closeDialog });
  let timer = 0;

  function filtered(count) {
    if (count === null) status.textContent = "";
    else status.textContent = count ? status.dataset.found.replace("%s", count) : status.dataset.nothing;
  }

  async function take(option) {
    if (option.getAttribute("aria-disabled")) {
      combobox.activate(option);
      status.textContent = option.querySelector("[data-locked]").textContent;
    } else if (option.href) {
      location.assign(option.href);
    } else {
      closeDialog();
      (await import("picker")).setModel(option.dataset.key, option.querySelector(".picker-name").textContent);
    }
  }

  async function load() {
    try {
      list.innerHTML = await ask("");
    } catch {
      status.textContent = status.dataset.failed;
      return;
    }
    if (!document.querySelector("[data-model]")) list.querySelector("[data-palette-models]").remove();
    combobox.read();
    combobox.filter();
    if (search.value) findConversations();
  }

  /** What came with the list are the last ones: the server knows more. */
  async function findConversations() {
    if (!box.isConnected) return; // closed meanwhile
    const words = search.value;
    const html = await ask(`?q=${encodeURIComponent(words)}`).catch(() => "");
    const group = list.querySelector("[data-conversations-found]");
    if (!html || !group || search.value !== words) return;
    const at = combobox.active?.id;
    group.innerHTML = html;
    combobox.read();
    combobox.filter();
    const again = combobox.options.find((option) => option.id === at && !option.hidden);
    if (again) combobox.activate(again);
  }

  search.addEventListener("input", () => {
    if (!combobox.options.length) return; // the list is on its way, and looks then for what is written
    clearTimeout(timer);
    timer = setTimeout(findConversations, DELAY);
  });
  openDialog(fragment);
  search.focus();
  await load();
}

async function ask(query) {
  asked?.abort();
  asked = new AbortController();
  const response = await fetch(template.dataset.palette + query, {
    headers: { "HX-Request": "true" },
    signal: asked.signal,
  });
  if (!response.ok || response.redirected) throw new Error(`${response.status}`);
  return response.text();
}
