"use strict";

const at = (id) => document.getElementById(id);
const colours = new Map(); // the colour of a label, the same in all answers
let about;
let stopping = null;

// Everything that comes from a text or a model is set as text, never as markup.
function element(name, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const ms = (time) => `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
const middle = (values) => {
  const sorted = [...values].sort((one, other) => one - other);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
};
const lines = (text) => text.split(/\r?\n/).filter((line) => line.trim());

async function begin() {
  about = await (await fetch("/about")).json();
  for (const model of about.models) {
    const more = model.labels ? `, ${model.labels} classes` : "";
    at("models").append(element("dt", model.role), element("dd", `${model.name} (${about.kind}${more}; ${model.form})`));
  }
  if (about.pairs === "context") {
    at("first").querySelector("span").textContent = "Questions, one a line";
    at("second").querySelector("span").textContent = "The text that holds the answers";
  }
  const given = new URLSearchParams(location.search);
  at("texts").value = given.get("text") ?? "";
  at("pairs").value = given.get("pair") ?? "";
  at("choice").hidden = about.pairs !== "possible";
  at("both").checked = at("pairs").value !== "";
  showBoxes();
  if (at("texts").value) await ask();
}

function showBoxes() {
  at("second").hidden = !(about.pairs === "context" || (about.pairs === "possible" && at("both").checked));
}

// The texts to ask about, as [text, second text or null]; a tab separates the two in one line, as for serve.py.
function asked() {
  const texts = lines(at("texts").value);
  if (about.pairs === "context") return texts.map((text) => [text, at("pairs").value]);
  if (at("second").hidden) {
    return texts.map((line) => {
      const place = about.pairs === "none" ? -1 : line.indexOf("\t");
      return place < 0 ? [line, null] : [line.slice(0, place), line.slice(place + 1)];
    });
  }
  const pairs = lines(at("pairs").value);
  if (pairs.length !== texts.length) {
    throw new Error(`${texts.length} first and ${pairs.length} second texts; give each text its second, line by line`);
  }
  return texts.map((text, place) => [text, pairs[place]]);
}

async function ask() {
  at("message").textContent = at("summary").textContent = "";
  at("answers").replaceChildren();
  let texts;
  try {
    texts = asked();
  } catch (error) {
    at("message").textContent = error.message;
    return;
  }
  stopping?.abort();
  const mine = new AbortController();
  stopping = mine;
  at("stop").hidden = false;
  const times = about.models.map(() => []);
  let differ = 0;
  let asks = 0;
  for (const [text, pair] of texts) {
    try {
      const response = await fetch("/answer", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ text, pair }),
        signal: mine.signal,
      });
      const found = await response.json();
      if (found.error) throw new Error(found.error);
      differ += found.differ;
      asks += found.replies[0].asks;
      found.replies.forEach((reply, place) => times[place].push(reply.ms));
      at("answers").append(drawn(text, pair, found));
      summarise(texts.length, times, differ, asks);
    } catch (error) {
      if (mine.signal.aborted) break;
      at("message").textContent = error instanceof TypeError ? "the server does not answer; is it still running?" : error.message;
      break;
    }
  }
  if (stopping === mine) at("stop").hidden = true;
}

function summarise(count, times, differ, asks) {
  const done = times[0].length;
  const parts = [`${done === count ? "" : `${done} of `}${count} ${count === 1 ? "text" : "texts"}`];
  if (about.models.length > 1 && done) parts.push(differ ? `the models differ on ${differ}` : "the models agree");
  if (asks) parts.push(`the teacher is asked about ${asks}`);
  const medians = about.models.map((model, place) => `${model.role} ${ms(middle(times[place]))}`);
  parts.push(`${done > 1 ? "median " : ""}${medians.join(", ")}`);
  at("summary").textContent = parts.join("; ");
}

function drawn(text, pair, found) {
  const row = element("article", "", found.differ ? "differ" : "");
  row.append(element("p", text));
  if (pair !== null && about.pairs !== "context") row.append(element("p", pair, "second"));
  const sides = element("div", "", "sides");
  found.replies.forEach((reply, place) => sides.append(side(about.models[place], reply)));
  row.append(sides);
  return row;
}

function side(model, reply) {
  const made = element("section");
  const head = element("h2");
  head.append(element("span", model.role), element("span", ms(reply.ms)));
  made.append(head);
  if (reply.pieces.length) {
    const text = element("p", "", "pieces");
    for (const piece of reply.pieces) text.append(piece.label === null ? piece.text : marked(piece));
    made.append(text);
    if (about.pairs === "context" || !reply.pieces.some((piece) => piece.label !== null)) made.append(element("p", reply.said, "said"));
  } else {
    made.append(element("p", reply.said, "said"));
  }
  if (reply.shares.length) made.append(bars(reply.shares));
  if (reply.note) made.append(element("p", reply.note, "aside"));
  return made;
}

function marked(piece) {
  if (!colours.has(piece.label)) colours.set(piece.label, `k${colours.size % 5}`);
  const made = element("mark", piece.text, colours.get(piece.label));
  made.append(element("small", piece.share === null ? piece.label : `${piece.label} ${percent(piece.share)}`));
  return made;
}

function bars(shares) {
  const made = element("dl", "", "shares");
  for (const [label, share] of shares) {
    const name = element("dt", label);
    name.title = label;
    const bar = element("meter");
    bar.value = share;
    bar.setAttribute("aria-hidden", "true");
    const cell = element("dd");
    cell.append(bar);
    made.append(name, cell, element("dd", percent(share)));
  }
  return made;
}

at("both").addEventListener("change", showBoxes);
at("stop").addEventListener("click", () => stopping?.abort());
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
});
begin();
