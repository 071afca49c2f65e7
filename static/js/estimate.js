// What the next question will cost, roughly, before it is sent. Reckoned here: nothing is asked of the server.

import { formatNumber, say } from "words";

const DELAY = 150; // ms
const WARM = 5 * 60_000; // ms a provider remembers what it has read
const ANSWERS = 5; // the last ones say how long the next one may be
const MESSAGE = 8; // tokens around each message
const MICROS_PER_CREDIT = 1_000;

const { models, instructions, bytes_per_token } = JSON.parse(document.getElementById("estimates").textContent);
const form = document.querySelector("[data-composer]");
const field = form.querySelector("[data-text]");
const shown = form.querySelector("[data-estimate]");
const files = form.querySelector("[data-attached]");
const turns = document.querySelector("[data-turns]");

let timer = 0;

/** Return the credits the question in the field may cost; 0 where that is nothing, or nobody knows: who answers, or how
 * many tokens a file is. */
function estimate() {
  const key = new FormData(form).get("model");
  const model = models[key];
  const text = field.value.trim();
  if (!model || !text || files.childElementCount) return 0;
  const before = [...turns.querySelectorAll("[data-context]")].slice(-ANSWERS);
  const last = before.at(-1)?.dataset;
  const bytes = new TextEncoder().encode(text).length;
  const question = (bytes / bytes_per_token) * model.more + MESSAGE;
  const context = Math.min(last ? Number(last.context) : instructions, Math.max(0, model.window - question));
  const rates = model.tiers.findLast(({ above }) => context + question > above) ?? model.tiers[0];
  const isWarm = last?.by === key && Date.now() - Date.parse(last.ended) < WARM;
  const written = before.length
    ? before.reduce((sum, { dataset }) => sum + Number(dataset.written), 0) / before.length
    : model.typical;
  const total =
    context * (isWarm ? rates.cache_read : rates.cache_write) + question * rates.cache_write + written * rates.output;
  return total / 1_000_000 / MICROS_PER_CREDIT;
}

function update() {
  timer = 0;
  const credits = Number(estimate().toPrecision(2));
  shown.hidden = credits < 1; // a trace is not worth a word
  if (shown.hidden) return;
  const text = credits === 1 ? say("estimate_one") : say("estimate", { credits: formatNumber(credits, 1) });
  shown.querySelector("[data-estimate-text]").textContent = text;
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
