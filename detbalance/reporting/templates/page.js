"use strict";
// What the reader does: choose a class, filter, switch the theme, print.

let chosenClass = -1;
const TABLES = [];

function choose(i, scroll) {
  chosenClass = i;
  byId("class").value = String(i);
  for (const line of document.querySelectorAll("tr.chosen")) line.classList.remove("chosen");
  for (const line of document.querySelectorAll(`tr[data-row="${i}"]`)) line.classList.add("chosen");
  for (const side of ["left", "right"]) {
    const view = VIEWS[`imbalance-${side}`];
    if (view) view.signal("selected", i).run();
  }
  redraw("curves", { chosen: DATA.runs.flatMap((_, run) => curveRows(i, run, { color: COLOR_OF_RUN[run ? "baseline" : "this run"] })).reverse() });
  redraw("scores", { bins: binRows(i, 0), bins_before: lineRows(i) });
  byId("class-facts").textContent = [
    CLASSES.group[i], known(CLASSES.train_boxes[i]) ? `${whole(CLASSES.train_boxes[i])} boxes in training` : null,
    `${whole(CLASSES.val_boxes[i])} to find`,
    ...["AP50", "recall"].filter((key) => RUN.figures[key]).map((key) => {
      const { ours, old } = values(key);
      return `${key} ${COMPARED ? `${decimals(old[i])} \u2192 ` : ""}${decimals(ours[i])}`;
    }),
  ].filter(known).join(", ");
  describeConfusion(i);
  if (scroll) byId("one").scrollIntoView({ behavior: "smooth", block: "start" });
}

function describeConfusion(i) {
  const cells = RUN.confusion;
  const list = (picked, other, title) => {
    const parts = cells.filter(picked).slice(0, 8).map((cell) => `${className(other(cell))} (${whole(cell[2])})`);
    return parts.length ? make("p", {}, make("span", { class: "old" }, `${title}: `), parts.join(", ")) : "";
  };
  byId("class-confusion").replaceChildren(...[
    list((cell) => cell[0] === i && cell[1] >= 0, (cell) => cell[1], "Its boxes were also found as"),
    list((cell) => cell[1] === i && cell[0] >= 0, (cell) => cell[0], "Its detections were really"),
  ].filter((part) => part !== ""));
}

function setUpTable() {
  const shown = new Set(COMPARED ? ["AP50", "recall"] : ["AP", "AP50", "AR", "recall", "precision"]);
  if (COMPARED && Object.keys(DATA.differences).length && !DATA.differences.AP50) shown.add(Object.keys(DATA.differences)[0]);
  const rows = [...CLASSES.name.keys()];
  const table = new SortedTable(byId("table"), byId("more"), classColumns(shown), {
    rows, onRow: (line, i) => line.classList.toggle("chosen", i === chosenClass),
  });
  TABLES.push(table);
  const status = (drawn, count) => {
    byId("shown").textContent = drawn < NUMBER ? `${whole(drawn)} of ${whole(count)}${count < NUMBER ? " found" : ""}` : `${whole(NUMBER)} classes`;
  };
  table.onDraw = status;
  status(Math.min(table.limit, NUMBER), NUMBER);
  let group = null;
  const refresh = () => {
    const wanted = byId("search").value.trim().toLocaleLowerCase();
    table.filter((i) => (!group || CLASSES.group[i] === group) && CLASSES.name[i].toLocaleLowerCase().includes(wanted));
  };
  byId("search").addEventListener("input", refresh);
  const present = ["rare", "common", "frequent"].filter((name) => CLASSES.group.includes(name));
  const chips = present.length ? [null, ...present].map((name) => {
    const chip = make("button", { type: "button", "aria-pressed": String(name === group) },
      name ? make("span", { class: `mark ${name}` }) : "", name || "all");
    chip.addEventListener("click", () => {
      group = name;
      chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
      refresh();
    });
    return chip;
  }) : [];
  byId("groups").append(...chips);
  byId("columns").querySelector("div").append(...FIGURES.map(({ key, title, help }) => {
    const box = make("input", { type: "checkbox", checked: shown.has(key) });
    box.addEventListener("change", () => {
      if (box.checked) shown.add(key); else shown.delete(key);
      table.setColumns(classColumns(shown));
    });
    return make("label", { title: help }, box, ` ${title}`);
  }));
  const hasIntervals = Object.keys(RUN.intervals).length || Object.keys(DATA.differences).length;
  byId("table-legend").textContent = COMPARED
    ? `Difference: this run less the baseline${hasIntervals && Object.keys(DATA.differences).length ? "; the line is its interval, bold where that leaves out 0" : ""}.`
    : `Lines run from 0 to 1${hasIntervals ? "; the thick part is the interval" : ""}. A dash: undefined, counted in no mean.`;
}

function setUpErrors() {
  if (!RUN.errors.missed) { byId("errors").hidden = true; return; }
  const total = (i) => KINDS.reduce((sum, kind) => sum + (RUN.errors[kind].cost[i] || 0), 0);
  const rows = [...CLASSES.name.keys()].filter((i) => CLASSES.val_boxes[i] > 0 || KINDS.some((kind) => RUN.errors[kind].count[i]));
  if (rows.length > 40) rows.sort((a, b) => total(b) - total(a) || a - b);
  TABLES.push(new SortedTable(byId("errors-table"), byId("errors-more"), errorColumns(), { rows, first: 40 }));
}

function setUpConfusion() {
  const cells = RUN.confusion;
  if (!cells.length) { byId("confusion").hidden = true; return; }
  const before = new Map(BEFORE ? BEFORE.confusion.map(([real, found, count]) => [`${real} ${found}`, count]) : []);
  const text = (place, title, ascending) => ({
    key: title, title, ascending, name: place === 0, value: (row) => className(cells[row][place]),
    cell: (row) => make(place ? "td" : "th", { class: "name", scope: place ? null : "row" },
      make("bdi", { class: "pick", title: className(cells[row][place]) }, shorten(className(cells[row][place]), 40))),
  });
  const columns = [text(0, "true class", true), text(1, "found as", true),
    { key: "n", title: "count", value: (row) => cells[row][2], cell: (row) => make("td", {}, whole(cells[row][2])) }];
  if (BEFORE) {
    const old = (row) => before.get(`${cells[row][0]} ${cells[row][1]}`);
    columns.push({ key: "old", title: "baseline", value: old, cell: (row) => make("td", { class: "old" }, known(old(row)) ? whole(old(row)) : "-") });
  }
  TABLES.push(new SortedTable(byId("confusion-table"), byId("confusion-more"), columns, { rows: [...cells.keys()], first: 15 }));
}

function setUpClasses() {
  byId("class").append(...["rare", "common", "frequent", null].flatMap((group) => {
    const places = [...CLASSES.name.keys()].filter((i) => (CLASSES.group[i] || null) === group);
    const options = places.map((i) => make("option", { value: i }, shorten(CLASSES.name[i], 60)));
    return options.length ? [make("optgroup", { label: group || "classes" }, ...options)] : [];
  }));
  byId("class").addEventListener("change", () => choose(Number(byId("class").value), false));
  byId("previous").addEventListener("click", () => choose((chosenClass + NUMBER - 1) % NUMBER, false));
  byId("next").addEventListener("click", () => choose((chosenClass + 1) % NUMBER, false));
  for (const id of ["curves", "scores"]) byId(`${id}-box`).hidden = !SPECS[id];
}

function setUpTheme() {
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { byId("theme").textContent = isDark() ? "Light" : "Dark"; };
  try { const kept = localStorage.getItem("detbalance-theme"); if (kept) root.dataset.theme = kept; } catch { /* files may have no storage */ }
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("detbalance-theme", root.dataset.theme); } catch { /* as above */ }
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
}

function setUpPrint() {
  let open = false;
  const expand = (wanted) => {
    if (wanted === open) return;
    open = wanted;
    TABLES.forEach((table) => table.expand(wanted));
    for (const facts of document.querySelectorAll(".facts")) facts.open = wanted;
  };
  addEventListener("beforeprint", () => expand(true));
  addEventListener("afterprint", () => expand(false));
  matchMedia("print").addEventListener("change", (event) => expand(event.matches));
}

setUpTheme();
setUpTable();
drawImbalance("left", "AP50");
drawImbalance("right", "recall");
setUpClasses();
if (SPECS.curves) drawCurves();
if (SPECS.scores) drawScores();
setUpErrors();
setUpConfusion();
drawHeatmap();
setUpPrint();
if (NUMBER) choose(0, false);
document.documentElement.dataset.ready = "yes";
