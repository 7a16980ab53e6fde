"use strict";
// What the reader does: choose a class, filter, switch the theme, print.

const FIRST_ROWS = { classes: 100, errors: 40, confusion: 15 };
const TABLES = [];
let [chosenClass] = measuredFirst();

function choose(i, scroll) {
  chosenClass = i;
  showClass();
  for (const id of ["imbalance-left", "imbalance-right"]) redraw(id, {}, { selected: i });
  redraw("curves", { chosen: bothCurves(i) });
  redraw("froc", frocChart(i));
  redraw("reliability", reliabilityChart(i));
  const { data, signals } = scoreChart(i);
  redraw("scores", data, signals);
  redraw("confidence", confidenceChart(i));
  if (scroll) byId("one").scrollIntoView({ block: "start" });
}

// All about the chosen class but its charts.
function showClass() {
  const i = chosenClass;
  byId("class").value = String(i);
  for (const line of document.querySelectorAll("tr.chosen")) line.classList.remove("chosen");
  for (const line of document.querySelectorAll(`tr[data-class="${i}"]`)) line.classList.add("chosen");
  const figures = FIGURES.filter(({ key }) => DATA.settings.few.includes(key));
  byId("class-facts").textContent = [
    CLASSES.group[i],
    known(CLASSES.train_boxes[i]) ? `boxes in training ${whole(CLASSES.train_boxes[i])}` : null,
    `boxes to find ${whole(CLASSES.val_boxes[i])}`,
    ...figures.map(({ key, title, write }) => {
      const { ours, old } = values(key);
      return `${title} ${COMPARED ? `${write(old[i])} \u2192 ` : ""}${write(ours[i])}`;
    }),
  ].filter(known).join(", ");
  if (SPECS.curves) byId("curves-legend").textContent = curveWords(i);
  if (SPECS.froc) byId("froc-legend").textContent = frocWords(i);
  if (SPECS.reliability) byId("reliability-legend").textContent = reliabilityWords(i);
  if (SPECS.scores) {
    byId("scores-legend").textContent = scoreWords(i);
    byId("confidence-legend").textContent = confidenceWords(i);
  }
  describeConfusion(i);
}

function setUpTable() {
  const shown = new Set(COMPARED
    ? DATA.settings.few
    : FIGURES.filter((figure) => figure.shown).map(({ key }) => key));
  const table = new SortedTable(byId("table"), byId("more"), classColumns(shown), {
    rows: measuredFirst(), first: FIRST_ROWS.classes, marks: true,
  });
  TABLES.push(table);
  table.onDraw = (drawn, count) => {
    const found = count < NUMBER ? " found" : "";
    byId("shown").textContent = drawn < count
      ? `${whole(drawn)} of ${whole(count)}${found}`
      : `${whole(count)} ${count === 1 ? "class" : "classes"}${found}`;
  };
  table.draw();
  setUpFilters(table);
  byId("columns").querySelector("div").append(...FIGURES.map(({ key, title, help }) => {
    const box = make("input", { type: "checkbox", checked: shown.has(key) });
    box.addEventListener("change", () => {
      if (box.checked) shown.add(key); else shown.delete(key);
      table.setColumns(classColumns(shown));
    });
    return make("label", { title: help }, box, ` ${title}`);
  }));
}

function setUpFilters(table) {
  let group = null;
  const refresh = () => {
    const wanted = byId("search").value.trim().toLocaleLowerCase();
    table.filter((i) => (!group || CLASSES.group[i] === group)
      && CLASSES.name[i].toLocaleLowerCase().includes(wanted));
  };
  byId("search").addEventListener("input", refresh);
  const present = GROUPS.filter((name) => CLASSES.group.includes(name));
  const chips = [null, ...present].map((name) => {
    const mark = name ? make("span", { class: `mark ${name}` }) : null;
    const chip = make("button", { type: "button", "aria-pressed": String(!name) }, mark, name || "all");
    chip.addEventListener("click", () => {
      group = name;
      chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
      refresh();
    });
    return chip;
  });
  if (present.length) byId("groups").append(...chips);
}

function setUpErrors() {
  if (!KINDS.length) { byId("errors").hidden = true; return; }
  const cost = (i) => KINDS.reduce((sum, kind) => sum + (RUN.errors[kind].cost[i] || 0), 0);
  const rows = places().filter((i) => (
    CLASSES.val_boxes[i] > 0 || KINDS.some((kind) => RUN.errors[kind].count[i])));
  if (rows.length > FIRST_ROWS.errors) rows.sort((a, b) => cost(b) - cost(a) || a - b);
  TABLES.push(new SortedTable(byId("errors-table"), byId("errors-more"), errorColumns(), {
    rows, first: FIRST_ROWS.errors, marks: true,
  }));
}

function setUpConfusion() {
  const cells = RUN.confusion;
  if (!cells.length) { byId("confusion").hidden = true; return; }
  const table = [byId("confusion-table"), byId("confusion-more"), confusionColumns(cells)];
  TABLES.push(new SortedTable(...table, { rows: [...cells.keys()], first: FIRST_ROWS.confusion }));
}

function setUpClasses() {
  const menu = byId("class");
  menu.append(...[...GROUPS, null].flatMap((group) => {
    const members = places().filter((i) => (CLASSES.group[i] || null) === group);
    const options = members.map((i) => make("option", { value: i }, shorten(CLASSES.name[i], 60)));
    return options.length ? [make("optgroup", { label: group || "classes" }, ...options)] : [];
  }));
  menu.addEventListener("change", () => choose(Number(menu.value), false));
  byId("previous").addEventListener("click", () => choose((chosenClass + NUMBER - 1) % NUMBER, false));
  byId("next").addEventListener("click", () => choose((chosenClass + 1) % NUMBER, false));
  for (const id of ["curves", "scores", "confidence"]) byId(`${id}-box`).hidden = !SPECS[id];
  byId("heatmap-box").hidden = !SPECS.heatmap;
}

// Links to sections that there is nothing to show in are gone with them.
function setUpLinks() {
  for (const link of document.querySelectorAll("nav a")) {
    link.hidden = document.querySelector(link.hash).hidden;
  }
}

function setUpTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const label = () => { byId("theme").textContent = isDark() ? "Light" : "Dark"; };
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  label();
}

function setUpPrint() {
  const facts = document.querySelector(".facts");
  let openOnScreen = null;
  const expand = (printing) => {
    if (printing === (openOnScreen !== null)) return;
    TABLES.forEach((table) => table.expand(printing));
    if (printing) {
      openOnScreen = facts.open;
      facts.open = true;
    } else {
      facts.open = openOnScreen;
      openOnScreen = null;
    }
  };
  addEventListener("beforeprint", () => expand(true));
  addEventListener("afterprint", () => expand(false));
  matchMedia("print").addEventListener("change", (event) => expand(event.matches));
}

async function start() {
  setUpTheme();
  setUpTable();
  setUpClasses();
  setUpErrors();
  setUpConfusion();
  setUpLinks();
  setUpPrint();
  showClass();
  try {
    await loadVega();
  } catch (error) {
    byId("no-charts").hidden = false;
    throw error;
  }
  const charts = [drawImbalance("left", DATA.settings.figure), drawImbalance("right", "recall")];
  if (SPECS.curves) charts.push(drawCurves());
  if (SPECS.froc) charts.push(drawChart("froc", frocChart(chosenClass)));
  if (SPECS.reliability) charts.push(drawChart("reliability", reliabilityChart(chosenClass)));
  if (SPECS.scores) charts.push(drawScores(), drawChart("confidence", confidenceChart(chosenClass)));
  if (SPECS.heatmap) charts.push(drawHeatmap());
  await Promise.all(charts);
  document.documentElement.dataset.ready = "yes";
}

start();
