// The same prompts to several models and settings, side by side, by /v1/compare.
// Uses the functions of console.js and forms.js, which are loaded before it.
"use strict";

const comparison = { form: null, stop: null };

const showCompare = guarded(async () => {
  const [names, parameters] = await Promise.all([namesToAsk(), parametersOf("generate")]);
  const chosen = new Set(chosenModels());
  $("compare-models").replaceChildren(...names.map(({ name, status }) => element("label", {},
    element("input", { type: "checkbox", value: name, ...(chosen.has(name) ? { checked: "" } : {}) }), ` ${name} `, badge(status))));
  $("compare-none").hidden = names.length > 0;
  if (!comparison.form) comparison.form = parameterForm($("compare-parameters"), parameters.filter((one) => one.group === "sampling" && one.name !== "n"), ["temperature", "max_new_tokens", "seed"]);
});

const chosenModels = () => [...$("compare-models").querySelectorAll("input:checked")].map((box) => box.value);

// One in each line: `name=value, name=value`; values as JSON where they are, else as text.
function settings() {
  return $("compare-settings").value.split("\n").filter((line) => line.trim()).map((line) =>
    Object.fromEntries(line.split(",").map((pair) => {
      const [name, ...rest] = pair.split("=");
      const text = rest.join("=").trim();
      try { return [name.trim(), JSON.parse(text)]; } catch { return [name.trim(), text]; }
    })));
}

function compareBody() {
  const others = $("compare-others").value.split(",").map((name) => name.trim()).filter(Boolean);
  const given = settings();
  const system = $("compare-system").value.trim();
  return {
    models: [...chosenModels(), ...others], stream: true,
    prompts: $("compare-prompts").value.split(/\n\s*\n/).map((text) => text.trim()).filter(Boolean),
    ...(system ? { system } : {}), ...(given.length ? { settings: given } : {}), ...comparison.form.values(),
  };
}

$("compare-form").addEventListener("submit", guarded(async (event) => {
  event.preventDefault();
  if (comparison.stop) return;
  listComplaints($("compare-issues"));
  $("compared").replaceChildren();
  comparison.stop = new AbortController();
  compareButtons();
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, signal: comparison.stop.signal };
  try {
    let table = null;
    for await (const { type, data } of sse("v1/compare", { ...options, body: JSON.stringify(compareBody()) })) {
      const told = JSON.parse(data);
      if (type === "comparison") table = comparedTable(told);
      else table[type]?.(told);
    }
  } catch (error) {
    listComplaints($("compare-issues"), error);
    if (!comparison.stop.signal.aborted) throw error;
  } finally {
    comparison.stop = null;
    compareButtons();
  }
}));
$("compare-stop").addEventListener("click", () => comparison.stop?.abort());

function compareButtons() {
  $("compare-send").hidden = Boolean(comparison.stop);
  $("compare-stop").hidden = !comparison.stop;
}

// A row for each prompt, a column for each model under each setting. -> what each event does to it
function comparedTable({ columns, rows }) {
  const cells = rows.map(() => columns.map(() => element("td", {}, element("details", { class: "thoughts", hidden: "" }, element("summary", {}, "Thoughts"), element("p")), element("p", { class: "said" }), element("small", {}))));
  const asked = (row) => row.prompt ?? row.messages.filter((message) => message.role === "user").at(-1)?.content ?? "";
  const feet = columns.map(() => element("td", {}));
  $("compared").replaceChildren(element("table", {},
    element("thead", {}, element("tr", {}, ...columns.map((column) => element("th", { title: JSON.stringify(column.parameters) }, column.name)))),
    element("tbody", {}, ...rows.flatMap((row, at) => [
      element("tr", {}, element("th", { colspan: columns.length, class: "asked" }, typeof asked(row) === "string" ? asked(row) : JSON.stringify(asked(row)))),
      element("tr", {}, ...cells[at])])),
    element("tfoot", {}, element("tr", {}, ...feet))));
  const part = ({ row, column }, name) => cells[row][column].querySelector(name);
  return {
    delta: (told) => {
      part(told, ".said").textContent += told.text || "";
      if (told.reasoning) {
        part(told, ".thoughts").hidden = false;
        part(told, ".thoughts p").textContent += told.reasoning;
      }
    },
    answer: (told) => {
      const calls = (told.tool_calls || []).map((call) => `${call.name}(${call.arguments})`);
      if (calls.length) part(told, ".said").textContent = [told.text, ...calls].filter(Boolean).join("\n");
      const note = [told.completion_tokens ? `${told.completion_tokens} tokens` : "", `${told.seconds.toFixed(2)} s`,
        told.first_token_seconds === null ? "" : `first after ${told.first_token_seconds.toFixed(2)} s`, told.finish_reason || ""];
      part(told, "small").textContent = told.error ? both(told.error.message, told.error.message_zh) : note.filter(Boolean).join(", ");
      part(told, "small").classList.toggle("bad", Boolean(told.error));
    },
    difference: (told) => {
      part(told, ".said").replaceChildren(...told.changes.filter((change) => change.op !== "removed")
        .map((change) => (change.op === "added" ? element("ins", {}, change.text) : change.text)));
      part(told, "small").textContent += told.is_same ? ", the same" : `, ${percent(told.similarity, 0)} alike`;
    },
    done: ({ summary }) => summary.forEach((told) => {
      const failed = told.num_failed ? `, ${told.num_failed} failed` : "";
      const times = told.num_answers ? `, ${told.completion_tokens} tokens, ${number(told.mean_seconds, 2)} s each${told.tokens_per_second ? `, ${told.tokens_per_second} tok/s` : ""}` : "";
      feet[told.column].textContent = `${told.num_answers} answers${failed}${times}`;
    }),
  };
}
