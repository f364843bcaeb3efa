// A conversation with a deployed model: streamed, with every generation parameter, presets and a stop button.
// Uses the functions of console.js and forms.js, which are loaded before it.
"use strict";

const chat = { messages: [], form: null, stop: null };
const FIRST_PARAMETERS = ["temperature", "top_p", "top_k", "max_new_tokens", "repetition_penalty", "seed"];

const showChat = guarded(async () => {
  const [names, parameters] = await Promise.all([namesToAsk(), parametersOf("generate")]);
  $("chat-names").replaceChildren(...names.map((item) => element("option", { value: item.name }, item.status)));
  if (!$("chat-model").value) $("chat-model").value = names.find((item) => item.status === "ready")?.name || "";
  // One answer at a time: several are what Compare is for.
  if (!chat.form) chat.form = parameterForm($("chat-parameters"), parameters.filter((one) => one.group === "sampling" && one.name !== "n"), FIRST_PARAMETERS);
  await showPresets();
});

// --- Presets ------------------------------------------------------------------------------------------------------

async function showPresets() {
  const { data } = await get("v1/presets");
  const chosen = $("chat-preset").value;
  $("chat-preset").replaceChildren(element("option", { value: "" }, "none"),
    ...data.map((preset) => element("option", { value: preset.name, title: preset.description || JSON.stringify(preset.parameters) }, preset.name)));
  $("chat-preset").value = data.some((preset) => preset.name === chosen) ? chosen : "";
}

// Its values go into the form, where they can be changed, and are then sent from there.
$("chat-preset").addEventListener("change", guarded(async () => {
  const name = $("chat-preset").value;
  chat.form.set(name ? (await get(`v1/presets/${encodeURIComponent(name)}`)).parameters : {});
}));

$("chat-preset-save").addEventListener("click", guarded(async () => {
  const name = window.prompt("Name of the preset", $("chat-preset").value);
  if (!name) return;
  await putJson(`v1/presets/${encodeURIComponent(name)}`, { parameters: chat.form.values() });
  await showPresets();
  $("chat-preset").value = name;
}));

$("chat-preset-delete").addEventListener("click", guarded(async () => {
  const name = $("chat-preset").value;
  if (!name || !window.confirm(`Delete the preset ${name}?`)) return;
  await api(`v1/presets/${encodeURIComponent(name)}`, { method: "DELETE" });
  await showPresets();
}));

// --- One answer ---------------------------------------------------------------------------------------------------

// The chunks of an answer. Beams are compared at the end: of them the whole answer is the one chunk.
async function* spoken(body, signal) {
  if (body.num_beams > 1) {
    const { stream, stream_options, ...whole } = body;
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(whole), signal };
    const told = await (await api("v1/chat/completions", options)).json();
    yield { ...told, choices: told.choices.map((choice) => ({ ...choice, delta: choice.message })) };
    return;
  }
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
  for await (const { data } of sse("v1/chat/completions", options)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    yield chunk;
  }
}

// Thoughts and calls of tools are kept apart from the text.
function takeIn(said, chunk) {
  if (chunk.usage) said.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const delta = choice.delta || {};
  said.finish_reason = choice.finish_reason || said.finish_reason;
  said.thoughts += delta.reasoning || delta.reasoning_content || "";
  said.content += delta.content || "";
  for (const call of delta.tool_calls || []) {
    const known = (said.calls[call.index ?? 0] ||= { name: "", arguments: "" });
    known.name += call.function?.name || "";
    known.arguments += call.function?.arguments || "";
  }
  if (said.first === null && (delta.content || delta.reasoning || delta.reasoning_content || delta.tool_calls)) said.first = performance.now();
}

async function answer() {
  const said = { role: "assistant", content: "", thoughts: "", calls: [], finish_reason: null, usage: null, first: null, note: "" };
  const system = $("chat-system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...chat.messages.map(({ role, content }) => ({ role, content }))];
  const body = { model: $("chat-model").value.trim(), messages, stream: true, stream_options: { include_usage: true }, ...chat.form.values() };
  const began = performance.now();
  chat.messages.push(said);
  chat.stop = new AbortController();
  listComplaints($("chat-issues"));
  showConversation();
  try {
    for await (const chunk of spoken(body, chat.stop.signal)) {
      takeIn(said, chunk);
      showSaid($("conversation").lastElementChild, said);
    }
  } catch (error) {
    if (!chat.stop.signal.aborted) {
      listComplaints($("chat-issues"), error);
      said.note = "broke off; ";
      if (!said.content && !said.thoughts) chat.messages.pop();
      throw error;
    }
    said.note = "stopped; ";
  } finally {
    said.note += answerNote(said, began, performance.now());
    chat.stop = null;
    showConversation();
  }
}

function answerNote(said, began, ended) {
  const tokens = said.usage?.completion_tokens;
  const seconds = (ended - began) / 1000;
  return [tokens ? `${tokens} tokens, ${(tokens / seconds).toFixed(1)} tok/s` : `${seconds.toFixed(1)} s`,
    said.first ? `first after ${((said.first - began) / 1000).toFixed(2)} s` : "", said.finish_reason && said.finish_reason !== "stop" ? `ended by ${said.finish_reason}` : ""].filter(Boolean).join(", ");
}

// --- The conversation ---------------------------------------------------------------------------------------------

function messageNode(message) {
  const node = element("div", { class: `message ${message.role}` }, element("h3", {}, message.role), element("details", { class: "thoughts" }, element("summary", {}, "Thoughts"), element("p")),
    element("p", { class: "said" }), element("small", {}));
  showSaid(node, message);
  return node;
}

function showSaid(node, message) {
  const thoughts = node.querySelector(".thoughts");
  thoughts.hidden = !message.thoughts;
  // Open while it thinks and has not spoken yet.
  if (chat.stop) thoughts.open = Boolean(message.thoughts && !message.content);
  thoughts.querySelector("p").textContent = message.thoughts || "";
  const calls = (message.calls || []).map((call) => `${call.name}(${call.arguments})`);
  node.querySelector(".said").textContent = [message.content, ...calls].filter(Boolean).join("\n");
  node.querySelector("small").textContent = message.note || "";
}

function showConversation() {
  $("conversation").replaceChildren(...chat.messages.map(messageNode));
  $("chat-send").hidden = Boolean(chat.stop);
  $("chat-stop").hidden = !chat.stop;
  for (const name of ["chat-retry", "chat-undo", "chat-new", "chat-download"]) $(name).disabled = Boolean(chat.stop) || !chat.messages.length;
  $("conversation").lastElementChild?.scrollIntoView({ block: "nearest" });
}

function undo() {
  const last = chat.messages.map((message) => message.role).lastIndexOf("user");
  const taken = last < 0 ? "" : chat.messages[last].content;
  chat.messages.length = Math.max(last, 0);
  showConversation();
  return taken;
}

$("chat-form").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  const content = $("chat-prompt").value.trim();
  if (chat.stop || !content) return;
  chat.messages.push({ role: "user", content });
  $("chat-prompt").value = "";
  await answer();
}));
$("chat-prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("chat-form").requestSubmit();
});
// Closing the stream ends the generation on the replica.
$("chat-stop").addEventListener("click", () => chat.stop?.abort());
$("chat-retry").addEventListener("click", guarded(async () => {
  const content = undo();
  chat.messages.push({ role: "user", content });
  await answer();
}));
$("chat-undo").addEventListener("click", () => { $("chat-prompt").value = undo(); });
$("chat-new").addEventListener("click", () => { chat.messages = []; showConversation(); });
// A row of a dataset, as trainings take it.
$("chat-download").addEventListener("click", () => {
  const system = $("chat-system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...chat.messages.map(({ role, content }) => ({ role, content }))];
  const link = element("a", { href: URL.createObjectURL(new Blob([`${JSON.stringify({ messages })}\n`])), download: "conversation.jsonl" });
  link.click();
  URL.revokeObjectURL(link.href);
});

function chatWith(name) {
  $("chat-model").value = name;
  show("chat");
}
