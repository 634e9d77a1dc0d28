"use strict";
const make = (tag, text, parent, kind) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (kind) made.className = kind;
  if (parent) parent.append(made);
  return made;
};
const rows = (title, entries, parent) => {
  if (!entries.length) return;
  make("h4", title, parent);
  const table = make("table", "", parent);
  for (const entry of entries) {
    const row = make("tr", "", table);
    make("code", entry[0], make("td", "", row));
    make("td", entry[1], row);
  }
};
const show = (schema) => {
  const main = document.getElementById("routes");
  const resolve = (part) => part && part.$ref ? schema.components.schemas[part.$ref.split("/").pop()] : part;
  for (const [path, methods] of Object.entries(schema.paths)) {
    for (const [method, route] of Object.entries(methods)) {
      const box = make("details", "", main);
      const head = make("summary", "", box);
      make("span", method.toUpperCase(), head, "method");
      make("code", path, head);
      make("span", " \u2014 " + route.summary, head);
      make("p", route.description || "", box);
      rows("Parameters", (route.parameters || []).map((p) => [p.name + " (" + p.in + ")", p.description || ""]), box);
      const body = route.requestBody && resolve(route.requestBody.content["application/json"].schema);
      if (body) make("pre", JSON.stringify(body, null, 2), make("div", "", box));
      rows("Answers", Object.entries(route.responses).map(([status, told]) => [status, told.description]), box);
    }
  }
  make("h2", "Schemas", main);
  for (const [name, part] of Object.entries(schema.components.schemas)) {
    const box = make("details", "", main);
    make("summary", name, box);
    make("pre", JSON.stringify(part, null, 2), box);
  }
};
fetch("/openapi.json").then((answer) => answer.json()).then(show);
