// OpenAI's SDK for Node.js asks the site. What came of each scenario is a line of JSON, as in scenarios.py.

import OpenAI from "openai";

const { IMAGE } = process.env;
const MODELS = JSON.parse(process.env.MODELS);
const KEYS = JSON.parse(process.env.KEYS);
const WEATHER = {
  type: "function",
  function: {
    name: "weather",
    description: "Tells the weather in a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

let requests = 0;
const client = new OpenAI({
  fetch: (url, init) => {
    requests += 1;
    return fetch(url, init);
  },
});

const user = (content) => [{ role: "user", content }];
const withKey = (name, options = {}) => client.withOptions({ apiKey: KEYS[name], ...options });
const ask = ({ asker = client, model = "text", content = "Hola", options, ...fields } = {}) =>
  asker.chat.completions.create({ model: MODELS[model], messages: user(content), ...fields }, options);
const textOf = async (asked) => (await asked).choices[0].message.content;

async function collect(items, pick) {
  const found = [];
  for await (const item of items) found.push(pick(item));
  return found;
}

/** Return what the SDK throws, and how many requests it has made. */
async function thrown(call) {
  const before = requests;
  try {
    await call();
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    const { status, code, type, param, message } = error;
    const name = error.constructor.name;
    return { class: name, status, code, type, param, message, request_id: error.requestID, requests: requests - before };
  }
  return { class: null };
}

const scenarios = {
  // --- Answers

  models: () => collect(client.models.list(), (model) => model.id),

  async answer() {
    const completion = await ask();
    const { message, finish_reason } = completion.choices[0];
    const { model, usage, _request_id } = completion;
    return { text: message.content, finish_reason, model, usage, request_id: _request_id };
  },

  async stream() {
    const chunks = await ask({ stream: true, stream_options: { include_usage: true } });
    const found = await collect(chunks, (chunk) => chunk);
    const choices = found.flatMap((chunk) => chunk.choices);
    return {
      text: choices.map((choice) => choice.delta.content ?? "").join(""),
      finish_reason: choices.at(-1).finish_reason,
      usage: found.at(-1).usage,
      usages: found.filter((chunk) => chunk.usage).length,
    };
  },

  /** The SDK's own accumulation of a stream. */
  async stream_helper() {
    const stream = client.chat.completions.stream({ model: MODELS.text, messages: user("Hola") });
    let text = "";
    stream.on("content", (delta) => (text += delta));
    const final = await stream.finalContent();
    return { text, final };
  },

  image: () =>
    textOf(ask({ content: [{ type: "text", text: "What is it?" }, { type: "image_url", image_url: { url: IMAGE } }] })),

  // --- Tools and JSON

  async tool() {
    const messages = user('{"city": "Quito"}');
    const asked = { model: MODELS.call, tools: [WEATHER] };
    const { message, finish_reason } = (await client.chat.completions.create({ ...asked, messages })).choices[0];
    const [call] = message.tool_calls;
    const result = { role: "tool", tool_call_id: call.id, content: "It rains." };
    const answered = client.chat.completions.create({ ...asked, messages: [...messages, message, result] });
    return { finish_reason, id: call.id, ...call.function, text: await textOf(answered) };
  },

  async tools_streamed() {
    const content = '{"city": "Quito"}';
    const chunks = await ask({ model: "two calls", content, tools: [WEATHER], tool_choice: "required", stream: true });
    const calls = [];
    let parts = 0;
    let finish_reason = null;
    for await (const chunk of chunks) {
      for (const part of chunk.choices[0].delta.tool_calls ?? []) {
        calls[part.index] ??= [part.id, part.function.name, ""];
        calls[part.index][2] += part.function.arguments ?? "";
        parts += 1;
      }
      finish_reason = chunk.choices[0].finish_reason ?? finish_reason;
    }
    return { finish_reason, calls, parts };
  },

  json_mode: () => textOf(ask({ model: "echo", content: '{"a": 1}', response_format: { type: "json_object" } })),

  json_schema() {
    const properties = { a: { type: "integer" } };
    const schema = { type: "object", properties, required: ["a"], additionalProperties: false };
    const response_format = { type: "json_schema", json_schema: { name: "thing", schema, strict: true } };
    return textOf(ask({ model: "echo", content: '{"a": 1}', response_format }));
  },

  // --- Errors

  wrong_key: () => thrown(() => ask({ asker: client.withOptions({ apiKey: `ttl_00000000_${"x".repeat(43)}` }) })),
  wrong_scope: () => thrown(() => ask({ asker: withKey("usage") })),
  unknown_model: () => thrown(() => client.chat.completions.create({ model: "gpt-2", messages: user("Hola") })),
  unknown_address: () => thrown(() => client.embeddings.create({ model: MODELS.text, input: "Hola" })),
  bad_parameter: () => thrown(() => ask({ temperature: 3 })),
  used_up: () => thrown(() => ask({ asker: withKey("poor") })),
  failed: () => thrown(() => ask({ asker: client.withOptions({ maxRetries: 0 }), model: "failing" })),

  async broken_stream() {
    let text = "";
    const found = await thrown(async () => {
      for await (const chunk of await ask({ model: "breaking", stream: true })) {
        text += chunk.choices[0]?.delta.content ?? "";
      }
    });
    return { ...found, text };
  },

  // --- Going away, and asking again

  /** Close a stream that has begun; return the id of its answer. */
  async closed() {
    for await (const chunk of await ask({ model: "long", stream: true })) {
      if (chunk.choices[0].delta.content) return chunk.id; // leaving the loop closes the stream
    }
  },

  /** Give up waiting, as the SDK does by itself, and ask again with the same Idempotency-Key. */
  async asked_again() {
    const before = requests;
    const asker = client.withOptions({ timeout: 700, maxRetries: 5 });
    const options = { headers: { "Idempotency-Key": `node ${Date.now()}` } };
    const completion = await ask({ asker, model: "slow", options });
    return { text: completion.choices[0].message.content, requests: requests - before, id: completion.id };
  },
};

for (const [scenario, run] of Object.entries(scenarios)) {
  let line;
  try {
    line = { result: await run() };
  } catch (error) {
    line = { failed: String(error.stack ?? error) };
  }
  console.log(JSON.stringify({ scenario, ...line }));
}
