"use strict";
// Data of the page, and how numbers and elements are written.

const DATA = JSON.parse(document.getElementById("data").textContent);
const { style: CHART_STYLE, charts: SPECS } = JSON.parse(document.getElementById("specs").textContent);
const CLASSES = DATA.classes;
const RUN = DATA.runs[0];
const BEFORE = DATA.runs[1] || null;
const NUMBER = CLASSES.name.length;
const TESTED = Object.keys(DATA.differences).length > 0;
const COMPARED = BEFORE !== null || TESTED;
const GROUPS = ["rare", "common", "frequent"];
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

const byId = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined;
const THOUSANDS = new Intl.NumberFormat("en-US");
const whole = (value) => (known(value) ? THOUSANDS.format(value) : "-");
const places = () => [...CLASSES.name.keys()];
// Classes that nothing can be said of come last.
const measured = (i) => CLASSES.val_boxes[i] > 0 || RUN.detections[i] > 0;
const measuredFirst = () => [...places().filter(measured), ...places().filter((i) => !measured(i))];

// Three decimals, or so many, without the leading zero.
function decimals(value, digits = 3) {
  if (!known(value)) return "-";
  const text = Math.abs(value).toFixed(digits).replace(/^0\./, ".");
  return value < 0 && Number(text) !== 0 ? `\u2212${text}` : text;
}

function signed(value, write = decimals) {
  if (!known(value)) return "-";
  const text = write(Math.abs(value));
  if (Number(text) === 0) return text;
  return (value > 0 ? "+" : "\u2212") + text;
}

// As many decimals as it takes that an end which is not 0 does not look like 0.
function signedPrecisely(...ends) {
  const least = Math.min(...ends.filter(Boolean).map(Math.abs));
  let digits = 3;
  while (digits < 9 && Number(least.toFixed(digits)) === 0) digits += 1;
  return (end) => signed(end, (size) => size.toFixed(digits).replace(/^0\./, "."));
}

function interval(low, high, write = decimals) {
  return known(low) && known(high) ? `[${write(low)}, ${write(high)}]` : "";
}

// Elements are made from texts only, never from markup: names of classes are foreign.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || !known(value)) continue;
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => known(child) && child !== ""));
  return element;
}

function shorten(text, length) {
  const letters = Array.from(text);
  return letters.length > length ? `${letters.slice(0, length - 1).join("")}\u2026` : text;
}

// A class that a click chooses; background is only a word.
function classButton(place, scroll = true) {
  const name = CLASSES.name[place];
  const button = make("button", { type: "button", class: "pick", title: name }, make("bdi", {}, name));
  button.addEventListener("click", () => choose(place, scroll));
  return button;
}

function unpack(text) {
  const values = new Float32Array(text.length / 2);
  for (let i = 0; i < values.length; i++) {
    const level = 64 * ALPHABET.indexOf(text[2 * i]) + ALPHABET.indexOf(text[2 * i + 1]);
    values[i] = level / 4095;
  }
  return values;
}

// A dot on a line from 0 to 1, or from -1 to 1 with 0 in the middle, with its interval.
function bar(point, low, high, { middle = false, tone = null } = {}) {
  if (!known(point)) return null;
  const place = (value) => {
    const inside = Math.min(1, Math.max(middle ? -1 : 0, value));
    return (middle ? 50 + 50 * inside : 100 * inside).toFixed(1);
  };
  const spread = known(low) && known(high) ? { "--l": place(low), "--h": place(high) } : {};
  const kind = middle ? "bar middle" : "bar";
  const look = { "--p": place(point), "--tone": tone, ...spread };
  return make("span", { class: kind, "aria-hidden": "true", ...look });
}

// What the table can show, as the program's table of figures has it: title, help, digits, whether
// it is shown at first; with "score" the score threshold of the figure stands beside it.
const FIGURES = DATA.figures.filter(({ key }) => RUN.figures[key])
  .map((figure) => ({ ...figure, write: (value) => (figure.digits ? decimals(value, figure.digits) : whole(value)) }));

// Both sides of one figure for every class, and the differences with what is known of them.
function values(figure) {
  const tested = DATA.differences[figure];
  if (tested) {
    const { ours, baseline, difference, low, high, real } = tested;
    return { ours, old: baseline, change: difference, low, high, real };
  }
  const ours = RUN.figures[figure];
  const old = (BEFORE && BEFORE.figures[figure]) || [];
  const change = ours.map((value, i) => (known(value) && known(old[i]) ? value - old[i] : null));
  return { ours, old, change, low: [], high: [], real: [] };
}
