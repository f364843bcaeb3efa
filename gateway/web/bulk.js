// Generation in bulk: files of requests, batches and generation jobs (one list, they are the same records), their
// answers and errors, and all files. Uses the functions of console.js, forms.js and registry.js.
"use strict";

const bulk = { form: null, open: null, seen: null };
const fileAddress = (id) => `v1/files/${encodeURIComponent(id)}`;
//: Larger files go straight to the disk, without a copy in memory.
const MOST_IN_MEMORY = 64 * 2 ** 20;
//: What is read of answers to show the first of them, bytes.
const LOOK_BYTES = 65536;
const LOOK_LINES = 20;
const ENDED = ["completed", "failed", "expired", "cancelled"];
const PASSING = ["validating", "in_progress", "finalizing"];

const showBulk = guarded(async () => {
  const { data, has_more } = await get("v1/batches?limit=50");
  $("no-batches").hidden = data.length > 0;
  $("more-batches").hidden = !has_more;
  $("batch-rows").replaceChildren(...data.map(batchRow));
  const open = data.find((batch) => batch.id === bulk.open);
  if (open) await showBatch(open);
  if (bulk.form) return;
  const [names, parameters] = await Promise.all([namesToAsk(), parametersOf("generate")]);
  $("bulk-names").replaceChildren(...names.map(({ name, status }) => element("option", { value: name }, status)));
  bulk.form = parameterForm($("bulk-parameters"), parameters.filter((one) => one.group === "sampling" || one.name === "preset"), ["preset", "temperature", "max_new_tokens", "seed"]);
});

function batchRow(batch) {
  const { total, completed, failed } = batch.request_counts;
  const done = completed + failed;
  const cancel = guarded(async (event) => {
    event.stopPropagation();
    if (!window.confirm(`Cancel ${batch.id}? What is answered by then is kept.`)) return;
    await api(`v1/batches/${batch.id}/cancel`, { method: "POST" });
    await showBulk();
  });
  const rate = batch.status === "in_progress" && batch.x_progress.tokens_per_second;
  const left = batch.status === "in_progress" && batch.x_progress.eta_seconds;
  return element("tr", { class: "pick", onclick: guarded(() => openBatch(batch)) },
    element("td", {}, batch.id), element("td", {}, batch.endpoint ? `batch ${batch.endpoint}` : "job"),
    element("td", {}, batch.model || "named by the rows"), element("td", {}, badge(batch.status)),
    element("td", {}, element("progress", { max: total || 1, value: done }), ` ${done}/${total}`, failed ? element("span", { class: "bad" }, ` ${failed} failed`) : null,
      rate ? element("div", {}, `${rate} tokens/s${left ? `, about ${Math.ceil(left / 60)} min left` : ""}`) : null),
    element("td", {}, new Date(batch.created_at * 1000).toLocaleString()),
    element("td", {}, ...resultButtons(batch), PASSING.includes(batch.status) ? element("button", { onclick: cancel }, "Cancel") : ""));
}

function resultButtons(batch) {
  const button = (label, id) => [element("button", { onclick: (event) => { event.stopPropagation(); guarded(() => downloadFile(id))(); } }, label), " "];
  return [...(batch.output_file_id ? button("Answers", batch.output_file_id) : []), ...(batch.error_file_id ? button("Errors", batch.error_file_id) : [])];
}

async function downloadFile(id) {
  const file = await get(fileAddress(id));
  const path = `${fileAddress(id)}/content`;
  if (file.bytes > MOST_IN_MEMORY) { await save(path, file.filename); return; }
  const link = element("a", { href: URL.createObjectURL(await (await api(path)).blob()), download: file.filename });
  link.click();
  URL.revokeObjectURL(link.href);
}

// --- One of them --------------------------------------------------------------------------------------------------

async function openBatch(batch) {
  Object.assign(bulk, { open: batch.id, seen: null });
  $("batch-answers").replaceChildren();
  await showBatch(batch);
  $("batch-detail").scrollIntoView({ block: "nearest" });
}

// Called again every few seconds: its answers are read once, when they are there.
const showBatch = guarded(async (batch) => {
  showBatchFacts(batch);
  const files = [[batch.output_file_id, "Answers"], [batch.error_file_id, "Errors"]].filter(([id]) => id);
  if (!files.length || bulk.seen === batch.id) return;
  bulk.seen = batch.id;
  for (const [id, title] of files) await lookInto(id, title);
});

function showBatchFacts(batch) {
  const { usage, x_queue: queue, errors } = batch;
  const time = (seconds) => seconds && new Date(seconds * 1000).toLocaleString();
  const told = [["Rows", batch.input_file_id], ["Began", time(batch.in_progress_at)], ["Ended", time(batch.completed_at || batch.failed_at || batch.cancelled_at || batch.expired_at)],
    ["To be done by", time(batch.expires_at)], ["Tokens read", usage?.input_tokens], ["Tokens written", usage?.output_tokens],
    ["In flight", !ENDED.includes(batch.status) && batch.x_progress.in_flight], ...Object.entries(batch.metadata || {})];
  $("batch-detail").hidden = false;
  $("batch-title").textContent = batch.id;
  $("batch-facts").replaceChildren(
    ...told.filter(([, value]) => value).map(([title, value]) => element("div", {}, `${title}: ${value}`)),
    ...(queue ? [element("p", {}, `${place(queue)}: ${both(queue.reason, queue.reason_zh)}`)] : []),
    ...(errors?.data || []).map((error) => element("p", { class: "bad" }, both(error.message, error.message_zh))),
    element("p", {}, element("span", { class: "link", onclick: () => { show("jobs"); openJob(batch.id); } }, "Events of the job")));
}

// The first lines of a file: only its beginning is asked.
async function lookInto(id, title) {
  const answer = await api(`${fileAddress(id)}/content`, { headers: { Range: `bytes=0-${LOOK_BYTES - 1}` } }).catch((error) => {
    if (error.status === 416) return null; // empty
    throw error;
  });
  const text = answer ? await answer.text() : "";
  const isWhole = answer?.status !== 206 || answer.headers.get("Content-Range")?.endsWith(`/${new Blob([text]).size}`);
  const lines = text.split("\n").slice(0, isWhole ? undefined : -1).filter(Boolean);
  $("batch-answers").append(element("h3", {}, lines.length > LOOK_LINES || !isWhole ? `${title}, the first ${Math.min(lines.length, LOOK_LINES)}` : title),
    element("table", {}, element("tbody", {}, ...lines.slice(0, LOOK_LINES).map((line) => answerRow(JSON.parse(line))))));
}

function answerRow(row) {
  const body = row.response?.body || {};
  const error = row.error || body.error;
  const said = (body.choices || []).map((choice) => {
    const message = choice.message || {};
    const calls = (message.tool_calls || []).map((call) => `${call.function?.name}(${call.function?.arguments})`);
    const thoughts = message.reasoning_content || message.reasoning;
    return element("div", { class: "said" }, thoughts ? element("small", {}, `${thoughts}\n`) : null, [message.content ?? choice.text ?? "", ...calls].filter(Boolean).join("\n"));
  });
  return element("tr", {}, element("td", {}, row.custom_id ?? ""),
    element("td", error ? { class: "bad" } : {}, ...(error ? [both(error.message || error.code, error.message_zh)] : said)));
}

// --- A new one ----------------------------------------------------------------------------------------------------

// Lines that say their `url` are a batch of OpenAI's; other rows are asked with what the form says.
$("bulk-form").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  listComplaints($("bulk-issues"));
  try {
    const made = await ($("bulk-kind").value === "batch" ? newBatch() : newGeneration());
    await showBulk();
    await openBatch(await get(`v1/batches/${made.id}`));
  } catch (error) { listComplaints($("bulk-issues"), error); throw error; }
}));

async function uploadRows(purpose) {
  const form = new FormData();
  form.append("file", $("bulk-file").files[0]);
  form.append("purpose", purpose);
  return (await api("v1/datasets", { method: "POST", body: form })).json();
}

async function newBatch() {
  const rows = await uploadRows("batch");
  const endpoint = Object.keys(rows.columns.urls).find((url) => url) || "/v1/chat/completions";
  return post("v1/batches", { input_file_id: rows.id, endpoint, completion_window: "24h" });
}

async function newGeneration() {
  const values = bulk.form.values();
  const model = $("bulk-model").value.trim();
  const rows = await uploadRows("generate");
  return post("v1/jobs", { kind: "generate", dataset: rows.id, ...(model ? { model } : {}), ...values });
}

// What the rows of a batch do not say, who answers decides.
$("bulk-kind").addEventListener("change", () => { $("bulk-asked").hidden = $("bulk-kind").value === "batch"; });

// --- Files --------------------------------------------------------------------------------------------------------

const showFileList = guarded(async () => {
  const purpose = $("file-purpose").value;
  const { data, has_more } = await get(`v1/files?limit=100${purpose ? `&purpose=${encodeURIComponent(purpose)}` : ""}`);
  $("no-files").hidden = data.length > 0;
  $("more-files").hidden = !has_more;
  $("file-rows").replaceChildren(...data.map(fileRow));
});

function fileRow(file) {
  const remove = guarded(async () => {
    if (!window.confirm(`Delete ${file.filename}?`)) return;
    await api(fileAddress(file.id), { method: "DELETE" });
    await showFileList();
  });
  const { rows, format } = file.x_validation;
  return element("tr", {}, element("td", { title: file.id }, file.filename), element("td", {}, file.purpose), element("td", {}, format || ""), element("td", {}, rows ? String(rows) : ""),
    element("td", {}, file.bytes < 2 ** 20 ? `${Math.ceil(file.bytes / 2 ** 10)} KiB` : size(file.bytes)), element("td", {}, new Date(file.created_at * 1000).toLocaleString()),
    element("td", {}, element("button", { onclick: guarded(() => downloadFile(file.id)) }, "Download"), " ", element("button", { onclick: remove }, "Delete")));
}

$("file-purpose").addEventListener("change", showFileList);
