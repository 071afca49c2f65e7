// A field to type in, over the list of options it filters (the ARIA pattern of a combobox with a listbox): the focus stays
// in the field, and the arrows move what Enter takes.

const MARKS = /\p{M}/gu;

export class Combobox {
  options = [];
  active = null; // the option Enter takes
  #folded = new Map(); // of each option, what is searched

  /** `take(option)` gets what is chosen; `filtered(count)` the number of options that are left, null where nothing is
   * searched. `box` holds both elements. */
  constructor({ box, search, list, take, filtered, close }) {
    Object.assign(this, { search, list, take, filtered });
    const keys = {
      ArrowDown: () => this.#go((at) => at + 1),
      ArrowUp: () => this.#go((at) => at - 1),
      Home: () => this.#go(() => 0),
      End: () => this.#go(() => -1),
      Enter: () => this.active && take(this.active),
      Escape: close,
    };
    box.addEventListener("keydown", (event) => {
      if (event.isComposing || event.target.closest("button")) return;
      if (keys[event.key]) {
        event.preventDefault(); // Escape closes one thing at a time
        keys[event.key]();
      } else if (event.key.length === 1) {
        search.focus();
      }
    });
    search.addEventListener("input", () => this.filter());
    list.addEventListener("pointermove", ({ target }) => {
      const option = target.closest("[role=option]");
      if (option && option !== this.active) this.activate(option);
    });
    list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (!option || event.ctrlKey || event.metaKey || event.shiftKey) return; // a link, into another tab
      event.preventDefault();
      take(option);
    });
  }

  /** Take the options as they are in the list now. */
  read() {
    this.options = [...this.list.querySelectorAll("[role=option]")];
    this.#folded = new Map(this.options.map((option) => [option, fold(`${option.textContent} ${groupOf(option)}`)]));
  }

  /** Show the options that have every word of the field. */
  filter() {
    const words = fold(this.search.value).split(/\s+/).filter(Boolean);
    for (const option of this.options) {
      // What the server has found is there, whatever is shown of it.
      option.hidden = !("found" in option.dataset) && !words.every((word) => this.#folded.get(option).includes(word));
    }
    for (const group of this.list.querySelectorAll("[role=group]")) {
      group.hidden = !group.querySelector("[role=option]:not([hidden])");
    }
    if (!this.options.length) return;
    const found = this.#shown();
    this.filtered(words.length ? found.length : null);
    this.activate(found.find((option) => !option.getAttribute("aria-disabled")) ?? found[0]);
  }

  activate(option) {
    this.active?.removeAttribute("data-active");
    this.active = option;
    option?.setAttribute("data-active", "");
    for (const element of [this.search, this.list]) {
      if (option) element.setAttribute("aria-activedescendant", option.id);
      else element.removeAttribute("aria-activedescendant");
    }
  }

  #shown() {
    return this.options.filter((option) => !option.hidden);
  }

  #go(place) {
    const found = this.#shown();
    if (!found.length) return;
    this.activate(found.at(place(found.indexOf(this.active), found.length) % found.length));
    this.active.scrollIntoView({ block: "nearest" });
  }
}

function groupOf(option) {
  return option.closest("[role=group]")?.getAttribute("aria-label") ?? "";
}

function fold(text) {
  return text.normalize("NFD").replace(MARKS, "").toLowerCase();
}
