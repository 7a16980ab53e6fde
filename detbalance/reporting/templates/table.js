"use strict";
// A table that sorts by click or key, undefined values last, and draws so many rows at first.

const FIRST_ROWS = 100;

class SortedTable {
  // columns: {title, value(i), cell(i), help, name, number, first, over}; rows: indices.
  constructor(element, more, columns, { rows, first = FIRST_ROWS, sort = null, onRow = null }) {
    Object.assign(this, { element, more, columns, rows, first, onRow });
    this.limit = first;
    this.sort = sort;
    this.kept = () => true;
    more.addEventListener("click", () => { this.limit = Infinity; this.draw(); });
    this.drawHead();
    this.draw();
  }

  setColumns(columns) {
    const title = this.sort && this.columns[this.sort.column].key;
    const place = columns.findIndex((column) => column.key === title);
    this.columns = columns;
    this.sort = place < 0 ? null : { ...this.sort, column: place };
    this.drawHead();
    this.draw();
  }

  filter(kept) {
    this.kept = kept;
    this.limit = this.first;
    this.draw();
  }

  drawHead() {
    const over = this.columns.some((column) => column.over);
    const top = make("tr");
    const head = make("tr");
    this.columns.forEach((column, place) => {
      const button = make("button", { type: "button", title: column.help }, column.title);
      button.addEventListener("click", () => this.sortBy(place));
      const kind = [column.name ? "name" : "", column.first ? "first" : ""].join(" ").trim();
      const cell = make("th", { scope: "col", class: kind || null }, button);
      column.head = cell;
      if (over && column.over) {
        if (column.span) {
          top.append(make("th", { class: "over first", colspan: column.span, scope: "colgroup" }, column.over));
        }
        head.append(cell);
      } else {
        if (over) cell.setAttribute("rowspan", 2);
        (over ? top : head).append(cell);
      }
    });
    const body = make("tbody");
    this.element.replaceChildren(make("thead", {}, ...(over ? [top, head] : [head])), body);
    this.body = body;
  }

  sortBy(column) {
    const same = this.sort && this.sort.column === column;
    const descending = same ? !this.sort.descending : !this.columns[column].ascending;
    this.sort = { column, descending };
    this.draw();
  }

  order() {
    const rows = this.rows.filter(this.kept);
    if (!this.sort) return rows;
    const { value } = this.columns[this.sort.column];
    const sign = this.sort.descending ? -1 : 1;
    const keys = new Map(rows.map((i) => [i, value(i)]));
    return rows.sort((a, b) => {
      const [one, other] = [keys.get(a), keys.get(b)];
      if (known(one) !== known(other)) return known(one) ? -1 : 1; // undefined last, either way
      if (!known(one) || one === other) return a - b;
      const less = typeof one === "string" ? one.localeCompare(other) : one - other;
      return sign * less || a - b;
    });
  }

  draw() {
    this.columns.forEach((column, place) => {
      const sorted = this.sort && this.sort.column === place;
      if (sorted) column.head.setAttribute("aria-sort", this.sort.descending ? "descending" : "ascending");
      else column.head.removeAttribute("aria-sort");
    });
    const rows = this.order();
    const shown = rows.slice(0, this.limit);
    const lines = shown.map((i) => {
      const line = make("tr", { "data-row": i }, ...this.columns.map((column) => {
        const cell = column.cell(i);
        if (column.first) cell.classList.add("first");
        return cell;
      }));
      if (this.onRow) this.onRow(line, i);
      return line;
    });
    if (!lines.length) {
      lines.push(make("tr", {}, make("td", { class: "none-found", colspan: this.columns.length }, "No class matches.")));
    }
    this.body.replaceChildren(...lines);
    this.more.hidden = shown.length === rows.length;
    this.more.textContent = `Show all ${whole(rows.length)}`;
    this.count = rows.length;
    if (this.onDraw) this.onDraw(shown.length, rows.length);
  }

  // Paper has no button to press: all rows are there while it prints.
  expand(open) {
    if (open) this.kept_limit = this.limit;
    this.limit = open ? Infinity : this.kept_limit;
    this.draw();
  }
}

function nameColumn() {
  return {
    key: "name", title: "class", name: true, ascending: true,
    value: (i) => CLASSES.name[i],
    cell: (i) => {
      const button = make("button", { type: "button", class: "pick", title: CLASSES.name[i] }, make("bdi", {}, CLASSES.name[i]));
      button.addEventListener("click", () => choose(i, true));
      return make("th", { scope: "row", class: "name" }, make("span", { class: `mark ${CLASSES.group[i] || ""}` }), button);
    },
  };
}

const GROUP_ORDER = { rare: 0, common: 1, frequent: 2 };

function countColumn(key, title, help) {
  return { key, title, help, value: (i) => CLASSES[key][i], cell: (i) => make("td", {}, whole(CLASSES[key][i])) };
}

function classColumns(shown) {
  const columns = [nameColumn()];
  if (CLASSES.group.some(known)) {
    columns.push({
      key: "group", title: "group", ascending: true,
      value: (i) => GROUP_ORDER[CLASSES.group[i]],
      cell: (i) => make("td", {}, CLASSES.group[i] || "-"),
    });
  }
  if (CLASSES.train_boxes.some(known)) {
    columns.push({ ...countColumn("train_boxes", "boxes in training", ""), ascending: true });
  }
  columns.push(countColumn("val_boxes", "boxes to find", "n of AP, AR and recall"));
  const chosen = FIGURES.filter((figure) => shown.has(figure.key));
  return columns.concat(chosen.flatMap((figure) => (COMPARED ? sides(figure) : [single(figure)])));
}

function single(figure) {
  const [low, high] = RUN.intervals[figure.key] || [[], []];
  const column = RUN.figures[figure.key];
  return {
    key: figure.key, title: figure.title, help: figure.help,
    value: (i) => column[i],
    cell: (i) => make("td",
      { title: interval(low[i], high[i]) || null },
      make("span", { class: "number" }, figure.write(column[i])),
      figure.score && known(RUN.figures[figure.score]?.[i])
        ? make("span", { class: "small" }, `from ${decimals(RUN.figures[figure.score][i])}`) : null,
      figure.key === "precision" ? make("span", { class: "small" }, `n ${whole(RUN.detections[i])}`) : null,
      figure.write === decimals ? bar(column[i], low[i], high[i], { tone: tone(i) }) : null),
  };
}

function tone(i) {
  return `var(--${CLASSES.group[i] || "none"})`;
}

function sides(figure) {
  const { ours, old, change, low, high } = values(figure.key);
  const write = figure.write;
  const most = Math.max(0.05, ...change.filter(known).map(Math.abs), ...low.concat(high).filter(known).map(Math.abs));
  const verdict = (i) => (low[i] > 0 ? "up" : known(high[i]) && high[i] < 0 ? "down" : "");
  return [
    {
      key: `${figure.key}-old`, title: "baseline", help: figure.help, over: figure.title, span: 3, first: true,
      value: (i) => old[i], cell: (i) => make("td", {}, make("span", { class: "number old" }, write(old[i]))),
    },
    {
      key: figure.key, title: "this run", help: figure.help, over: figure.title,
      value: (i) => ours[i], cell: (i) => make("td", {}, make("span", { class: "number" }, write(ours[i]))),
    },
    {
      key: `${figure.key}-change`, title: "difference", help: figure.help, over: figure.title,
      value: (i) => change[i],
      cell: (i) => make("td", { class: `difference ${verdict(i)}`, title: interval(low[i], high[i], signed) || null },
        make("span", { class: "number" }, write === whole ? whole(change[i]) : signed(change[i])),
        write === whole ? null : bar(known(change[i]) ? change[i] / most : null,
          known(low[i]) ? low[i] / most : null, known(high[i]) ? high[i] / most : null,
          { middle: true, tone: tone(i) })),
    },
  ];
}

const KINDS = ["classification", "localisation", "both", "duplicate", "background", "missed"];

function errorColumns() {
  const cost = (run, kind, i) => run.errors[kind].cost[i];
  const most = Math.max(0.01, ...KINDS.flatMap((kind) => RUN.errors[kind].cost.filter(known)));
  return [nameColumn(), countColumn("val_boxes", "boxes to find", ""), ...KINDS.map((kind) => ({
    key: kind, title: kind,
    value: (i) => cost(RUN, kind, i),
    cell: (i) => {
      const { count, shown } = RUN.errors[kind];
      const value = cost(RUN, kind, i);
      const old = BEFORE && BEFORE.errors[kind] ? `${decimals(cost(BEFORE, kind, i))} \u2192 ` : "";
      const words = `${whole(count[i])} in all, ${whole(shown[i])} at or above the score floor`;
      return make("td", { title: words }, make("span", { class: "cellwrap" },
        old ? make("span", { class: "small" }, old) : null,
        make("span", { class: "number" }, decimals(value)),
        make("span", { class: "small" }, `n ${whole(shown[i])}`),
        known(value) ? make("span", { class: "fill", "--p": Math.max(0, 100 * value / most).toFixed(1) }) : null));
    },
  }))];
}
