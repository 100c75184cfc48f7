"use strict";

// Reads /openapi.json and lists its routes. Text goes into the page as text, never as HTML.

const EXAMPLES = {
  ChatCompletionRequest: { messages: [{ role: "user", content: "Say hello." }], max_tokens: 32 },
  CompletionRequest: { prompt: "The capital of France is", max_tokens: 8 },
};

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const variants = schema.anyOf || schema.oneOf;
  if (variants) return variants.map(typeOf).join(" | ");
  if (schema.type === "array") return `list of ${typeOf(schema.items || {})}`;
  if (schema.type === "object" && typeof schema.additionalProperties === "object") {
    return `object of ${typeOf(schema.additionalProperties)}`;
  }
  return schema.type || "any";
}

const BOUNDS = {
  minimum: "≥ ", exclusiveMinimum: "> ", maximum: "≤ ", exclusiveMaximum: "< ",
  minLength: "length ≥ ", maxLength: "length ≤ ", minItems: "items ≥ ", maxItems: "items ≤ ",
  maxProperties: "entries ≤ ", pattern: "matches ",
};

function boundsOf(schema) {
  const found = [];
  for (const variant of [schema, ...(schema.anyOf || []), ...(schema.oneOf || [])]) {
    for (const [key, sign] of Object.entries(BOUNDS)) {
      if (variant[key] !== undefined) found.push(sign + variant[key]);
    }
  }
  return [...new Set(found)].join(", ");
}

function fields(schema, schemas) {
  const rows = Object.entries(schema.properties || {}).map(([name, property]) => {
    const required = (schema.required || []).includes(name);
    return element("tr", {},
      element("td", {}, element("code", {}, name), required ? element("span", { class: "required" }, " required") : ""),
      element("td", {}, typeOf(property)),
      element("td", {}, boundsOf(property)),
      element("td", {}, property.description || ""));
  });
  const head = element("tr", {}, ...["field", "type", "bounds", ""].map((text) => element("th", {}, text)));
  return element("table", {}, head, ...rows);
}

async function call(method, path, text, output) {
  output.textContent = "…";
  try {
    const options = { method, headers: {} };
    if (text !== null) {
      options.headers["Content-Type"] = "application/json";
      options.body = text;
    }
    const reply = await fetch(path, options);
    output.textContent = `${reply.status}\n`;
    const reader = reply.body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      output.textContent += decoder.decode(value, { stream: true });
    }
  } catch (error) {
    output.textContent += String(error);
  }
}

function operation(path, method, item, schemas) {
  const body = element("div", { class: "body" });
  const request = item.requestBody?.content["application/json"].schema.$ref?.split("/").pop();
  let input = null;
  if (request) {
    body.append(fields(schemas[request], schemas));
    input = element("textarea", { "aria-label": "Request body", spellcheck: "false" });
    input.value = JSON.stringify(EXAMPLES[request] || {}, null, 2);
    body.append(element("p", {}, "Try it:"), input);
  }
  const statuses = Object.entries(item.responses).map(([status, response]) =>
    element("tr", {}, element("td", {}, element("code", {}, status)), element("td", {}, response.description)));
  const output = element("pre", { hidden: "" });
  const send = element("button", { onclick: () => {
    output.hidden = false;
    call(method.toUpperCase(), path, input ? input.value : null, output);
  } }, "Send");
  if (!path.includes("{")) body.append(send, output);
  body.append(element("table", {}, ...statuses));
  return element("details", {},
    element("summary", {},
      element("span", { class: "method" }, method.toUpperCase()),
      element("code", {}, path),
      element("span", { class: "summary" }, item.summary || "")),
    body);
}

async function show() {
  const target = document.getElementById("routes");
  try {
    const reply = await fetch("/openapi.json");
    if (!reply.ok) throw new Error(`/openapi.json answered ${reply.status}`);
    const document_ = await reply.json();
    document.getElementById("title").textContent = document_.info.title;
    document.getElementById("about").textContent = document_.info.description || "";
    const groups = new Map();
    for (const [path, methods] of Object.entries(document_.paths)) {
      for (const [method, item] of Object.entries(methods)) {
        const tag = (item.tags || ["other"])[0];
        if (!groups.has(tag)) groups.set(tag, []);
        groups.get(tag).push(operation(path, method, item, document_.components.schemas));
      }
    }
    target.replaceChildren(...[...groups].flatMap(([tag, nodes]) => [element("h2", {}, tag), ...nodes]));
  } catch (error) {
    target.replaceChildren(element("p", {}, `The document can't be read: ${error.message}`));
  }
}

show();
