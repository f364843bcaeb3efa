// Forms made of the API's own description of parameters: type, range, choices, unit and meaning in two tongues.
// What is left empty is not sent: the deployment decides it, or the server's default. Uses the functions of console.js.
"use strict";

const described = new Map();

// The parameters of a kind of job, asked once.
async function parametersOf(kind) {
  if (!described.has(kind)) described.set(kind, (await get(`v1/parameters?kind=${kind}`)).data);
  return described.get(kind);
}

// `first`: names that are seen at once; the others lie folded below. -> { has(name), values(), set(values) }
function parameterForm(container, parameters, first) {
  const inputs = new Map(parameters.filter((one) => !one.secret).map((one) => [one.name, parameterInput(one)]));
  const row = (name) => element("label", { title: parameterTitle(parameters.find((one) => one.name === name)) }, `${name} `, inputs.get(name));
  const shown = first.filter((name) => inputs.has(name));
  const others = [...inputs.keys()].filter((name) => !shown.includes(name));
  container.replaceChildren(
    element("div", { class: "parameters" }, ...shown.map(row)),
    ...(others.length ? [element("details", {}, element("summary", {}, `${others.length} more parameters`), element("div", { class: "parameters" }, ...others.map(row)))] : []));
  return {
    has: (name) => inputs.has(name),
    values: () => Object.fromEntries(parameters.filter((one) => inputs.has(one.name))
      .map((one) => [one.name, parameterValue(one, inputs.get(one.name).value)]).filter(([, value]) => value !== undefined)),
    set: (values) => {
      for (const one of parameters) {
        const value = [one.name, ...one.aliases].map((name) => values[name]).find((found) => found !== undefined && found !== null);
        if (inputs.has(one.name)) inputs.get(one.name).value = value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
      }
    },
  };
}

function parameterTitle(one) {
  const range = [one.minimum !== null ? `from ${one.minimum}` : "", one.maximum !== null ? `to ${one.maximum}` : ""].filter(Boolean).join(" ");
  return [both(one.doc, one.zh?.doc), one.unit, range, both(one.advice || "", one.zh?.advice), both(one.picture || "", one.zh?.picture)].filter(Boolean).join("\n");
}

function parameterInput(one) {
  const choices = one.type === "bool" ? ["true", "false"] : one.choices;
  if (choices.length) {
    return element("select", {}, element("option", { value: "" }, "left out"), ...choices.map((choice) => element("option", { value: String(choice) }, String(choice))));
  }
  if (one.type === "list" || one.type === "dict") return element("textarea", { rows: 1, spellcheck: "false", placeholder: one.type === "dict" ? "{ JSON }" : "one, or [JSON, list]" });
  if (one.type !== "int" && one.type !== "float") return element("input", { size: 14, placeholder: one.default ?? "" });
  const bounds = { ...(one.minimum === null ? {} : { min: one.minimum }), ...(one.maximum === null ? {} : { max: one.maximum }) };
  return element("input", { type: "number", step: one.type === "int" ? 1 : "any", ...bounds });
}

// undefined: left out. A list is sent as the text that it is where that is no JSON: the server reads commas.
function parameterValue(one, text) {
  if (text.trim() === "") return undefined;
  if (one.type === "bool") return text === "true";
  if (one.type === "int" || one.type === "float" || (one.choices.length && typeof one.choices[0] === "number")) return Number(text);
  if (one.type === "dict" || (one.type === "list" && text.trim().startsWith("["))) {
    try { return JSON.parse(text); } catch (error) { throw new Error(`${one.name} is not JSON: ${error.message}`); }
  }
  return text;
}

// Under each form the complaints about it.
const listComplaints = (list, error) => list.replaceChildren(...(error?.issues || []).map((issue) =>
  element("li", {}, `${issue.line ? `line ${issue.line}: ` : ""}${issue.field || ""} ${both(issue.message, issue.message_zh)}`)));

// What may be asked: deployments, and routes, which stand for them.
async function namesToAsk() {
  const [deployments, routes] = await Promise.all([get("v1/deployments"), get("v1/routes")]);
  return [...deployments.data.map((item) => ({ name: item.name, status: item.status })), ...routes.data.map((item) => ({ name: item.name, status: "route" }))];
}
