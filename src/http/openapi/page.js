// Shows /openapi.json, and sends the requests that it describes to the node that served this page.
"use strict";

const RESPONSE_CHARS_MAX = 200000;
const byId = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// The text with what stands between backticks as code.
function words(text) {
  const parts = String(text || "").split("`");
  return parts.map((part, place) => (place % 2 ? make("code", {}, part) : part));
}

function resolve(document, schema) {
  const seen = new Set();
  while (schema && schema.$ref && !seen.has(schema.$ref)) {
    seen.add(schema.$ref);
    schema = schema.$ref.slice(2).split("/").reduce((at, step) => at[step], document);
  }
  return schema || {};
}

// The schema, or the first of several that it allows.
function main(document, schema) {
  const it = resolve(document, schema);
  return it.anyOf ? resolve(document, it.anyOf[0]) : it;
}

// A short name of what a schema allows.
function kind(document, schema) {
  const it = main(document, schema);
  if (it.type === "array" && it.items) return `${kind(document, it.items)}, repeatable`;
  if (it.enum) return it.enum.join(" | ");
  const type = [].concat(it.type || "any").join(" | ");
  const limits = [];
  if (it.minimum !== undefined && it.maximum !== undefined) limits.push(`${it.minimum} to ${it.maximum}`);
  if (it.maxLength !== undefined) limits.push(`at most ${it.maxLength} characters`);
  return [type, ...limits].join(", ");
}

function bodyOf(document, operation) {
  if (!operation.requestBody) return null;
  const [type, media] = Object.entries(operation.requestBody.content)[0];
  const schema = resolve(document, media.schema);
  const example = schema.example === undefined ? "" : JSON.stringify(schema.example, null, 2);
  const area = make("textarea", { spellcheck: "false", "aria-label": "Request body" });
  area.value = example;
  const names = Object.entries(schema.properties || {}).map(([name, of]) => {
    const needed = (schema.required || []).includes(name) ? ", required" : "";
    return make("li", {}, make("code", {}, name), ` ${kind(document, of)}${needed}`);
  });
  return { type, area, names, types: Object.keys(operation.requestBody.content) };
}

function parameterRow(document, parameter) {
  const schema = main(document, parameter.schema);
  let field;
  if (schema.type === "boolean" || schema.enum) {
    const values = schema.enum || ["true", "false"];
    field = make("select", {}, make("option", { value: "" }, ""), ...values.map((it) => make("option", {}, it)));
  } else {
    const items = resolve(document, schema.items);
    field = make("input", { placeholder: schema.example || items.example || schema.default || "", autocomplete: "off" });
  }
  field.setAttribute("aria-label", parameter.name);
  const row = make("tr", {},
    make("td", {}, make("code", {}, parameter.name), parameter.required ? " required" : ""),
    make("td", {}, field),
    make("td", {}, ...words(parameter.description), make("div", { class: "faint" }, `${parameter.in}: ${kind(document, parameter.schema)}`)));
  return { parameter, field, row };
}

function target(path, rows) {
  let url = path;
  const query = new URLSearchParams();
  const headers = {};
  for (const { parameter, field } of rows) {
    const value = field.value;
    if (parameter.in === "path") {
      const given = value || field.placeholder;
      if (!given) throw new Error(`${parameter.name} is needed`);
      url = url.replace(`{${parameter.name}}`, encodeURIComponent(given));
    } else if (value !== "") {
      if (parameter.in === "query") query.append(parameter.name, value);
      else headers[parameter.name] = value;
    }
  }
  const text = query.toString();
  return { url: text ? `${url}?${text}` : url, headers };
}

async function show(response, output) {
  const lines = [`HTTP ${response.status} ${response.statusText}`];
  for (const [name, value] of response.headers) lines.push(`${name}: ${value}`);
  output.textContent = `${lines.join("\n")}\n\n`;
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let left = RESPONSE_CHARS_MAX;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    output.append(value.slice(0, left));
    left -= value.length;
    if (left <= 0) {
      output.append("\n... the rest is not shown");
      await reader.cancel();
      return;
    }
  }
}

function tryIt(method, path, rows, body) {
  const output = make("pre", { hidden: true, "aria-live": "polite" });
  const send = make("button", { class: "send", type: "button" }, "Send");
  const stop = make("button", { type: "button", hidden: true }, "Stop");
  let controller = null;
  stop.addEventListener("click", () => controller && controller.abort());
  send.addEventListener("click", async () => {
    if (controller) controller.abort();
    const own = (controller = new AbortController());
    output.hidden = false;
    stop.hidden = false;
    output.textContent = "";
    try {
      const { url, headers } = target(path, rows);
      const token = byId("token").value.trim();
      if (token) headers.Authorization = `Bearer ${token}`;
      const options = { method, headers, signal: own.signal };
      if (body && body.area.value.trim() !== "") {
        options.body = body.area.value;
        headers["Content-Type"] = body.type;
      }
      await show(await fetch(url, options), output);
    } catch (error) {
      output.append(own.signal.aborted ? "\nstopped" : `\n${error}`);
    }
    if (controller === own) {
      controller = null;
      stop.hidden = true;
    }
  });
  return [make("div", { class: "bar" }, send, stop), output];
}

function details(document, method, path, item, operation) {
  const inside = make("div", { class: "inside" });
  if (operation.description) inside.append(make("p", {}, ...words(operation.description)));
  if (operation.security) inside.append(make("p", { class: "faint" }, "Needs a token."));
  const parameters = [...(item.parameters || []), ...(operation.parameters || [])];
  const rows = parameters.map((parameter) => parameterRow(document, parameter));
  if (rows.length) {
    const head = make("thead", {}, make("tr", {}, make("th", {}, "parameter"), make("th", {}, "value"), make("th", {}, "meaning")));
    inside.append(make("table", {}, head, make("tbody", {}, ...rows.map((it) => it.row))));
  }
  const body = bodyOf(document, operation);
  if (body) {
    inside.append(make("h3", {}, `Body: ${body.types.join(" or ")}`), body.area);
    if (body.names.length) inside.append(make("ul", {}, ...body.names));
  }
  inside.append(...tryIt(method.toUpperCase(), path, rows, body), make("h3", {}, "Answers"));
  const answers = Object.entries(operation.responses).map(([status, response]) => {
    const types = Object.keys(response.content || {}).join(", ");
    return make("tr", {}, make("td", {}, make("code", {}, status)), make("td", {}, ...words(response.description)), make("td", { class: "faint" }, types));
  });
  inside.append(make("table", {}, make("tbody", {}, ...answers)));
  return inside;
}

function card(document, method, path, item, operation) {
  const summary = make("summary", {},
    make("span", { class: `method ${method}` }, method.toUpperCase()),
    make("span", { class: "path" }, path),
    make("span", { class: "says" }, ...words(operation.summary)));
  const element = make("details", { class: "operation", id: operation.operationId }, summary);
  element.dataset.words = [method, path, operation.summary, ...(operation.parameters || []).map((it) => it.name)].join(" ").toLowerCase();
  element.addEventListener("toggle", () => {
    if (element.open && !element.querySelector(".inside")) element.append(details(document, method, path, item, operation));
  });
  return element;
}

function render(document) {
  byId("version").textContent = document.info.version;
  byId("about").textContent = document.info.description;
  const groups = new Map(document.tags.map((tag) => [tag.name, make("section", {}, make("h2", {}, tag.name), make("p", { class: "faint" }, ...words(tag.description)))]));
  for (const [path, item] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      if (method !== "parameters") groups.get(operation.tags[0]).append(card(document, method, path, item, operation));
    }
  }
  byId("operations").replaceChildren(...groups.values());
  byId("find").addEventListener("input", () => {
    const sought = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const section of groups.values()) {
      let shown = 0;
      for (const element of section.querySelectorAll(".operation")) {
        element.hidden = !sought.every((word) => element.dataset.words.includes(word));
        shown += element.hidden ? 0 : 1;
      }
      section.hidden = shown === 0;
    }
  });
  const asked = location.hash && byId(location.hash.slice(1));
  if (asked) {
    asked.open = true;
    asked.scrollIntoView();
  }
}

/** What needs storage: a browser that keeps nothing refuses it at any time. Then the reader types the token in, for this page alone. */
function ifKept(act) {
  try {
    act();
  } catch {
    // Nothing is kept.
  }
}

// The theme of the dashboard, and the token of this tab, which the dashboard has from here as well.
ifKept(() => {
  document.documentElement.dataset.theme = localStorage.getItem("dynarust.theme") || "system";
  byId("token").value = sessionStorage.getItem("dynarust.token") || "";
});
byId("token").addEventListener("change", () => ifKept(() => sessionStorage.setItem("dynarust.token", byId("token").value.trim())));

fetch("/openapi.json")
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`HTTP ${response.status}`))))
  .then(render)
  .catch((error) => { byId("operations").textContent = `The description cannot be read: ${error}`; });
