// What scripts say to people, translated by the server.

const words = JSON.parse(document.getElementById("words")?.textContent ?? "{}");

/** Return the sentence called `name`, its %(placeholders)s filled in. */
export function say(name, values = {}) {
  return words[name].replace(/%\((\w+)\)s/g, (_, key) => values[key]);
}

/** Return the sentence called `name`; nothing when there is none. */
export function find(name) {
  return words[name];
}

/** Return a number as the server's `floatformat:"-1g"` writes it (config/formats/): whole, or with `decimals`, even if these are zeros. */
export function formatNumber(number, decimals = 0) {
  const digits = Number.isInteger(number) ? 0 : decimals;
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: "always" };
  return new Intl.NumberFormat(document.documentElement.lang, options).format(number);
}
