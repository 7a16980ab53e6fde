"use strict";
// What stands in the columns of the two tables by class: figures, and kinds of errors.

const KINDS = Object.keys(RUN.errors);

const tone = (i) => `var(--${CLASSES.group[i] || "none"})`;
const small = (text) => make("span", { class: "small" }, text);
const number = (text, kind = "") => make("span", { class: `number ${kind}`.trim() }, text);

function nameColumn() {
  return {
    key: "name", title: "class", kind: "name", ascending: true,
    value: (i) => CLASSES.name[i],
    cell: (i) => make("th", { scope: "row" },
      make("span", { class: `mark ${CLASSES.group[i] || ""}` }), classButton(i)),
  };
}

function countColumn(key, title, help) {
  const counts = CLASSES[key];
  return { key, title, help, value: (i) => counts[i], cell: (i) => make("td", {}, whole(counts[i])) };
}

function classColumns(shown) {
  const columns = [nameColumn()];
  if (CLASSES.group.some(known)) {
    columns.push({
      key: "group", title: "group", ascending: true, kind: "text wide",
      value: (i) => (known(CLASSES.group[i]) ? GROUPS.indexOf(CLASSES.group[i]) : null),
      cell: (i) => make("td", {}, CLASSES.group[i] || "-"),
    });
  }
  if (CLASSES.train_boxes.some(known)) {
    const column = countColumn("train_boxes", "boxes in\ntraining", "crowd regions excluded");
    columns.push({ ...column, ascending: true });
  }
  columns.push(countColumn("val_boxes", "boxes\nto find", "n of AP, AR and recall"));
  const chosen = FIGURES.filter((figure) => shown.has(figure.key));
  return columns.concat(chosen.flatMap((figure) => (COMPARED ? sides(figure) : [single(figure)])));
}

function single(figure) {
  const [low, high] = RUN.intervals[figure.key] || [[], []];
  const column = RUN.figures[figure.key];
  const floors = RUN.figures[figure.score] || [];
  return {
    key: figure.key, title: figure.title, help: figure.help,
    value: (i) => column[i],
    cell: (i) => make("td", { title: interval(low[i], high[i]) || null },
      number(figure.write(column[i])),
      known(floors[i]) ? small(`from ${decimals(floors[i])}`) : null,
      figure.key === "precision" ? small(`n ${whole(RUN.detections[i])}`) : null,
      figure.digits ? bar(column[i], low[i], high[i], { tone: tone(i) }) : null),
  };
}

function sides(figure) {
  const { ours, old, change, low, high, real } = values(figure.key);
  const { write, help, digits } = figure;
  const sizes = [...change, ...low, ...high].filter(known).map(Math.abs);
  const most = sizes.reduce((a, b) => Math.max(a, b), 0.05);
  const share = (value) => (known(value) ? value / most : null);
  const over = figure.title;
  const verdict = (i) => (real[i] ? (change[i] > 0 ? "up" : "down") : "");
  return [
    {
      key: `${figure.key}-old`, title: "baseline", help, over, span: 3, kind: "first",
      value: (i) => old[i],
      cell: (i) => make("td", {}, number(write(old[i]), "old")),
    },
    {
      key: figure.key, title: "this run", help, over,
      value: (i) => ours[i],
      cell: (i) => make("td", {}, number(write(ours[i]))),
    },
    {
      key: `${figure.key}-change`, title: "difference", help, over,
      value: (i) => change[i],
      cell: (i) => make("td",
        { class: `difference ${verdict(i)}`.trim(), title: interval(low[i], high[i], signedPrecisely(low[i], high[i])) || null },
        number(signed(change[i], write)),
        digits
          ? bar(share(change[i]), share(low[i]), share(high[i]), { middle: true, tone: tone(i) })
          : null),
    },
  ];
}

function errorColumns() {
  const costs = KINDS.flatMap((kind) => RUN.errors[kind].cost).filter(known);
  const most = costs.reduce((a, b) => Math.max(a, b), 0.01);
  const before = BEFORE && BEFORE.errors;
  return [nameColumn(), countColumn("val_boxes", "boxes\nto find"), ...KINDS.map((kind) => {
    const { count, shown, cost } = RUN.errors[kind];
    const old = before && before[kind] ? before[kind].cost : null;
    const words = (i) => `${whole(count[i])} in all, ${whole(shown[i])} at or above the score threshold`;
    return {
      key: kind, title: kind, kind: "cost",
      value: (i) => cost[i],
      cell: (i) => make("td", { title: words(i) },
        old ? number(decimals(old[i]), "old") : null,
        old ? make("span", { class: "arrow" }, "\u2192") : null,
        number(decimals(cost[i])), small(`n ${whole(shown[i])}`),
        known(cost[i])
          ? make("span", { class: "fill", "--p": Math.max(0, 100 * cost[i] / most).toFixed(1) })
          : null),
    };
  })];
}
