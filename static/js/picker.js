// The model picker: a list to search, over the <select> whose value the form sends. Without scripts there is only that.
// Its models come when somebody is about to open it.

import { Combobox } from "combobox";
import { find, say } from "words";

const select = document.querySelector("[data-model]");
const effort = document.querySelector("[data-effort]");
const effortBox = document.querySelector("[data-effort-box]");
const button = document.querySelector("[data-picker-open]");
const box = document.querySelector("[data-picker]");
const search = box.querySelector("[data-picker-search]");
const list = box.querySelector("[data-picker-list]");
const status = box.querySelector("[data-picker-status]");

const AUTO = "auto";

const combobox = new Combobox({ box, search, list, take, filtered, close });

let loading = null;
let opener = null; // the button the picker was opened with
let choose = null; // what to do with the key of the model
let wasOpen = false; // when the opener was pressed: pressing outside has closed it by the time of the click

/** Whether this browser can open it; else there is the list alone. */
const canPick = Boolean(box.showPopover);

/** Whether there is a model to choose beside the one of that label. */
export function hasOther(label) {
  return canPick && [...select.options].some(({ value, disabled, dataset }) => value && !disabled && dataset.label !== label);
}

/** Let the person choose a model, beside the button `from`; `then(key)` gets it, "" for Auto. */
export function pick(from, then) {
  opener = from;
  choose = then;
  search.value = status.textContent = "";
  box.style.removeProperty("--picker-height");
  box.showPopover();
  if (combobox.options.length) begin();
  else load().then(() => isOpen() && begin());
  // The keyboard of a touch screen would cover the list.
  if (matchMedia("(pointer: coarse)").matches) list.focus({ preventScroll: true });
  else search.focus({ preventScroll: true });
  if (opener.hasAttribute("aria-expanded")) opener.setAttribute("aria-expanded", "true");
}

function begin() {
  combobox.filter();
  const { options } = combobox;
  if (!search.value) combobox.activate(options.find((option) => option.dataset.key === select.value) ?? options[0]);
  place();
  box.style.setProperty("--picker-height", `${box.offsetHeight}px`); // a shorter list does not move what is typed in
  combobox.active?.scrollIntoView({ block: "nearest" });
}

/** Choose a model for what is asked from now on, by its key; its name is for the list, where the page came before the
 * model was on offer. */
export function setModel(key, name = key) {
  add(key, name);
  select.value = key;
  select.dispatchEvent(new Event("change", { bubbles: true }));
}

function isOpen() {
  return canPick && box.matches(":popover-open");
}

function close() {
  box.hidePopover();
  opener?.focus({ preventScroll: true });
}

function take(option) {
  if (option.getAttribute("aria-disabled")) {
    combobox.activate(option);
    status.textContent = option.querySelector("[data-locked]").textContent;
    return;
  }
  close();
  choose(option.dataset.key);
}

// --- A second model, for the next question ---

const besideField = document.querySelector("[data-beside]");
const besideButton = document.querySelector("[data-beside-open]");

/** Return the model that shall answer too; empty for none. */
export function beside() {
  return besideField?.value ?? "";
}

export function setBeside(key) {
  if (!besideField) return;
  besideField.value = key;
  const option = [...select.options].find(({ value }) => value === (key === AUTO ? "" : key));
  besideButton.querySelector("[data-beside-label]").textContent = key ? (option.dataset.label ?? option.textContent) : "";
  besideButton.setAttribute("aria-pressed", key !== "");
  besideField.dispatchEvent(new Event("change", { bubbles: true }));
}

if (besideButton && canPick) {
  besideButton.hidden = false;
  besideButton.addEventListener("click", () => {
    if (beside()) setBeside("");
    else pick(besideButton, (key) => setBeside(key || AUTO));
  });
}

// --- The list ---

function load() {
  loading ??= fetch(box.dataset.picker, { headers: { "HX-Request": "true" } })
    .then((response) => (response.ok && !response.redirected ? response.text() : Promise.reject(response)))
    .then(fill)
    .catch(() => {
      loading = null; // the next opening tries again
      status.textContent = say("no_models");
    });
  return loading;
}

function fill(html) {
  list.innerHTML = html;
  combobox.read();
  for (const option of combobox.options) {
    if (!option.getAttribute("aria-disabled")) add(option.dataset.key, option.querySelector(".picker-name").textContent, option.dataset.efforts);
  }
  show();
}

/** Add a model that came after the page to what the form can send. */
function add(key, name, efforts) {
  if ([...select.options].some(({ value }) => value === key)) return;
  const option = new Option(name, key);
  option.dataset.label = name;
  if (efforts) option.dataset.efforts = efforts;
  select.append(option);
}

function filtered(count) {
  if (count === null) status.textContent = "";
  else status.textContent = count ? say("models_found", { count }) : say("no_model_found");
}

box.addEventListener("keydown", (event) => event.key === "Tab" && close()); // and on, from the button
box.addEventListener("toggle", ({ newState }) => {
  if (newState === "closed" && opener?.hasAttribute("aria-expanded")) opener.setAttribute("aria-expanded", "false");
});
document.addEventListener("pointerdown", ({ target }) => (wasOpen = isOpen() && opener.contains(target)), true);

// --- Where it opens: beside its button, on the side that has room; on a narrow screen the styles put it at the foot ---

function place() {
  const { left, top, bottom } = opener.getBoundingClientRect();
  const below = innerHeight - bottom;
  box.dataset.side = top > below ? "above" : "below";
  box.style.setProperty("--picker-start", `${left}px`);
  box.style.setProperty("--picker-edge", `${top > below ? innerHeight - top : bottom}px`);
  box.style.setProperty("--picker-room", `${Math.max(top, below)}px`);
}

addEventListener("resize", () => isOpen() && place());

// --- What is chosen, and how hard that model can think ---

function show() {
  for (const option of combobox.options) option.setAttribute("aria-selected", option.dataset.key === select.value);
  button.querySelector("[data-picker-current]").textContent = select.selectedOptions[0].textContent;
  showEfforts(select.selectedOptions[0].dataset.efforts?.split(" ") ?? []);
}

function showEfforts(levels) {
  const before = effort.value;
  effort.replaceChildren(effort.options[0], ...levels.map((level) => new Option(find(`effort_${level}`) ?? level, level)));
  effort.value = levels.includes(before) ? before : "";
  effort.disabled = effortBox.hidden = !levels.length;
}

select.addEventListener("change", show);
for (const sign of ["pointerenter", "focus"]) button.addEventListener(sign, load);
button.addEventListener("click", (event) => {
  const isSecond = wasOpen && event.detail > 0;
  wasOpen = false;
  if (!isSecond) pick(button, setModel);
});
button.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  event.preventDefault();
  pick(button, setModel);
});
addEventListener("pageshow", show); // a browser that comes back puts its own choice into the list
if (canPick) {
  select.classList.add("visually-hidden");
  select.tabIndex = -1;
  select.setAttribute("aria-hidden", "true");
  button.hidden = box.hidden = false;
}
show();
