"use strict";
// Rows from which a table is very long, and how many of them paper has then.
const VERY_LONG = 200;
const ON_PAPER = 70;

// A table that sorts by click or key, undefined values last, and draws so many rows at first.

// Columns: {key, title, value(row), cell(row), help, kind, ascending, over, span}; "kind" are the
// classes of their cells. Rows are indices; where "marks" is set they are classes, and the chosen one is marked.
class SortedTable {
  constructor(element, more, columns, { rows, first, marks = false }) {
    Object.assign(this, { element, more, columns, rows, first, marks });
    this.limit = first;
    this.sort = null;
    this.kept = () => true;
    more.addEventListener("click", () => { this.limit = Infinity; this.draw(); });
    this.drawHead();
    this.draw();
  }

  setColumns(columns) {
    const key = this.sort && this.columns[this.sort.column].key;
    const column = columns.findIndex((one) => one.key === key);
    this.columns = columns;
    this.sort = column < 0 ? null : { ...this.sort, column };
    this.drawHead();
    this.draw();
  }

  filter(kept) {
    this.kept = kept;
    this.limit = this.first;
    this.draw();
  }

  // Columns with a heading "over" them share a second row of headings.
  drawHead() {
    const two = this.columns.some((column) => column.over);
    const [top, head] = [make("tr"), make("tr")];
    this.columns.forEach((column, place) => {
      const button = make("button", { type: "button", title: column.help }, column.title);
      button.addEventListener("click", () => this.sortBy(place));
      // Browsers repeat headings on every sheet of paper, but no buttons in them.
      const words = make("span", { class: "on-paper", "aria-hidden": "true" }, column.title);
      column.head = make("th", { scope: "col", class: column.kind }, button, words);
      if (column.span) {
        const over = { class: "over first", colspan: column.span, scope: "colgroup" };
        top.append(make("th", over, column.over));
      }
      if (two && !column.over) column.head.setAttribute("rowspan", 2);
      (two && !column.over ? top : head).append(column.head);
    });
    this.body = make("tbody");
    this.element.replaceChildren(make("thead", {}, ...(two ? [top, head] : [head])), this.body);
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
    const keys = new Map(rows.map((row) => [row, value(row)]));
    return rows.sort((a, b) => {
      const [one, other] = [keys.get(a), keys.get(b)];
      if (known(one) !== known(other)) return known(one) ? -1 : 1; // undefined last, either way
      if (!known(one) || one === other) return a - b;
      return sign * (typeof one === "string" ? one.localeCompare(other) : one - other) || a - b;
    });
  }

  draw() {
    this.columns.forEach((column, place) => {
      const sorted = this.sort && this.sort.column === place;
      const direction = sorted && this.sort.descending ? "descending" : "ascending";
      if (sorted) column.head.setAttribute("aria-sort", direction);
      else column.head.removeAttribute("aria-sort");
    });
    const rows = this.order();
    const lines = rows.slice(0, this.limit).map((row) => this.line(row));
    this.more.hidden = lines.length === rows.length;
    this.more.textContent = `Show all ${whole(rows.length)}`;
    if (this.onDraw) this.onDraw(lines.length, rows.length);
    if (!lines.length) {
      const cell = make("td", { class: "none-found", colspan: this.columns.length }, "No class matches.");
      lines.push(make("tr", {}, cell));
    }
    if (this.printing && lines.length < rows.length) {
      const left = `${whole(rows.length - lines.length)} more rows are not printed: report.csv has all.`;
      lines.push(make("tr", {}, make("td", { class: "none-found", colspan: this.columns.length }, left)));
    }
    this.body.replaceChildren(...lines);
  }

  line(row) {
    const cells = this.columns.map((column) => {
      const cell = column.cell(row);
      if (column.kind) cell.classList.add(...column.kind.split(" "));
      return cell;
    });
    if (!this.marks) return make("tr", {}, ...cells);
    return make("tr", { "data-class": row, class: row === chosenClass ? "chosen" : null }, ...cells);
  }

  // Paper has no button to press: all rows are there while it prints, or very many of them.
  expand(open) {
    if (open) this.limitOnScreen = this.limit;
    const length = this.rows.filter(this.kept).length;
    this.printing = open;
    this.limit = !open ? this.limitOnScreen : length > VERY_LONG ? ON_PAPER : Infinity;
    this.draw();
  }
}
