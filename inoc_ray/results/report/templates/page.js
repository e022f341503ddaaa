"use strict";
// Without this script the page has everything but sorting and the browser of samples. Whatever a model wrote is only ever set as
// the text of a node.

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
const data = document.getElementById("samples-data");
if (data) load(data.textContent.trim()).then(browse, (error) => say(`The samples cannot be shown: ${error.message}`));

function makeSortable(table) {
  const body = table.tBodies[0];
  if (!body || body.rows.length < 2) return;
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent || "mark";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = [...body.rows].map((row, at) => [valueOf(row.cells[head.cellIndex].textContent), at, row]);
      keyed.sort((a, b) => order(a[0], b[0], down ? -1 : 1) || a[1] - b[1]);
      body.append(...keyed.map((entry) => entry[2]));
    });
  }
}

// The number at the start of a cell, such as ".95 [.84, 1.04]", "< .001", "1,200 of 2,000"; else its text.
function valueOf(text) {
  const found = /^[<(]?\s*([-−]?[\d,]*\.?\d+)/.exec(text.trim());
  return found ? Number(found[1].replaceAll(",", "").replace("−", "-")) : text.trim();
}

// Numbers before texts; dashes and blanks last, whichever way the column is sorted.
function order(a, b, sign) {
  const empty = (value) => value === "" || value === "–" || (typeof value === "string" && value.startsWith("– "));
  if (empty(a) || empty(b)) return empty(a) - empty(b);
  if (typeof a === typeof b) return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
  return typeof a === "number" ? -1 : 1;
}

function say(text) {
  document.getElementById("found").textContent = text;
}

async function load(text) {
  if (!("DecompressionStream" in window)) throw new Error("this browser cannot unpack them; a later version can.");
  const unpacked = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(unpacked).json();
}

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

function browse(content) {
  const PAGE = 20, SIDE = 8;
  const form = document.getElementById("browser"), shown = document.getElementById("shown");
  const fields = form.elements;
  const groupOf = (cell) => `${cell.setting} · ${cell.model}`;
  const seedOf = (cell) => (cell.seed === null ? "base" : String(cell.seed));
  const distinct = (values) => [...new Set(values)];
  const words = { y: "yes", n: "no", u: "unparsed", x: "not counted", w: "withheld", "-": "not judged" };
  const questions = folded(content.questions), responses = folded(content.responses);
  const scored = content.cells.some((cell) => Object.keys(cell.s).length);
  let hits = [], at = 0, timer = 0;

  // Texts as a search sees them: in lower case, made while nobody waits or at the first search. Which of them have the words is kept until the words
  // change; with more letters only those are looked at that had the fewer.
  function folded(texts) {
    let lower = null, last = null, found = null;
    setTimeout(() => (lower ??= texts.map((text) => text.toLowerCase())), 300);
    return (search) => {
      if (search === last) return found;
      lower ??= texts.map((text) => text.toLowerCase());
      const before = last !== null && search.startsWith(last) ? found : null;
      const now = new Uint8Array(texts.length);
      for (let i = 0; i < now.length; i++) now[i] = (!before || before[i]) && lower[i].includes(search) ? 1 : 0;
      [last, found] = [search, now];
      return found;
    };
  }

  function fill(select, values, any) {
    const before = select.value;
    select.replaceChildren(...(any ? [new Option(any, "")] : []), ...values.map((value) => new Option(value, value)));
    if (values.includes(before)) select.value = before;
  }

  function arms() {
    const own = content.cells.filter((cell) => groupOf(cell) === fields.group.value);
    const names = distinct(own.map((cell) => cell.arm));
    const pair = fields.mode.value === "pair";
    fill(fields.arm, names, pair ? "" : "all");
    fill(fields.other, names, "");
    if (pair && fields.arm.value === fields.other.value) {
      fields.other.value = names.find((name) => name !== fields.arm.value && name !== "base") ?? fields.arm.value;
    }
    fill(fields.evaluation, distinct(own.map((cell) => cell.evaluation)), "all");
    fill(fields.context, distinct(own.map((cell) => cell.context)), "all");
    fill(fields.seed, distinct(own.filter((cell) => cell.seed !== null).map(seedOf)), "all");
    fill(fields.trait, distinct(own.flatMap((cell) => Object.keys(cell.v))), "any");
    for (const label of form.querySelectorAll("[data-pair]")) label.hidden = !pair;
  }

  // Which samples of a cell pass, by place; the filters of the cell itself were applied before.
  function passing(wanted) {
    const { search, trait, verdict, low, high } = wanted;
    const inQuestion = search && questions(search), inResponse = search && responses(search);
    return (cell, i) => {
      if (search && !inQuestion[cell.q[i]] && !inResponse[cell.r[i]]) return false;
      const traits = trait ? [trait] : Object.keys(cell.v);
      if (verdict && !traits.some((name) => cell.v[name]?.[i] === verdict)) return false;
      if (low === null && high === null) return true;
      return traits.some((name) => {
        const score = cell.s[name]?.[i] ?? null;
        return score !== null && (low === null || score >= low) && (high === null || score <= high);
      });
    };
  }

  function wantedNow() {
    const numberIn = (field) => (field.value === "" ? null : Number(field.value));
    return {
      search: fields.search.value.trim().toLowerCase(), trait: fields.trait.value, verdict: fields.verdict.value,
      low: numberIn(fields.low), high: numberIn(fields.high),
    };
  }

  function cellsOf(arm) {
    return content.cells.filter((cell) => groupOf(cell) === fields.group.value && (!arm || cell.arm === arm)
      && (!fields.evaluation.value || cell.evaluation === fields.evaluation.value)
      && (!fields.context.value || cell.context === fields.context.value)
      // The base has no seed: it is beside every one.
      && (!fields.seed.value || cell.seed === null || seedOf(cell) === fields.seed.value)
      && (!fields.trait.value || fields.trait.value in cell.v));
  }

  function filter() {
    const pass = passing(wantedNow());
    hits = [];
    at = 0;
    if (fields.mode.value === "pair") {
      hits = pairs(pass);
      say(`${hits.length.toLocaleString("en")} questions.`);
    } else {
      for (const cell of cellsOf(fields.arm.value)) {
        for (let i = 0; i < cell.r.length; i++) if (pass(cell, i)) hits.push([cell, i]);
      }
      say(`${hits.length.toLocaleString("en")} responses.`);
    }
    draw();
  }

  // Questions that both arms were asked and of which a response passes, with all responses of both sides.
  function pairs(pass) {
    const asked = new Map(), evaluations = distinct(content.cells.map((cell) => cell.evaluation));
    [fields.arm.value, fields.other.value].forEach((arm, side) => {
      for (const cell of cellsOf(arm)) {
        const first = evaluations.indexOf(cell.evaluation) * content.questions.length;
        for (let i = 0; i < cell.r.length; i++) {
          const key = first + cell.q[i];
          let entry = asked.get(key);
          if (!entry) asked.set(key, (entry = { question: cell.q[i], evaluation: cell.evaluation, sides: [[], []], passes: false }));
          entry.sides[side].push([cell, i]);
          entry.passes ||= pass(cell, i);
        }
      }
    });
    return [...asked.values()].filter((entry) => entry.passes && entry.sides[0].length && entry.sides[1].length);
  }

  function node(tag, name, text) {
    const made = document.createElement(tag);
    made.className = name;
    if (text !== undefined) marked(made, text);
    return made;
  }

  // The text, with the words of the search marked.
  function marked(parent, text) {
    const search = fields.search.value.trim().toLowerCase(), lower = text.toLowerCase();
    // A few letters change their length with their case: then places do not agree, and nothing is marked.
    let from = 0, to = search && lower.length === text.length ? lower.indexOf(search) : -1;
    while (to >= 0) {
      parent.append(text.slice(from, to), Object.assign(document.createElement("mark"), { textContent: text.slice(to, to + search.length) }));
      from = to + search.length;
      to = lower.indexOf(search, from);
    }
    parent.append(text.slice(from));
  }

  function response([cell, i], whole) {
    const made = document.createElement("article");
    const seed = cell.seed === null ? "" : ` · seed ${cell.seed}`;
    const where = whole ? `${cell.arm}${seed} · ${cell.evaluation} · ${cell.context}` : `${cell.arm}${seed} · ${cell.context}`;
    made.append(node("p", "where", where));
    if (whole) made.append(node("p", "asked", content.questions[cell.q[i]]));
    made.append(node("p", "said", content.responses[cell.r[i]] || "(empty)"));
    const verdicts = Object.entries(cell.v).map(([trait, codes]) => {
      const score = cell.s[trait]?.[i];
      return `${trait}: ${words[codes[i]]}${score === undefined || score === null ? "" : ` (${score})`}`;
    });
    made.append(node("p", "where", verdicts.join(" · ")));
    if (cell.w.length && content.words[cell.w[i]]) made.append(node("p", "where said", content.words[cell.w[i]]));
    return made;
  }

  function side(found) {
    const made = document.createElement("div");
    made.append(...found.slice(0, SIDE).map((one) => response(one, false)));
    if (found.length > SIDE) made.append(node("p", "where", `and ${found.length - SIDE} more: choose a context or a seed`));
    return made;
  }

  function draw() {
    const items = hits.slice(at * PAGE, (at + 1) * PAGE).map((hit) => {
      const item = document.createElement("li");
      if (Array.isArray(hit)) item.append(response(hit, true));
      else {
        const sides = node("div", "sides");
        sides.append(...hit.sides.map(side));
        item.append(node("p", "where", hit.evaluation), node("p", "asked", content.questions[hit.question]), sides);
      }
      return item;
    });
    shown.replaceChildren(...items);
    const last = Math.max(0, Math.ceil(hits.length / PAGE) - 1);
    document.getElementById("page").textContent = `page ${(at + 1).toLocaleString("en")} of ${(last + 1).toLocaleString("en")}`;
    document.getElementById("back").disabled = at === 0;
    document.getElementById("on").disabled = at >= last;
  }

  function turn(by) {
    at += by;
    draw();
    shown.scrollIntoView();
  }

  fill(fields.group, distinct(content.cells.map(groupOf)), "");
  fields.group.parentElement.hidden = fields.group.options.length < 2;
  for (const label of form.querySelectorAll("[data-score]")) label.hidden = !scored;
  arms();
  form.addEventListener("change", (event) => {
    if (event.target.tagName !== "SELECT") return;
    if (event.target === fields.mode || event.target === fields.group) arms();
    filter();
  });
  form.addEventListener("input", (event) => {
    if (event.target.tagName === "SELECT") return;
    clearTimeout(timer);
    timer = setTimeout(filter, 80);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { arms(); filter(); }));
  document.getElementById("back").addEventListener("click", () => turn(-1));
  document.getElementById("on").addEventListener("click", () => turn(1));
  for (const id of ["browser", "shown", "pages"]) document.getElementById(id).hidden = false;
  document.getElementById("examples")?.setAttribute("hidden", "");
  filter();
}
