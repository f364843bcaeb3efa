// A model in the console: where it comes from, its marks, its files, and what can be done with it.
// Uses the functions of console.js and export.js, which are loaded before it.
"use strict";

const addressOf = (model) => `v1/models/${encodeURIComponent(model)}`;

const openModel = guarded(async (name) => {
  const model = await get(addressOf(name));
  $("model-detail").hidden = false;
  $("model-title").textContent = model.id;
  const version = model.version ? `${model.version} of ${model.family}` : "";
  const told = [["Kind", model.kind], ["Version", version], ["Aliases", model.aliases.join(", ")], ["Tags", model.tags.join(", ")],
    ["Format", model.format], ["Size", size(model.size_bytes)], ["Digest", model.digest],
    ...Object.entries(model.metadata), ["Made from it", model.derived.join(", ")]];
  $("model-facts").replaceChildren(
    ...told.filter(([, value]) => value).map(([title, value]) => element("div", {}, `${title}: ${value}`)),
    lineageLine(model.lineage), ...model.pushes.map(pushLine), ...measured(model.evaluations),
    ...verified(model.config?.verification), modelActions(model));
  $("model-detail").scrollIntoView({ block: "nearest" });
  await showFiles(model);
});

// Base, job, adapter, job, merged ...: models and jobs open, what was deleted is named only.
function lineageLine(steps) {
  const parts = steps.map((step) => {
    const data = (step.datasets || []).map((set) => set.name).join(", ");
    const label = step.object === "job" ? `${step.kind || "job"}${data ? ` on ${data}` : ""}` : step.id;
    if (step.object === "model" && !step.in_catalog) return element("span", { title: "not in the catalog" }, `(${label})`);
    const open = step.object === "job" ? () => { show("jobs"); openJob(step.id); } : () => openModel(step.id);
    return element("span", { class: "link", title: step.digest || step.id, onclick: open }, label);
  });
  return element("p", {}, "From ", ...parts.flatMap((part, index) => (index ? [" \u2192 ", part] : [part])));
}

const pushLine = (pushed) => element("div", {}, "On the Hub: ",
  element("a", { href: pushed.url, rel: "noreferrer", target: "_blank" }, pushed.repository || pushed.url), ` (${(pushed.commit || "").slice(0, 12)})`);

// --- What can be done ---------------------------------------------------------------------------------------------

function modelActions(model) {
  const button = (label, work) => [element("button", { type: "button", onclick: guarded(work) }, label), " "];
  const isRecord = model.version !== null;
  return element("p", {},
    ...(isRecord ? button("Aliases", () => mark(model, "aliases", "Names of this version (FAMILY@name), with commas; another version loses them")) : []),
    ...(isRecord ? button("Tags", () => mark(model, "tags", "Tags, with commas")) : []),
    ...button("Download as tar", () => save(`${addressOf(model.id)}/archive`, `${model.id.split("/").pop()}.tar`)),
    ...button("Push to the Hub", () => pushModel(model)), ...button("Delete", () => removeModel(model)));
}

async function mark(model, what, question) {
  const given = window.prompt(question, model[what].join(", "));
  if (given === null) return;
  const marks = given.split(",").map((word) => word.trim()).filter(Boolean);
  const options = { method: "PATCH", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ [what]: marks }) };
  await api(addressOf(model.id), options);
  await openModel(model.id);
}

async function pushModel(model) {
  const repository = window.prompt("Repository of the Hub, owner/name; it is made private where it is not there");
  const token = repository && window.prompt("Hugging Face token that may write to it; it is kept with this job only");
  if (!token) return;
  const body = { kind: "push", model_name_or_path: model.id, export_hub_model_id: repository.trim(), hf_hub_token: token.trim() };
  const job = await post("v1/jobs", body);
  show("jobs");
  openJob(job.id);
}

async function removeModel(model) {
  if (!window.confirm(`Delete ${model.id} and its files?`)) return;
  await api(addressOf(model.id), { method: "DELETE" });
  $("model-detail").hidden = true;
  await showModels();
}

// --- Files --------------------------------------------------------------------------------------------------------

async function showFiles(model) {
  const { data } = await get(`${addressOf(model.id)}/files`).catch(() => ({ data: [] })); // on the Hub there are none here
  const row = (file) => {
    const path = `${addressOf(model.id)}/files/${file.path.split("/").map(encodeURIComponent).join("/")}`;
    return element("tr", {}, element("td", { class: "link", onclick: guarded(() => save(path, file.path.split("/").pop())) }, file.path),
      element("td", {}, file.size_bytes < 2 ** 20 ? `${Math.ceil(file.size_bytes / 2 ** 10)} KiB` : size(file.size_bytes)), element("td", { title: file.sha256 }, file.sha256.slice(0, 16)));
  };
  $("model-files").replaceChildren(...(data.length ? [element("details", {}, element("summary", {}, `${data.length} files`),
    element("table", {}, element("tbody", {}, ...data.map(row))))] : []));
}

// Straight to the disk where the browser can; else it asks for the key once more, as the password, and saves by itself.
async function save(path, name) {
  if (!window.showSaveFilePicker) { window.location.assign(path); return; }
  const place = await window.showSaveFilePicker({ suggestedName: name }).catch(() => null);
  if (!place) return;
  const answer = await api(path);
  await answer.body.pipeTo(await place.createWritable());
}
