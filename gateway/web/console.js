// The console: a plain client of the HTTP API. It knows nothing that curl could not do.
"use strict";

const $ = (id) => document.getElementById(id);
const state = { key: sessionStorage.getItem("key") || "", job: null, follow: null, points: [], validations: [] };

// --- HTTP ---------------------------------------------------------------------------------------------------------

async function api(path, options = {}) {
  const headers = { Authorization: `Bearer ${state.key}`, ...(options.headers || {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const error = body.error || { message: `${response.status} ${response.statusText}` };
  throw Object.assign(new Error(error.message), {
    issues: error.issues || [], status: response.status, chinese: error.message_zh,
  });
}

const get = async (path) => (await api(path)).json();
const sendJson = (method) => async (path, body) =>
  (await api(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })).json();
const [post, putJson, patchJson] = ["POST", "PUT", "PATCH"].map(sendJson);

// Reads a server-sent event stream with fetch: EventSource cannot send the Authorization header.
async function* sse(path, options) {
  const reader = (await api(path, options)).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split(/\r?\n\r?\n/);
    text = parts.pop();
    for (const part of parts) {
      const event = { id: null, type: "message", data: "" };
      for (const line of part.split(/\r?\n/)) {
        if (line.startsWith("id:")) event.id = line.slice(3).trim();
        if (line.startsWith("event:")) event.type = line.slice(6).trim();
        if (line.startsWith("data:")) event.data += line.slice(5).trimStart();
      }
      if (event.data) yield event;
    }
  }
}

// The Chinese of a sentence beside its English, for those who read it.
const readsChinese = navigator.language.toLowerCase().startsWith("zh");
const both = (english, chinese) => (readsChinese && chinese ? `${english}  ${chinese}` : english);

function notice(error) {
  $("notice").hidden = !error;
  $("notice").textContent = error ? both(error.message, error.chinese) : "";
}

const guarded = (work) => async (...args) => {
  try { notice(null); await work(...args); } catch (error) { notice(error); }
};

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const badge = (status) => element("span", { class: `status ${status}` }, status);
const number = (value, digits = 4) => (typeof value === "number" ? value.toFixed(digits) : "");

// --- Jobs ---------------------------------------------------------------------------------------------------------

const showJobs = guarded(async () => {
  const { data } = await get("v1/jobs?limit=50");
  $("no-jobs").hidden = data.length > 0;
  $("job-rows").replaceChildren(...data.map(jobRow));
  showQueue(data.find((job) => job.id === state.job)?.queue);
});

// What the open job waits for.
function showQueue(queue) {
  $("detail-queue").hidden = !queue;
  $("detail-queue").textContent = queue ? `${place(queue)}: ${both(queue.reason, queue.reason_zh)}` : "";
}

const askQueue = guarded(async () => {
  const job = await get(`v1/jobs/${state.job}`);
  if (job.id !== state.job) return;
  showQueue(job.queue);
  $("detail-links").hidden = job.kind !== "train";
  if (job.kind === "export") showExportResult(job);
});

function place(queue) {
  const start = queue.estimated_start ? `, starts about ${new Date(queue.estimated_start).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}` : "";
  return `#${queue.position} in the queue${start}`;
}

function jobRow(job) {
  const progress = job.progress || {};
  const ofPhase = progress.phase && job.phase === progress.phase;
  const total = progress.phase && !ofPhase && job.phase ? null : progress.total_steps || progress.total;
  const done = job.status === "succeeded" ? total : progress.step ?? progress.done ?? 0;
  const held = ["queued", "running", "pausing", "paused"].includes(job.status);
  const cancel = guarded(async (event) => {
    event.stopPropagation();
    await api(`v1/jobs/${job.id}/cancel`, { method: "POST" });
    await showJobs();
  });
  const prioritize = guarded(async (event) => {
    event.stopPropagation();
    const given = window.prompt("Priority, higher runs first (-100 to 100; above 0 for administrators)", job.priority);
    if (given === null) return;
    const options = { method: "PATCH", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ priority: Number(given) }) };
    await api(`v1/jobs/${job.id}`, options);
    await showJobs();
  });
  const waits = ["queued", "paused"].includes(job.status);
  return element("tr", { class: "pick", onclick: () => openJob(job.id) },
    element("td", {}, job.name || job.id), element("td", {}, job.kind), element("td", {}, badge(job.status)),
    element("td", {}, waits ? element("button", { onclick: prioritize, title: "Change the priority" }, String(job.priority)) : String(job.priority)),
    job.queue ? element("td", { title: both(job.queue.reason, job.queue.reason_zh) }, place(job.queue)) : element("td", {}, total ? element("progress", { max: total, value: done }) : null, counted(job, done, total, progress.unit)),
    element("td", {}, number(progress.loss)), element("td", {}, new Date(job.created_at).toLocaleString()),
    element("td", {}, held ? element("button", { onclick: cancel }, "Cancel") : null));
}

// Of a job that goes through phases its phase; bytes as people read them.
function counted(job, done, total, unit) {
  const phase = job.status === "running" && job.progress?.phase ? `${job.phase} ` : "";
  if (!total) return job.status === "running" ? ` ${job.phase || ""}` : "";
  return unit === "bytes" ? ` ${phase}${size(done) || 0} of ${size(total)}` : ` ${phase}${done}/${total}`;
}

async function openJob(id) {
  if (state.follow) state.follow.abort();
  state.follow = new AbortController();
  Object.assign(state, { job: id, points: [], validations: [] });
  $("detail-trackers").replaceChildren();
  $("job-detail").hidden = false;
  $("detail-title").textContent = id;
  $("detail-log").textContent = "";
  $("detail-result").replaceChildren();
  showQueue(null);
  askQueue();
  drawLoss();
  showCheckpoints();
  await follow(id, state.follow.signal);
}

// Each is a model by its name, also while the job still runs.
const showCheckpoints = guarded(async () => {
  const job = state.job;
  const { data } = await get(`v1/jobs/${job}/checkpoints`);
  if (job !== state.job) return;
  $("checkpoints").hidden = !data.length;
  $("checkpoint-rows").replaceChildren(...data.map(checkpointRow));
});

function checkpointRow(checkpoint) {
  const { metrics, name } = checkpoint;
  const made = (path, body, tab) => guarded(async () => { await post(path, body); show(tab); });
  const remove = guarded(async () => {
    await api(`v1/jobs/${checkpoint.job_id}/checkpoints/${checkpoint.id}`, { method: "DELETE" });
    await showCheckpoints();
  });
  const marks = ["best", "newest", "resumable", "damaged"].filter((mark) => checkpoint[`is_${mark}`]);
  return element("tr", {}, element("td", { title: name || checkpoint.id }, `Step ${checkpoint.step}`),
    element("td", {}, number(checkpoint.epoch, 2)), element("td", {}, number(metrics.loss)),
    element("td", {}, number(metrics.eval_loss)), element("td", {}, size(checkpoint.size_bytes)),
    element("td", {}, marks.join(", ")),
    element("td", {},
      name && element("button", { onclick: made("v1/deployments", { model: name }, "models") }, "Deploy"), name && " ",
      name && element("button", { onclick: () => { show("models"); openExport(name); } }, "Export"), name && " ",
      element("button", { onclick: remove }, "Delete")));
}

async function follow(id, signal, after = 0) {
  let isDone = false;
  try {
    for await (const event of sse(`v1/jobs/${id}/events/stream?after=${after}`, { signal })) {
      after = Number(event.id) || after;
      isDone = event.type === "done";
      if (isDone) askQueue();
      onJobEvent(event, JSON.parse(event.data));
    }
  } catch (error) {
    if (error.status && error.status < 500) return notice(error);
  }
  // A gateway that is stopped ends its streams as if all were said.
  if (!isDone && !signal.aborted) setTimeout(() => signal.aborted || follow(id, signal, after), 2000);
}

function onJobEvent(event, body) {
  const data = body.data || {};
  for (const [name, kept] of [["loss", "points"], ["eval_loss", "validations"]]) {
    if (event.type !== "metrics" || typeof data[name] !== "number") continue;
    // Steps that a later attempt does again come again.
    state[kept] = state[kept].filter((point) => point.step < data.step);
    state[kept].push({ step: data.step, loss: data[name] });
    drawLoss();
  }
  if (event.type === "tracker" && /^https?:/.test(data.url || "")) {
    $("detail-trackers").append(element("a", { href: data.url, target: "_blank", rel: "noopener" }, data.tracker), " ");
  }
  if (event.type === "checkpoint") {  // those of before come all at once
    clearTimeout(state.due);
    state.due = setTimeout(showCheckpoints, 300);
  }
  const log = $("detail-log");
  const measured = ["loss", "eval_loss"].filter((name) => typeof data[name] === "number").map((name) => `${name} ${number(data[name])}`);
  const text = body.message || (event.type === "metrics" ? `step ${data.step}: ${measured.join(", ")}` : "");
  if (!text) return;
  const said = [both(text, data.zh?.message), both(data.advice || "", data.zh?.advice)].filter(Boolean).join("\n    ");
  log.textContent += `${new Date(body.created_at).toLocaleTimeString()}  ${body.level.padEnd(7)} ${said}\n`;
  log.scrollTop = log.scrollHeight;
}

// The drawing of the server: also the learning rate, and a smoothed loss.
const saveCurves = guarded(async () => {
  const drawn = await (await api(`v1/jobs/${state.job}/curves.svg`)).blob();
  const link = element("a", { href: URL.createObjectURL(drawn), download: `${state.job}.svg` });
  link.click();
  URL.revokeObjectURL(link.href);
});
$("detail-curves").addEventListener("click", saveCurves);

function drawLoss() {
  const [width, height, left, bottom] = [720, 240, 46, 24];
  const svg = $("loss");
  svg.replaceChildren();
  svg.style.display = state.points.length ? "" : "none";
  if (!state.points.length) return;
  const all = [...state.points, ...state.validations];
  const steps = all.map((p) => p.step), losses = all.map((p) => p.loss);
  const [low, high, last] = [Math.min(...losses), Math.max(...losses), Math.max(...steps)];
  const x = (step) => left + (width - left - 10) * (step / Math.max(last, 1));
  const y = (loss) => 12 + (height - bottom - 12) * (1 - (loss - low) / Math.max(high - low, 1e-9));
  const make = (tag, attributes, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    svg.append(node);
  };
  for (const level of [low, (low + high) / 2, high]) {
    make("line", { x1: left, x2: width - 10, y1: y(level), y2: y(level) });
    make("text", { x: 4, y: y(level) + 4 }, level.toFixed(3));
  }
  make("text", { x: left, y: height - 6 }, "step 0");
  make("text", { x: width - 70, y: height - 6 }, `step ${last}`);
  const line = (points) => points.map((p) => `${x(p.step).toFixed(1)},${y(p.loss).toFixed(1)}`).join(" ");
  make("polyline", { points: line(state.points) });
  if (!state.validations.length) return;
  make("polyline", { class: "validation", points: line(state.validations) });
  make("text", { class: "validation", x: width - 70, y: 12 }, "eval_loss");
}

// --- Training -----------------------------------------------------------------------------------------------------

const showDatasets = guarded(async () => {
  const { data } = await get("v1/datasets?limit=50");
  $("dataset-list").replaceChildren(...data.map((set) =>
    element("li", {}, `${set.name || set.filename}: ${set.num_rows} rows, ${set.format} (${set.id})`)));
});

const listIssues = (error) => $("train-issues").replaceChildren(
  ...(error.issues || []).map((issue) =>
    element("li", {}, `${issue.line ? `line ${issue.line}: ` : ""}${issue.field || ""} ${both(issue.message, issue.message_zh)}`)));

$("upload-form").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  const form = new FormData();
  form.append("file", $("upload-file").files[0]);
  $("train-issues").replaceChildren();
  try {
    await api("v1/datasets", { method: "POST", body: form });
  } catch (error) { listIssues(error); throw error; }
  await showDatasets();
}));

$("train-form").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  $("train-issues").replaceChildren();
  try {
    const options = { method: "POST", headers: { "Content-Type": "application/yaml" }, body: $("train-yaml").value };
    const job = await (await api("v1/jobs", options)).json();
    show("jobs");
    openJob(job.id);
  } catch (error) { listIssues(error); throw error; }
}));

// --- Plans --------------------------------------------------------------------------------------------------------

// The cards go beside the YAML as one more line of it: the same text is posted as a plan and as a job.
function planText() {
  const kind = $("plan-kind").value.trim();
  if (!kind) return $("train-yaml").value;
  const card = /^[0-9.]+$/.test(kind) ? { memory_gib: Number(kind) } : { kind };
  return `${$("train-yaml").value}\ngpus: ${JSON.stringify({ ...card, count: Number($("plan-count").value) })}\n`;
}

$("plan-button").addEventListener("click", guarded(async () => {
  $("train-issues").replaceChildren();
  $("plan").replaceChildren();
  try {
    const options = { method: "POST", headers: { "Content-Type": "application/yaml" }, body: planText() };
    showPlan(await (await api("v1/plans", options)).json());
  } catch (error) { listIssues(error); throw error; }
}));

function showPlan(plan) {
  const { training, memory, nearest, options } = plan;
  const lines = [];
  if (training) lines.push(`Effective batch ${training.effective_batch}, ${training.total_steps ?? "unknown"} steps`);
  if (memory) {
    const parts = Object.entries(memory.per_gpu_gib).map(([name, gib]) => `${name} ${gib.toFixed(1)}`).join(", ");
    lines.push(`GiB of a card: ${parts}${memory.verdict ? ` (${memory.verdict.replaceAll("_", " ")})` : ""}`);
  }
  if (nearest) lines.push(`Nearest change that fits: ${JSON.stringify(nearest.patch)}`);
  $("plan").replaceChildren(
    ...lines.map((line) => element("p", {}, line)),
    ...(options ? [planTable(options)] : []),
    findingList(plan.findings));
}

const findingList = (findings) => element("ul", { class: "findings" }, ...(findings || []).map((finding) =>
  element("li", { class: finding.severity }, element("b", {}, finding.field), ` ${both(finding.message, finding.zh?.message)} ${both(finding.advice, finding.zh?.advice)} `,
    element("small", {}, `(${finding.source})`))));

// GiB of a card with flash attention and checkpointing: ZeRO and offload down, methods across.
function planTable({ columns, rows }) {
  const read = rows.map((row) => Object.fromEntries(columns.map((name, index) => [name, row[index]])))
    .filter((row) => row.attention === "flash" && row.checkpointing);
  const methods = [...new Set(read.map((row) => row.method))];
  const places = [...new Set(read.map((row) => `${row.zero_stage} / ${row.offload}`))];
  const cell = (place, method) => {
    const row = read.find((item) => `${item.zero_stage} / ${item.offload}` === place && item.method === method);
    return element("td", row?.verdict ? { class: row.verdict } : {}, row ? row.total_gib.toFixed(1) : "");
  };
  return element("table", {},
    element("thead", {}, element("tr", {}, ...["ZeRO / offload", ...methods].map((name) => element("th", {}, name)))),
    element("tbody", {}, ...places.map((place) =>
      element("tr", {}, element("td", {}, place), ...methods.map((method) => cell(place, method))))));
}

// --- Models -------------------------------------------------------------------------------------------------------

const size = (bytes) => (bytes ? `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 27 ? 1 : 0)} MiB` : "");

const showModels = guarded(async () => {
  const [models, deployments, evaluations] =
    await Promise.all([get("v1/models?in_catalog=true"), get("v1/deployments"), get("v1/evaluations?limit=100")]);
  const served = new Map(deployments.data.map((item) => [item.model, item]));
  $("model-rows").replaceChildren(...models.data.map((model) => modelRow(
    model, served.get(model.id), evaluations.data.filter((found) => found.model === model.id))));
});

// The newest result on each dataset and task; its error beside each number.
function measured(evaluations) {
  const newest = new Map();
  for (const found of evaluations) if (!newest.has(found.dataset || found.task)) newest.set(found.dataset || found.task, found);
  return [...newest].map(([name, { metrics, num_samples }]) => {
    const shown = Object.keys(metrics).filter((key) => typeof metrics[key] === "number" && !/_stderr$|^num_|^predict_/.test(key));
    const told = shown.map((key) => `${key} ${metrics[key].toPrecision(4)}` +
      (`${key}_stderr` in metrics ? ` \u00b1 ${metrics[`${key}_stderr`].toPrecision(2)}` : ""));
    return element("div", { title: told.join("\n") }, `${name} (${num_samples}): ${told.slice(0, 3).join(", ")}`);
  });
}

function modelRow(model, deployment, evaluations) {
  const deploy = guarded(async () => { await post("v1/deployments", { model: model.id }); await showModels(); });
  const remove = guarded(async () => { await api(`v1/deployments/${deployment.id}`, { method: "DELETE" }); await showModels(); });
  const act = deployment ? element("button", { onclick: remove }, "Stop") : element("button", { onclick: deploy }, "Deploy");
  const pack = model.kind !== "quantized" && element("button", { onclick: () => openExport(model.id) }, "Export");
  return element("tr", {}, element("td", { class: "link", onclick: () => openModel(model.id) }, model.id, ...model.aliases.flatMap((alias) => [" ", badge(alias)])), element("td", {}, model.kind || ""),
    element("td", {}, model.base_model || ""), element("td", {}, size(model.size_bytes)),
    element("td", {}, ...measured(evaluations)),
    element("td", {}, deployment ? badge(deployment.status) : ""), element("td", {}, act, " ", pack || null));
}

// --- Workers ------------------------------------------------------------------------------------------------------

const showWorkers = guarded(async () => {
  const { data } = await get("v1/workers");
  $("no-workers").hidden = data.length > 0;
  $("worker-rows").replaceChildren(...data.map(workerRow));
});

function workerRow(worker) {
  const job = worker.job;
  const left = typeof job?.seconds_left === "number" ? `, about ${Math.ceil(job.seconds_left / 60)} min left` : "";
  const now = !worker.alive ? `silent for ${Math.round(worker.age_seconds)} s` : job ? `${job.id || "another project's job"}${left}` : "idle";
  return element("tr", {}, element("td", {}, worker.id), element("td", {}, worker.kinds.join(", ")), element("td", {}, now),
    element("td", {}, ...worker.devices.map(deviceLine)), element("td", {}, worker.labels.join(", ")));
}

function deviceLine(device) {
  const holder = device.held_by ? device.held_by.id || device.held_by.kind || "another process" : null;
  const memory = device.memory_gib ? ` ${device.memory_gib} GiB` : "";
  return element("div", { title: device.id }, badge(holder ? "busy" : "free"), ` ${device.name || device.id}${memory}`, holder ? ` ${holder}` : "");
}

// --- Start --------------------------------------------------------------------------------------------------------

// The other scripts are loaded by the time a tab is shown.
const tabs = {
  jobs: showJobs, train: showDatasets, models: showModels, deployments: () => showDeployments(), workers: showWorkers,
  chat: () => showChat(), compare: () => showCompare(), bulk: () => showBulk(), files: () => showFileList(),
};

function show(name) {
  for (const tab of Object.keys(tabs)) $(tab).hidden = tab !== name;
  for (const button of document.querySelectorAll("[data-tab]")) button.classList.toggle("on", button.dataset.tab === name);
  if (state.key) tabs[name]();
  else notice(new Error("Enter an API key: `tunesmith up` printed one at its first start, `tunesmith keys create` makes more."));
}

$("tabs").addEventListener("click", (event) => event.target.dataset.tab && show(event.target.dataset.tab));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = $("key").value.trim();
  sessionStorage.setItem("key", state.key);
  show("jobs");
});
$("key").value = state.key;
const lively = { jobs: showJobs, models: showModels, deployments: () => showDeployments(), workers: showWorkers, bulk: () => showBulk() };
setInterval(() => {
  for (const [tab, refresh] of Object.entries(lively)) if (state.key && !$(tab).hidden) refresh();
}, 3000);
show("jobs");
