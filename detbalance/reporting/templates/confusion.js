"use strict";
// Which classes are taken for which: a chart, a table, and a sentence about one class.

// By side of a cell, what is no class: boxes that are none, and detections that there are none of.
const NO_CLASS = ["background", "missed"];
const className = (place, side) => (place < 0 ? NO_CLASS[side] : CLASSES.name[place]);
const pairKey = ([real, found]) => `${real} ${found}`;

// Boxes to find of a true class; of the background, the detections that lie on it.
function rowTotal(real, confusion) {
  if (real >= 0) return CLASSES.val_boxes[real];
  return confusion.reduce((sum, cell) => (cell[0] < 0 ? sum + cell[2] : sum), 0);
}

// Counts, or with `shares` parts of the row's total.
function cellRows(run, shares) {
  const order = [...DATA.heatmap, -1];
  const { confusion, right } = DATA.runs[run];
  const counts = new Map(confusion.map((cell) => [pairKey(cell), cell[2]]));
  const cells = order.flatMap((real, row) => order.map((found, column) => ({
    real, found, row, column, wrong: real !== found,
    count: (real === found ? right[real] : counts.get(pairKey([real, found]))) || 0 })));
  const totals = new Map(order.map((real) => [real, rowTotal(real, confusion) || 1]));
  const part = (cell) => cell.count / totals.get(cell.real);
  const most = shares ? 1 : cells.reduce((a, cell) => (cell.wrong ? Math.max(a, cell.count) : a), 1);
  return cells.filter(({ real, found }) => real >= 0 || found >= 0).map((cell) => {
    const share = cell.wrong ? Math.sqrt(Math.min(1, (shares ? part(cell) : cell.count) / most)) : 0;
    return {
      true_name: className(cell.real, 0), found_name: className(cell.found, 1),
      row: cell.row, column: cell.column, count: cell.count, wrong: cell.wrong, share,
      amount: whole(cell.count), part: decimals(part(cell)),
      text: shares ? decimals(part(cell), 2) : whole(cell.count),
      ink: !cell.wrong ? "var(--muted)" : share > 0.6 ? "var(--paper)" : "var(--ink)",
    };
  });
}

async function drawHeatmap() {
  const names = DATA.heatmap.map((place) => shorten(className(place), 18));
  byId("heatmap").style.minWidth = `${137 + 27 * names.length}px`;
  byId("heatmap").style.maxWidth = `${250 + 90 * names.length}px`;
  const [run, unit] = [byId("heatmap-run"), byId("heatmap-unit")];
  const cells = () => cellRows(Number(run.value), unit.value === "shares");
  run.append(make("option", { value: 0 }, "this run"));
  if (BEFORE && BEFORE.confusion.length) run.append(make("option", { value: 1 }, "baseline"));
  run.parentElement.hidden = run.options.length < 2;
  await drawChart("heatmap", { cells: cells() }, { names });
  for (const menu of [run, unit]) menu.addEventListener("change", () => redraw("heatmap", { cells: cells() }));
}

function confusionColumns(cells) {
  const side = (place, title) => ({
    key: title, title, ascending: true, kind: "name",
    value: (row) => className(cells[row][place], place),
    cell: (row) => make("td", {}, cells[row][place] < 0
      ? make("span", { class: "old" }, NO_CLASS[place]) : classButton(cells[row][place])),
  });
  const columns = [side(0, "true class"), side(1, "found as"), {
    key: "count", title: "count",
    value: (row) => cells[row][2],
    cell: (row) => make("td", {}, whole(cells[row][2])),
  }];
  if (BEFORE) {
    const before = new Map(BEFORE.confusion.map((cell) => [pairKey(cell), cell[2]]));
    // What is not among the largest counts is unknown only where there are that many.
    const absent = before.size < DATA.settings.max_cells ? 0 : null;
    const old = (row) => before.get(pairKey(cells[row])) ?? absent;
    columns.splice(2, 0, {
      key: "old", title: "baseline", help: `a dash: not among its ${DATA.settings.max_cells} largest counts`,
      value: old,
      cell: (row) => make("td", { class: "old" }, whole(old(row))),
    });
    columns[3].title = "this run";
  }
  return columns;
}

function describeConfusion(i) {
  const cells = RUN.confusion.filter(([real, found]) => real >= 0 && found >= 0);
  const list = (picked, other, title) => {
    const pairs = cells.filter((cell) => cell[picked] === i).slice(0, 8);
    if (!pairs.length) return null;
    const names = pairs.flatMap((cell, k) => [
      k ? ", " : "", classButton(cell[other], false), `\u00a0(${whole(cell[2])})`,
    ]);
    return make("p", {}, make("span", { class: "old" }, `${title}: `), ...names);
  };
  byId("class-confusion").replaceChildren(...[
    list(0, 1, "Detections on its boxes were also of"),
    list(1, 0, "Its detections lay on boxes of"),
  ].filter(known));
}
