"use strict";
// The charts of one class: precision over recall, among all classes, and scores.

const CURVES = DATA.runs.map((run) => run.curves.map((text) => (text ? unpack(text) : null)));
const SCORES = DATA.runs.map((run) => run.scores.map((text) => (text ? unpack(text) : null)));
const REACH = 40; // pixels from the pointer to a curve

function curveRows(i, run) {
  const curve = CURVES[run] && CURVES[run][i];
  if (!curve) return [];
  const name = run ? "baseline" : "this run";
  return Array.from(curve, (p, k) => ({ i, r: k / 100, p, run: name }));
}

const bothCurves = (i) => DATA.runs.flatMap((_, run) => curveRows(i, run));

// Shares of the classes instead of very many lines.
function bandRows() {
  return Array.from({ length: 101 }, (_, k) => {
    const column = CURVES[0].filter(known).map((curve) => curve[k]).sort((a, b) => a - b);
    const at = (share) => column[Math.round(share * (column.length - 1))];
    return { r: k / 100, p10: at(0.1), p25: at(0.25), p50: at(0.5), p75: at(0.75), p90: at(0.9) };
  });
}

async function drawCurves() {
  const many = SPECS.curves.usermeta.bands;
  const grey = many
    ? { bands: bandRows() }
    : { others: CURVES[0].flatMap((_, i) => curveRows(i, 0)) };
  const view = await drawChart("curves", { ...grey, hovered: [], chosen: bothCurves(chosenClass) });
  const element = byId("curves");
  let near = null;
  const point = (event) => {
    const spot = nearest(view, event, near);
    if (spot === null) { leave(); return; }
    showTip(event.clientX, event.clientY, curveTip(spot));
    if (spot.i === near) return;
    near = spot.i;
    redraw("curves", { hovered: bothCurves(near) });
  };
  const leave = () => {
    hideTip();
    if (near === null) return;
    near = null;
    redraw("curves", { hovered: [] });
  };
  element.addEventListener("pointermove", point);
  element.addEventListener("pointerdown", point);
  element.addEventListener("pointerleave", leave);
  // A finger that is lifted has left before it clicks.
  element.addEventListener("click", (event) => {
    const spot = nearest(view, event, near);
    if (spot !== null) choose(spot.i, false);
  });
}

function curveTip({ i, k }) {
  const precision = CURVES[0][i][k];
  const scores = SCORES[0][i];
  const score = scores[Math.round(k * (scores.length - 1) / 100)];
  return [
    ["class", CLASSES.name[i]],
    ["recall", decimals(k / 100)],
    ["precision", precision > 0 ? decimals(precision) : "recall not reached"],
    ...(precision > 0 ? [["scores from", decimals(score)]] : []),
    ["boxes to find", whole(CLASSES.val_boxes[i])],
  ];
}

// The class whose curve passes nearest to the pointer, and the place on it; of equals the last one.
function nearest(view, event, last) {
  const frame = byId("curves").querySelector("svg").getBoundingClientRect();
  const [left, top] = view.origin();
  const [width, height] = [view.width(), view.height()];
  const x = event.clientX - frame.left - left;
  const y = height - (event.clientY - frame.top - top);
  if (x < -9 || x > width + 9 || y < -12 || y > height + 12) return null;
  const middle = Math.round(100 * Math.min(1, Math.max(0, x / width)));
  let best = { distance: REACH };
  CURVES[0].forEach((curve, i) => {
    if (!curve) return;
    for (let k = Math.max(0, middle - 3); k <= Math.min(100, middle + 3); k++) {
      // Down from one place to the next: a curve is a flight of steps.
      const [high, low] = [curve[k] * height, curve[Math.min(100, k + 1)] * height];
      const above = Math.max(0, y - high, low - y);
      const distance = Math.hypot(k / 100 * width - x, above);
      if (distance < best.distance || (distance === best.distance && i === last)) {
        best = { i, k: Math.min(k, middle), distance };
      }
    }
  });
  return best.distance < REACH ? best : null;
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

function scoreChart(i) {
  const bins = binRows(i, 0);
  const before = binRows(i, 1);
  const counts = [...bins, ...before].map((row) => row.count);
  const most = counts.reduce((a, b) => Math.max(a, b), 1);
  const least = counts.reduce((a, b) => Math.min(a, b), -1);
  // A line needs the right end of its last bin too.
  const line = before.flatMap((row) => (row.end > 0.99 ? [row, { ...row, start: 1 }] : [row]));
  const floors = known(CLASSES.score_threshold[i]) ? [{ floor: CLASSES.score_threshold[i] }] : [];
  const steps = Math.max(most, -least) < 60 ? [1, 3] : [1];
  const ticks = [...Array(9).keys()].flatMap((power) => steps.map((step) => step * 10 ** power));
  return {
    data: { bins, before: line, floors },
    signals: {
      counts: [least * 1.15, most * 1.15],
      count_ticks: [0, ...ticks, ...ticks.map((tick) => -tick)].filter((tick) => (
        tick >= least && tick <= most)),
    },
  };
}

async function drawScores() {
  const { data, signals } = scoreChart(chosenClass);
  await drawChart("scores", data, signals);
}

// Precision, recall and F1 of the classes' detections from each score on, counted together. Exact:
// the thresholds are the ends of the histograms' bins.
function measureRows(classes, side, of) {
  const bins = classes.map((i) => RUN.histograms[i]).filter(known);
  const boxes = classes.reduce((sum, i) => sum + CLASSES.val_boxes[i], 0);
  const number = bins.length ? bins[0][0].length : 0;
  let [right, wrong] = [0, 0];
  const rows = [];
  for (let k = number - 1; k >= 0; k--) {
    for (const one of bins) { right += one[0][k]; wrong += one[1][k]; }
    const measures = {
      precision: right + wrong ? right / (right + wrong) : null,
      recall: boxes ? right / boxes : null,
      F1: boxes ? 2 * right / (boxes + right + wrong) : null,
    };
    for (const [measure, value] of Object.entries(measures).filter((one) => known(one[1]))) {
      const start = k / number;
      rows.push({ side, of, measure, start, value, at: decimals(start, 2), text: decimals(value) });
    }
  }
  return rows;
}

function confidenceChart(i) {
  const group = CLASSES.group[i];
  const members = group ? places().filter((other) => CLASSES.group[other] === group) : [];
  const measures = [
    ...measureRows([i], "class", CLASSES.name[i]),
    ...(members.length > 1 ? measureRows(members, "group", `all ${group} classes`) : []),
  ];
  return { measures, floors: scoreChart(i).data.floors };
}

function confidenceWords(i) {
  const floor = CLASSES.score_threshold[i];
  return `Whole: the class${CLASSES.group[i] ? `; dashed: all ${CLASSES.group[i]} classes together` : ""}.`
    + (known(floor) ? ` Dashed upright: its score threshold, ${decimals(floor)}.` : "");
}

function curveWords(i) {
  if (!CURVES[0][i]) return "This class has no boxes to find, and so no curve.";
  const dashed = BEFORE ? "Dashed: the baseline." : "";
  if (NUMBER === 1) return dashed;
  const grey = SPECS.curves.usermeta.bands
    ? "Grey: the median class, the middle half and the middle 80% of all classes."
    : "Grey: the other classes.";
  return `${grey} ${dashed}`;
}

function scoreWords(i) {
  const any = [0, 1].some((run) => binRows(i, run).some((row) => row.count));
  if (!any) return "There are no detections of this class.";
  const floor = CLASSES.score_threshold[i];
  return "All detections of this class in 20 steps of the score, on a logarithmic scale."
    + (known(floor) ? ` Dashed: its score threshold, ${decimals(floor)}.` : "")
    + (BEFORE ? " Thin line: the baseline." : "");
}
