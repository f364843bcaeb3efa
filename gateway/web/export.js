// Exports in the console: a form with the sizes of every format, and what a finished export has proven.
// Uses the functions of console.js, which is loaded before it.
"use strict";

const gib = (size) => (typeof size === "number" ? `${size.toFixed(2)} GiB` : "");

// --- The form -----------------------------------------------------------------------------------------------------

const openExport = guarded(async (model) => {
  $("export-form").hidden = false;
  $("export-model").value = model;
  $("export-name").value = "";
  const { data } = await get("v1/datasets?limit=100");
  $("export-dataset").replaceChildren(element("option", { value: "" }, "those of the training"),
    ...data.map((set) => element("option", { value: set.id }, set.name || set.filename)));
  $("export-format").replaceChildren();
  await planExport();
  $("export-form").scrollIntoView({ block: "start" });
});

function exportBody() {
  const [format, bits] = ($("export-format").value || "merged ").split(" ");
  const given = {
    export_dir: $("export-name").value.trim(), export_quantization_dataset: $("export-dataset").value,
    export_device: $("export-device").value, export_quantization_bit: bits ? Number(bits) : null,
  };
  const body = { kind: "export", model_name_or_path: $("export-model").value, export_format: format };
  for (const [name, value] of Object.entries(given)) if (value) body[name] = value;
  return body;
}

const exportIssues = (error) => $("export-issues").replaceChildren(...(error.issues || []).map((issue) =>
  element("li", {}, `${issue.field || ""} ${both(issue.message, issue.message_zh)}`)));

async function planExport() {
  $("export-issues").replaceChildren();
  try {
    showExportPlan(await post("v1/plans", exportBody()));
  } catch (error) { exportIssues(error); throw error; }
}

function showExportPlan(plan) {
  const { export: made, disk, memory, seconds } = plan;
  const chosen = `${made.format} ${made.bits ?? ""}`;
  $("export-format").replaceChildren(...plan.formats.map((row) => {
    const value = `${row.format} ${row.bits ?? ""}`;
    const label = `${row.format}${row.bits ? `, ${row.bits} bits` : ""}${row.size_gib === null ? "" : `: ${gib(row.size_gib)}`}${row.programs.length ? ` (${row.programs.join(", ")})` : row.vllm.here === false ? " (not served here)" : ""}`;
    return element("option", { value, title: row.doc, ...(value === chosen ? { selected: "" } : {}) }, label);
  }));
  const row = plan.formats.find((one) => `${one.format} ${one.bits ?? ""}` === chosen);
  const verdict = (part) => (part?.verdict ? ` (${part.verdict.replaceAll("_", " ")})` : "");
  const lines = [`${[made.base, ...made.adapters].join(" + ")}: ${row.doc}${row.programs.length ? "" : ` vLLM serves it on ${row.vllm.where}.`}`];
  if (made.calibration.length) lines.push(`Calibrated with the texts of ${made.calibration.join(", ")}.`);
  if (disk) lines.push(`Disk ${gib(disk.scratch_gib)}${disk.worker ? ` of ${gib(disk.free_gib)} free on ${disk.worker}` : ""}${verdict(disk)}.`);
  if (memory) lines.push(`Memory of the host: ${Object.entries(memory.host_gib).map(([name, size]) => `${name} ${gib(size)}`).join(", ")}${verdict(memory)}.`);
  if (seconds) lines.push(`About ${seconds.total} s (${seconds.is_measured ? "as earlier exports here" : "roughly, on two cores"}).`);
  $("export-plan").replaceChildren(...lines.map((line) => element("p", {}, line)), findingList(plan.findings));
}

for (const name of ["format", "dataset", "device"]) $(`export-${name}`).addEventListener("change", guarded(planExport));
$("export-close").addEventListener("click", () => { $("export-form").hidden = true; });
$("export-form").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  $("export-issues").replaceChildren();
  try {
    const job = await post("v1/jobs", exportBody());
    $("export-form").hidden = true;
    show("jobs");
    openJob(job.id);
  } catch (error) { exportIssues(error); throw error; }
}));

// --- What was proven ----------------------------------------------------------------------------------------------

const percent = (value, digits) => (typeof value === "number" ? `${(100 * value).toFixed(digits)} %` : "");

// A row for each comparison: of the merged model with the trained one, of the quantized with the merged one.
function verifiedTable(verification) {
  const titles = { merge: "Merged against trained", quantized: "Quantized against merged" };
  const rows = Object.entries(titles).filter(([key]) => verification?.[key]).map(([key, title]) => {
    const found = verification[key];
    return [title, number(found.loss_reference), number(found.loss), number(found.perplexity_ratio, 3),
      percent(found.top1_agreement, 1), percent(found.relative_difference, 2)];
  });
  if (!rows.length) return null;
  const heads = ["", "Loss before", "Loss", "Perplexity ratio", "Same likeliest token", "Logits differ"];
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", {}, head)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))))));
}

// The same questions, answered by each model: a column for each.
function verifiedAnswers(answers) {
  const models = Object.keys(answers || {}).filter((name) => Array.isArray(answers[name]) && answers[name].length);
  if (!models.length) return null;
  const text = (value) => (typeof value === "string" ? value : value?.text ?? "");
  return element("details", {}, element("summary", {}, "Answers"), element("table", {},
    element("thead", {}, element("tr", {}, ...models.map((name) => element("th", {}, name)))),
    element("tbody", {}, ...answers[models[0]].map((_, index) =>
      element("tr", {}, ...models.map((name) => element("td", {}, text(answers[name][index]))))))));
}

function verified(verification) {
  if (!verification) return [];
  const { vllm } = verification;
  const asked = Object.entries(vllm || {}).filter(([, found]) => found && typeof found === "object").map(([name, found]) =>
    `vLLM, ${name}: ${found.proven ? `loss ${number(found.loss_reference)} -> ${number(found.loss)}` : found.why || ""}`);
  const answers = { ...verification.answers, ...(verification.quantized_answers ? { quantized: verification.quantized_answers } : {}) };
  const proven = vllm ? (vllm.proven ? "Answered by vLLM." : `Not answered by vLLM${vllm.why ? `: ${vllm.why}` : ""}.`) : "";
  const told = verification.num_rows ? `Compared on ${verification.num_rows} rows (${verification.rows_from}). ${proven}` : proven;
  return [...[told, ...asked].filter(Boolean).map((line) => element("p", {}, line)), verifiedTable(verification), verifiedAnswers(answers)].filter(Boolean);
}

// Numbers that an error brings, e.g. of a comparison that failed.
function errorDetails(error) {
  const told = Object.entries(error?.details || {}).filter(([, value]) => ["number", "string"].includes(typeof value));
  if (!told.length) return [];
  return [element("table", {}, element("tbody", {}, ...told.map(([name, value]) =>
    element("tr", {}, element("td", {}, name.replaceAll("_", " ")), element("td", {}, String(value))))))];
}

function showExportResult(job) {
  const { result, error } = job;
  const parts = [];
  if (error) parts.push(element("p", { class: "bad" }, `${error.code}: ${both(error.message, error.message_zh)}`), ...errorDetails(error));
  if (result?.model) parts.push(element("p", {}, `Model ${result.model}${result.format ? `, ${result.format}` : ""}${result.size_bytes ? `, ${size(result.size_bytes)}` : ""}`));
  if (result?.seconds) parts.push(element("p", {}, Object.entries(result.seconds).map(([name, took]) => `${name} ${took} s`).join(", ")));
  $("detail-result").replaceChildren(...parts, ...verified(result?.verification));
}
