// Half-written questions, in the browser's storage: `draft:<member>:<conversation, or "new">`, and of edits
// `draft:<member>:edit-<turn>:<conversation>`. A browser without storage forgets them; nothing else depends on it.

/** Return `{text, turn_id, model, effort, files}`; empty when there is none. */
export function readDraft(key) {
  try {
    return { ...JSON.parse(localStorage.getItem(key)) };
  } catch {
    return {}; // no storage, or not ours
  }
}

/** Keep a draft; one that holds nothing is removed. */
export function writeDraft(key, fields) {
  try {
    if (Object.keys(fields).length) localStorage.setItem(key, JSON.stringify(fields));
    else localStorage.removeItem(key);
  } catch {
    // No storage, or no room in it.
  }
}

/** Remove the drafts whose keys `mustGo(key)` says. */
export function forgetDrafts(mustGo) {
  try {
    for (const key of Object.keys(localStorage)) {
      if (key.startsWith("draft:") && mustGo(key)) localStorage.removeItem(key);
    }
  } catch {
    // No storage.
  }
}
