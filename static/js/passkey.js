// Passkeys: a form that needs one asks the browser for it before it is sent. Without scripts it is not shown.

const bytes = (text) =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
const described = (keys = []) => keys.map((key) => ({ ...key, id: bytes(key.id) }));

async function create({ publicKey }) {
  return navigator.credentials.create({
    publicKey: {
      ...publicKey,
      challenge: bytes(publicKey.challenge),
      user: { ...publicKey.user, id: bytes(publicKey.user.id) },
      excludeCredentials: described(publicKey.excludeCredentials),
    },
  });
}

async function get({ publicKey }) {
  return navigator.credentials.get({
    publicKey: {
      ...publicKey,
      challenge: bytes(publicKey.challenge),
      allowCredentials: described(publicKey.allowCredentials),
    },
  });
}

// What a browser gives as buffers, in the words of WebAuthn's JSON; Safari 17 cannot do it itself.
function asJson(key) {
  const response = {};
  const names = ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"];
  for (const name of names) if (key.response[name]) response[name] = text(key.response[name]);
  const clientExtensionResults = key.getClientExtensionResults();
  return JSON.stringify({ id: key.id, rawId: text(key.rawId), type: key.type, response, clientExtensionResults });
}

async function optionsOf(form) {
  if (form.dataset.options) return JSON.parse(document.getElementById(form.dataset.options).textContent);
  const answer = await fetch(form.action, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`passkey: ${answer.status}`);
  return (await answer.json()).request_options;
}

for (const form of window.PublicKeyCredential ? document.querySelectorAll("[data-passkey]") : []) {
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = form.querySelector("[role=status]");
    said.textContent = "";
    try {
      const options = await optionsOf(form);
      form.elements.credential.value = asJson(await (form.dataset.passkey === "create" ? create : get)(options));
    } catch {
      said.textContent = form.dataset.failed; // they thought better of it, or have none here
      return;
    }
    form.submit();
  });
}
