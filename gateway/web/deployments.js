// What is served: deployments with their replicas, adapters and events, and the routes that name them.
// Uses the functions of console.js and forms.js, which are loaded before it.
"use strict";

const serving = { open: null, deploy: null, update: null, deployments: [], logs: new Set() };
const FIRST_OF_DEPLOY = ["name", "engine", "replicas", "min_replicas", "max_replicas", "idle_timeout_seconds", "max_model_len", "dtype", "gpu_memory_utilization", "max_num_seqs", "template"];
//: Given once, when a deployment is made.
const OF_THE_MODEL = ["model", "adapter_name_or_path"];
const deploymentAddress = (name) => `v1/deployments/${encodeURIComponent(name)}`;

const showDeployments = guarded(async () => {
  const [deployments, routes] = await Promise.all([get("v1/deployments"), get("v1/routes")]);
  serving.deployments = deployments.data;
  $("no-deployments").hidden = deployments.data.length > 0;
  $("deployment-rows").replaceChildren(...deployments.data.map(deploymentRow));
  $("route-rows").replaceChildren(...routes.data.map(routeRow));
  if (!serving.deploy) await makeDeployForm();
  const open = deployments.data.find((item) => item.id === serving.open);
  if (open) await showDeployment(open);
});

function deploymentRow(deployment) {
  const ready = deployment.replicas.filter((replica) => replica.status === "ready").length;
  const load = deployment.replicas.reduce((sum, replica) => sum + (replica.load || 0), 0);
  const stop = guarded(async (event) => {
    event.stopPropagation();
    if (!window.confirm(`Stop serving ${deployment.name}?`)) return;
    await api(deploymentAddress(deployment.id), { method: "DELETE" });
    await showDeployments();
  });
  const talk = (event) => { event.stopPropagation(); chatWith(deployment.name); };
  return element("tr", { class: "pick", onclick: () => openDeployment(deployment) },
    element("td", {}, deployment.name), element("td", {}, deployment.model), element("td", {}, badge(deployment.status)),
    element("td", {}, deployment.host ? `on ${deployment.host}` : `${ready} of ${deployment.num_wanted ?? deployment.replicas.length}`), element("td", {}, String(load)),
    element("td", {}, element("button", { onclick: talk }, "Chat"), " ", element("button", { onclick: stop }, "Delete")));
}

// --- One deployment -----------------------------------------------------------------------------------------------

const openDeployment = guarded(async (deployment) => {
  Object.assign(serving, { open: deployment.id, update: null });
  $("deployment-update").replaceChildren();
  $("deployment-issues").replaceChildren();
  $("deployment-events").textContent = "";
  $("deployment-change").open = false;
  $("deployment-count").value = deployment.spec.replicas;
  await showDeployment(deployment);
  $("deployment-detail").scrollIntoView({ block: "nearest" });
});

async function showDeployment(deployment) {
  $("deployment-detail").hidden = false;
  $("deployment-title").textContent = deployment.name;
  const guests = serving.deployments.filter((item) => item.host && item.host === deployment.name).map((item) => item.name);
  const told = [["Model", deployment.model], ["Status", deployment.status], ["On the replicas of", deployment.host], ["Why there", deployment.placement], ["Adapters on it", guests.join(", ")],
    ["Generation", deployment.generation], ["Last asked", deployment.asked_at && new Date(deployment.asked_at).toLocaleString()]];
  $("deployment-facts").replaceChildren(
    ...told.filter(([, value]) => value).map(([title, value]) => element("div", {}, `${title}: ${value}`)),
    ...(deployment.waiting ? [element("p", {}, both(deployment.waiting, deployment.waiting_zh))] : []),
    ...(deployment.error ? [element("p", { class: "bad" }, deployment.error)] : []), ...rolloutLines(deployment.rollout));
  $("replica-rows").replaceChildren(...deployment.replicas.flatMap(replicaRows));
  $("deployment-scale").hidden = Boolean(deployment.host);
  $("deployment-again").hidden = deployment.status !== "failed";
  await showDeploymentEvents(deployment);
}

// What the last change of the spec came to.
function rolloutLines(rollout) {
  if (!rollout) return [];
  const changed = Object.entries(rollout.changed || {}).map(([name, [before, after]]) => `${name} ${JSON.stringify(before)} \u2192 ${JSON.stringify(after)}`).join(", ");
  const error = rollout.error ? `: ${rollout.error.message || rollout.error}` : "";
  return [element("p", rollout.status === "rolled_back" ? { class: "bad" } : {}, `Update ${rollout.status.replaceAll("_", " ")}${changed ? ` (${changed})` : ""}${error}`)];
}

function replicaRows(replica) {
  const adapters = (replica.adapters || []).join(", ");
  const errors = Object.entries(replica.adapter_errors || {}).map(([name, why]) => element("div", { class: "bad" }, `${name}: ${why}`));
  const row = element("tr", {}, element("td", { title: replica.id }, badge(replica.status), replica.generation ? ` generation ${replica.generation}` : ""), element("td", {}, replica.worker_id || ""),
    element("td", {}, String(replica.load ?? "")), element("td", {}, adapters, ...errors),
    element("td", {}, replica.num_failures ? `failed ${replica.num_failures} times` : "", replica.error ? element("div", { class: "bad" }, replica.error) : null));
  if (!replica.log_tail) return [row];
  // Drawn anew every few seconds: a log that is being read stays open.
  const note = (event) => (event.target.open ? serving.logs.add(replica.id) : serving.logs.delete(replica.id));
  const attributes = { ontoggle: note, ...(serving.logs.has(replica.id) ? { open: "" } : {}) };
  return [row, element("tr", {}, element("td", { colspan: 5 }, element("details", attributes, element("summary", {}, "Last lines of its log"), element("pre", {}, replica.log_tail))))];
}

async function showDeploymentEvents(deployment) {
  const { data } = await get(`${deploymentAddress(deployment.id)}/events?limit=100&order=desc`).catch(() => ({ data: [] }));
  const line = (event) => `${new Date(event.created_at).toLocaleString()}  ${event.level.padEnd(7)} ${both(event.message, event.data?.zh?.message)}`;
  $("deployment-events").hidden = !data.length;
  $("deployment-events").textContent = data.map(line).join("\n");
}

async function changeDeployment(change) {
  listComplaints($("deployment-issues"));
  try {
    await patchJson(deploymentAddress(serving.open), change);
  } catch (error) { listComplaints($("deployment-issues"), error); throw error; }
  await showDeployments();
}

// Replicas that were given up are started again.
$("deployment-again").addEventListener("click", guarded(() => changeDeployment({})));

$("deployment-scale").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  await changeDeployment({ replicas: Number($("deployment-count").value) });
}));

// The form is made when it is opened: it begins with what is served now.
$("deployment-change").addEventListener("toggle", guarded(async () => {
  if (!$("deployment-change").open || serving.update) return;
  const parameters = (await parametersOf("deploy")).filter((one) => one.name !== "name" && one.name !== "replicas");
  const spec = serving.deployments.find((item) => item.id === serving.open).spec;
  serving.update = { form: parameterForm($("deployment-update"), parameters, [...OF_THE_MODEL, ...FIRST_OF_DEPLOY]), spec };
  serving.update.form.set(spec);
}));

// Only what differs from what is served.
$("deployment-save").addEventListener("click", guarded(async () => {
  const { form, spec } = serving.update;
  const values = form.values();
  const change = Object.fromEntries(Object.entries(values).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(spec[name])));
  for (const [name, value] of Object.entries(spec)) if (value !== null && name !== "name" && !(name in values) && form.has(name)) change[name] = null;
  if (Object.keys(change).length) await changeDeployment(change);
}));

// --- A new one ----------------------------------------------------------------------------------------------------

async function makeDeployForm() {
  const parameters = (await parametersOf("deploy")).filter((one) => !OF_THE_MODEL.includes(one.name));
  serving.deploy = parameterForm($("deploy-parameters"), parameters, FIRST_OF_DEPLOY);
  const { data } = await get("v1/models?in_catalog=true");
  $("deploy-names").replaceChildren(...data.map((model) => element("option", { value: model.id }, model.kind || "")));
}

$("deploy-form").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  listComplaints($("deploy-issues"));
  try {
    await post("v1/deployments", { model: $("deploy-model").value.trim(), ...serving.deploy.values() });
  } catch (error) { listComplaints($("deploy-issues"), error); throw error; }
  await showDeployments();
}));

// --- Routes -------------------------------------------------------------------------------------------------------

function routeRow(route) {
  const targets = route.targets.map((target) => element("div", {}, `${target.model}: ${(100 * target.share).toFixed(0)} %`, target.num_ready ? "" : " (nobody ready)"));
  const edit = () => {
    $("route-name").value = route.name;
    $("route-targets").value = route.targets.map((target) => `${target.model} ${target.weight}`).join(", ");
  };
  const remove = guarded(async () => {
    if (!window.confirm(`Delete the route ${route.name}? What it points at runs on.`)) return;
    await api(`v1/routes/${encodeURIComponent(route.name)}`, { method: "DELETE" });
    await showDeployments();
  });
  return element("tr", {}, element("td", {}, route.name), element("td", {}, ...targets),
    element("td", {}, element("button", { onclick: () => chatWith(route.name) }, "Chat"), " ", element("button", { onclick: edit }, "Change"), " ", element("button", { onclick: remove }, "Delete")));
}

// `support@4 1, support@3 9`: a name and its weight.
const targets = (text) => text.split(",").map((part) => part.trim().split(/\s+/)).filter(([model]) => model)
  .map(([model, weight]) => (weight === undefined ? { model } : { model, weight: Number(weight) }));

$("route-form").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  listComplaints($("route-issues"));
  try {
    await post("v1/routes", { name: $("route-name").value.trim(), targets: targets($("route-targets").value) });
  } catch (error) { listComplaints($("route-issues"), error); throw error; }
  await showDeployments();
}));
