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

export function formatNumber(number, most = 0) {
  return new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: most }).format(number);
}
