// What the next question will cost, roughly, before it is sent. Reckoned here: nothing is asked of the server.

import { formatNumber, say } from "words";

const DELAY = 150; // ms
const WARM = 5 * 60_000; // ms a provider remembers what it has read
const ANSWERS = 5; // the last ones say how long the next one may be
const MESSAGE = 8; // tokens around each message
const MICROS_PER_CREDIT = 1_000;
const LEAST = 0.1; // credits: what is less is said to be less

const { models, unnamed, instructions, bytes_per_token } = JSON.parse(document.getElementById("estimates").textContent);
const form = document.querySelector("[data-composer]");
const field = form.querySelector("[data-text]");
const shown = form.querySelector("[data-estimate]");
const files = form.querySelector("[data-attached]");
const turns = document.querySelector("[data-turns]");

let timer = 0;

/** Return the least and the most credits the question in the field may cost, without its files; null without one, or
 * where nobody knows who answers. */
function estimate() {
  const fields = new FormData(form);
  const first = estimateOf(fields.get("model"));
  const second = fields.get("beside");
  const other = second ? estimateOf(second === "auto" ? "" : second) : [0, 0];
  return first && other && [first[0] + other[0], first[1] + other[1]];
}

function estimateOf(key) {
  const text = field.value.trim();
  const before = [...turns.querySelectorAll("[data-context]")].slice(-ANSWERS);
  const keys = key ? [key] : unnamed;
  const costs = keys.filter((one) => models[one]).map((one) => ({ key: one, cost: costOf(one, text, before) }));
  if (!text || !costs.length) return null;
  const likely = key ? costs : likelyOf(costs, before.at(-1)?.dataset.by);
  const credits = likely.map(({ cost }) => cost / 1_000_000 / MICROS_PER_CREDIT);
  return [Math.min(...credits), Math.max(...credits)];
}

/** Return those of the models that Auto takes: of each tier the cheapest, or whoever answered before. */
function likelyOf(costs, previous) {
  const cheapest = new Map();
  for (const one of costs) {
    const { tier } = models[one.key];
    if (!(cheapest.get(tier)?.cost <= one.cost)) cheapest.set(tier, one);
  }
  return [...cheapest.values(), ...costs.filter(({ key }) => key === previous)];
}

/** Return what an answer of a model may cost, in micros times a million. */
function costOf(key, text, before) {
  const model = models[key];
  if (!model.tiers) return 0; // free
  const last = before.at(-1)?.dataset;
  const bytes = new TextEncoder().encode(text).length;
  const question = (bytes / bytes_per_token) * model.more + MESSAGE;
  const context = Math.min(last ? Number(last.context) : instructions, Math.max(0, model.window - question));
  const rates = model.tiers.findLast(({ above }) => context + question > above) ?? model.tiers[0];
  const isWarm = last?.by === key && Date.now() - Date.parse(last.ended) < WARM;
  const written = before.length
    ? before.reduce((sum, { dataset }) => sum + Number(dataset.written), 0) / before.length
    : model.typical;
  return context * (isWarm ? rates.cache_read : rates.cache_write) + question * rates.cache_write + written * rates.output;
}

/** Return it in words. Two figures are enough. */
function inWords([least, most]) {
  const [from, to] = [least, most].map((credits) => Number(credits.toPrecision(2)));
  if (!to) return say("estimate_free");
  if (to < LEAST) return say("estimate_trace", { credits: formatNumber(LEAST, 1) });
  if (from === to) return to === 1 ? say("estimate_one") : say("estimate", { credits: number(to) });
  return say("estimate_range", { least: number(from < LEAST ? 0 : from), most: number(to) });
}

function number(credits) {
  return formatNumber(credits, 1);
}

function update() {
  timer = 0;
  const credits = estimate();
  shown.hidden = !credits;
  if (!credits) return;
  const words = inWords(credits);
  const hasFiles = files.childElementCount > 0 && credits[1] > 0; // nobody here knows how many tokens they are
  shown.querySelector("[data-estimate-text]").textContent = hasFiles ? say("estimate_files", { estimate: words }) : words;
}

function soon() {
  timer ||= setTimeout(update, DELAY);
}

field.addEventListener("input", soon);
form.addEventListener("change", soon);
new MutationObserver(soon).observe(files, { childList: true });
new MutationObserver(soon).observe(turns, { childList: true }); // an answer that ended is part of the next prompt
form.querySelector("[data-send]").setAttribute("aria-describedby", shown.id);
update();
