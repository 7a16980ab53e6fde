"use strict";
// Vega draws; this file gives it data and listens to the pointer.

const VIEWS = {};
const COLOR_OF_RUN = { "this run": "var(--accent)", baseline: "var(--muted)" };

function showTip(x, y, pairs) {
  const tip = byId("tip");
  tip.replaceChildren(make("dl", {}, ...pairs.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, make("bdi", {}, text))])));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 6))}px`;
  tip.style.top = `${y + height + 24 > innerHeight ? y - height - 10 : y + 14}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}

// A chart appears in an element; data by the names in its specification.
function drawChart(id, data, signals = {}) {
  const element = byId(id);
  if (!SPECS[id] || !element) return null;
  const program = vegaLite.compile(SPECS[id]).spec;
  const view = new vega.View(vega.parse(program), { renderer: "svg", container: element, hover: true });
  view.logLevel(vega.Warn);
  view.tooltip((handler, event, item, value) => {
    if (!value) return hideTip();
    showTip(event.clientX, event.clientY, Object.entries(value).filter(([, text]) => text !== "" && text !== "null"));
    return null;
  });
  for (const [name, value] of Object.entries(signals)) view.signal(name, value);
  for (const [name, rows] of Object.entries(data)) view.data(name, rows);
  view.run();
  VIEWS[id] = view;
  return view;
}

function redraw(id, data) {
  const view = VIEWS[id];
  if (!view) return;
  for (const [name, rows] of Object.entries(data)) view.data(name, rows);
  view.run();
}

const COUNTED = CLASSES.train_boxes.some(known) ? CLASSES.train_boxes : CLASSES.val_boxes;

function axisRange() {
  const boxes = COUNTED.filter(known);
  const least = Math.min(...boxes) < 1 ? 0.5 : Math.min(...boxes);
  const most = Math.max(1, ...boxes);
  const low = least * 0.8;
  const high = Math.max(most * (NUMBER <= 12 ? 1.6 : 1.25), low * 4);
  const ticks = [];
  const steps = high / low < 60 ? [1, 2, 5] : [1];
  for (let power = 0; power < 9; power++) for (const step of steps) ticks.push(step * 10 ** power);
  if (least < 1) ticks.unshift(0.5);
  return { x_range: [low, high], x_ticks: ticks.filter((tick) => tick >= low && tick <= high) };
}

function pointRows(figure) {
  const { ours, old } = values(figure);
  const [low, high] = DATA.differences[figure] ? [[], []] : RUN.intervals[figure] || [[], []];
  return CLASSES.name.map((name, i) => ({
    i, name, short: shorten(name, 22), group: CLASSES.group[i] || "none",
    x: Math.max(COUNTED[i], 0.5), y: ours[i], old: known(old[i]) ? old[i] : ours[i],
    low: known(low[i]) ? low[i] : ours[i], high: known(high[i]) ? high[i] : ours[i],
    train: whole(CLASSES.train_boxes[i]), val: whole(CLASSES.val_boxes[i]),
    text: `${decimals(ours[i])} ${interval(low[i], high[i])}`, old_text: decimals(old[i]),
  })).filter((row) => known(row.y) && known(COUNTED[row.i]));
}

function drawImbalance(side, first) {
  const menu = byId(`imbalance-${side}-figure`);
  const id = `imbalance-${side}`;
  const offered = FIGURES.filter((figure) => figure.write === decimals);
  menu.append(...offered.map(({ key, title }) => make("option", { value: key, selected: key === first }, title)));
  menu.setAttribute("aria-label", "Figure");
  const view = drawChart(id, { points: pointRows(menu.value) }, axisRange());
  menu.addEventListener("change", () => redraw(id, { points: pointRows(menu.value) }));
  view.addEventListener("click", (event, item) => {
    if (item && item.datum && known(item.datum.i)) choose(item.datum.i, false);
  });
}

const CURVES = DATA.runs.map((run) => run.curves.map((text) => (text ? unpack(text) : null)));
const SCORES = DATA.runs.map((run) => run.scores.map((text) => (text ? unpack(text) : null)));

function curveRows(i, run, extra = {}) {
  const curve = CURVES[run] && CURVES[run][i];
  if (!curve) return [];
  return Array.from(curve, (p, k) => ({ i, r: k / 100, p, run: run ? "baseline" : "this run", ...extra }));
}

function bandRows() {
  return Array.from({ length: 101 }, (_, k) => {
    const column = CURVES[0].filter((curve) => curve).map((curve) => curve[k]).sort((a, b) => a - b);
    const share = (part) => column[Math.round(part * (column.length - 1))];
    return { r: k / 100, p10: share(0.1), p25: share(0.25), p50: share(0.5), p75: share(0.75), p90: share(0.9) };
  });
}

function drawCurves() {
  const many = NUMBER > 200;
  const grey = many ? { bands: bandRows() } : { others: CURVES[0].flatMap((_, i) => curveRows(i, 0)) };
  const view = drawChart("curves", { ...grey, hovered: [], chosen: [] });
  byId("curves-legend").textContent = many
    ? "Grey: the median class, the middle half and the middle 80% of all classes. Point at the chart for the class that passes there; click to choose it."
    : "Grey: the other classes. Point at a line for its class; click to choose it.";
  if (BEFORE) byId("curves-legend").textContent += " Dashed: the baseline.";
  if (!view) return;
  const element = byId("curves");
  let near = -1;
  element.addEventListener("pointermove", (event) => {
    const spot = nearest(view, event);
    if (spot === null) { leave(); return; }
    const score = SCORES[0][spot.i];
    showTip(event.clientX, event.clientY, [
      ["class", CLASSES.name[spot.i]],
      ["recall", decimals(spot.k / 100)],
      ["precision", decimals(CURVES[0][spot.i][spot.k])],
      ...(score && CURVES[0][spot.i][spot.k] > 0 ? [["score from", decimals(score[Math.round(spot.k * (score.length - 1) / 100)])]] : []),
      ["boxes to find", whole(CLASSES.val_boxes[spot.i])],
    ]);
    if (spot.i === near) return;
    near = spot.i;
    redraw("curves", { hovered: DATA.runs.flatMap((_, run) => curveRows(near, run)) });
  });
  function leave() {
    hideTip();
    if (near < 0) return;
    near = -1;
    redraw("curves", { hovered: [] });
  }
  element.addEventListener("pointerleave", leave);
  element.addEventListener("click", () => { if (near >= 0) choose(near, false); });
}

// The class whose curve passes nearest to the pointer, and the place on it.
function nearest(view, event) {
  const frame = view.container().querySelector("svg").getBoundingClientRect();
  const [left, top] = view.origin();
  const x = (event.clientX - frame.left - left) / view.width();
  const y = 1 - (event.clientY - frame.top - top) / view.height();
  if (x < -0.02 || x > 1.02 || y < -0.05 || y > 1.05) return null;
  const k = Math.round(100 * Math.min(1, Math.max(0, x)));
  let best = null;
  CURVES[0].forEach((curve, i) => {
    if (!curve) return;
    const distance = Math.abs(curve[k] - y);
    if (best === null || distance < best.distance) best = { i, k, distance };
  });
  return best;
}

function binRows(i, run) {
  const bins = DATA.runs[run] && DATA.runs[run].histograms[i];
  if (!bins) return [];
  const width = 1 / bins[0].length;
  return ["right", "wrong"].flatMap((kind, side) => bins[side].map((count, k) => ({
    kind, start: k * width, end: (k + 1) * width, count: side ? -count : count,
    amount: whole(count), span: `${decimals(k * width)} to ${decimals((k + 1) * width)}`,
  })));
}

// A line needs the right end of its last bin too.
function lineRows(i) {
  return binRows(i, 1).flatMap((row) => (row.end > 0.99 ? [row, { ...row, start: 1 }] : [row]));
}

function drawScores() {
  drawChart("scores", { bins: [], bins_before: [] });
  byId("scores-legend").textContent = "Detections of this class in 20 steps of the score, on a square-root scale; the dashed line is the score floor."
    + (BEFORE ? " Thin line: the baseline." : "");
}

function cellRows(run) {
  const order = [...CLASSES.name.keys(), -1];
  const counts = new Map(DATA.runs[run].confusion.map(([real, found, count]) => [`${real} ${found}`, count]));
  const most = Math.max(1, ...counts.values());
  // Names can repeat once they are cut, so a place comes along.
  const label = (i) => shorten(className(i), 40);
  return order.flatMap((real, a) => order.filter((found) => real !== found || real >= 0).map((found) => {
    const diagonal = real === found;
    const count = diagonal ? 0 : counts.get(`${real} ${found}`) || 0;
    return {
      true: label(real), found: label(found), true_order: a, found_order: order.indexOf(found),
      count, amount: diagonal ? "" : whole(count), ink: Math.sqrt(count / most) > 0.6 ? "var(--paper)" : "var(--ink)",
    };
  }));
}

function drawHeatmap() {
  if (!drawChart("heatmap", { cells: SPECS.heatmap ? cellRows(0) : [] })) { byId("heatmap").hidden = true; return; }
  if (!BEFORE || !BEFORE.confusion.length) return;
  const menu = byId("heatmap-run");
  menu.append(make("option", { value: 0 }, "this run"), make("option", { value: 1 }, "baseline"));
  menu.addEventListener("change", () => redraw("heatmap", { cells: cellRows(Number(menu.value)) }));
  byId("heatmap-tools").hidden = false;
}
