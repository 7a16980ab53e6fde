"use strict";
// Vega draws; this file gives it data, and draws the figures over the training counts.

const VIEWS = {};

// Vega is compressed in the page; the page's policy allows its script by the digest.
async function loadVega() {
  const bytes = Uint8Array.from(atob(byId("vega").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.head.append(make("script", {}, await new Response(stream).text()));
}

function showTip(x, y, pairs) {
  const tip = byId("tip");
  const entries = pairs.flatMap(([term, text]) => [
    make("dt", {}, term), make("dd", {}, make("bdi", {}, text)),
  ]);
  tip.replaceChildren(make("dl", {}, ...entries));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const above = y + height + 24 > innerHeight;
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 6))}px`;
  tip.style.top = `${Math.max(4, above ? y - height - 10 : y + 14)}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}

function tooltip(handler, event, item, value) {
  if (!value) { hideTip(); return; }
  const pairs = Object.entries(value).filter(([, text]) => text !== "" && text !== "null");
  showTip(event.clientX, event.clientY, pairs);
}

// Draws the chart of an element; data and signals by the names in its specification.
async function drawChart(id, datasets, signals = {}) {
  // imbalance-left and imbalance-right are one
  const spec = { ...SPECS[id.split("-")[0]], config: CHART_STYLE };
  const params = (spec.params || []).map((one) => ({ ...one, value: signals[one.name] ?? one.value }));
  // "ast": expressions are interpreted, not compiled, so that the page may forbid eval.
  const options = {
    mode: "vega-lite", renderer: "svg", actions: false, defaultStyle: false, ast: true, tooltip,
  };
  const { view } = await vegaEmbed(byId(id), { ...spec, datasets, params }, options);
  VIEWS[id] = view;
  return view;
}

function redraw(id, data, signals = {}) {
  const view = VIEWS[id];
  if (!view) return;
  for (const [name, value] of Object.entries(signals)) view.signal(name, value);
  for (const [name, rows] of Object.entries(data)) view.data(name, rows);
  view.run();
}

const COUNTED = CLASSES.train_boxes.some(known) ? CLASSES.train_boxes : CLASSES.val_boxes;
const LEAST = 0.5; // where a logarithmic axis shows 0

function axisRange(rows) {
  const least = rows.reduce((end, row) => Math.min(end, row.x), rows.length ? Infinity : 1);
  const most = rows.reduce((end, row) => Math.max(end, row.x), 1);
  const low = least * 0.8;
  const high = Math.max(most * 1.25, low * 4);
  const steps = high / low < 60 ? [1, 2, 5] : [1];
  const ticks = least < 1 ? [LEAST] : [];
  for (let power = 0; power < 9; power++) ticks.push(...steps.map((step) => step * 10 ** power));
  return {
    x_range: [low, high],
    x_ticks: ticks.filter((tick) => tick >= low && tick <= high),
    // Names to the right of this are written on the left of their mark.
    x_turn: low * (high / low) ** 0.75,
  };
}

function pointRows(figure) {
  const { ours, old } = values(figure);
  const [low, high] = RUN.intervals[figure] || [[], []];
  return places().filter((i) => known(ours[i]) && known(COUNTED[i])).map((i) => ({
    i, name: CLASSES.name[i], short: shorten(CLASSES.name[i], 22), group: CLASSES.group[i] || "none",
    x: Math.max(COUNTED[i], LEAST), y: ours[i], old: old[i] ?? ours[i],
    low: low[i] ?? ours[i], high: high[i] ?? ours[i],
    train: known(CLASSES.train_boxes[i]) ? whole(CLASSES.train_boxes[i]) : "",
    val: whole(CLASSES.val_boxes[i]),
    text: COMPARED ? decimals(ours[i]) : `${decimals(ours[i])} ${interval(low[i], high[i])}`,
    old_text: decimals(old[i]),
  }));
}

// The upper end of the other axis: a round number above all that is drawn.
function axisTop(rows) {
  const most = rows.reduce((top, row) => Math.max(top, row.y, row.old, COMPARED ? 0 : row.high), 0);
  return [0.2, 0.4, 0.6, 0.8].find((top) => top > most) || 1;
}

// Few classes have their names beside them, where these meet no other name and no mark.
function withNames(rows, width, { x_range: [low, high], x_turn: turn, y_top: top }) {
  if (NUMBER > SPECS.imbalance.usermeta.named) return rows;
  const spot = (row, value) => {
    const x = Math.log(row.x / low) / Math.log(high / low) * width;
    const y = (1 - value / top) * 260;
    return { x, y, left: x - 6, right: x + 6, top: y - 6, bottom: y + 6 };
  };
  const spots = rows.map((row) => spot(row, row.y));
  const marks = COMPARED ? [...spots, ...rows.map((row) => spot(row, row.old))] : spots;
  const meets = (one, other) => one.left < other.right && other.left < one.right
    && one.top < other.bottom && other.top < one.bottom;
  const taken = [];
  return rows.map((row, k) => {
    const { x, y } = spots[k];
    const length = 12 + 7 * Array.from(row.short).length;
    const ends = row.x > turn ? { left: x - length, right: x - 7 } : { left: x + 7, right: x + length };
    const box = { ...ends, top: y - 7, bottom: y + 7 };
    const named = ![...taken, ...marks].some((other) => meets(box, other));
    if (named) taken.push(box);
    return { ...row, named };
  });
}

async function drawImbalance(side, first) {
  const id = `imbalance-${side}`;
  const menu = byId(`${id}-figure`);
  const offered = FIGURES.filter((figure) => figure.digits);
  menu.append(...offered.map(({ key, title }) => (
    make("option", { value: key, selected: key === first }, title))));
  const chart = () => {
    const rows = pointRows(menu.value);
    byId(`${id}-empty`).hidden = rows.length > 0;
    const signals = { ...axisRange(rows), y_top: axisTop(rows), selected: chosenClass };
    return [{ points: withNames(rows, byId(id).clientWidth - 50, signals) }, signals];
  };
  const view = await drawChart(id, ...chart());
  menu.addEventListener("change", () => redraw(id, ...chart()));
  view.addEventListener("click", (event, item) => {
    if (item && item.datum && known(item.datum.i)) choose(item.datum.i, false);
  });
}
