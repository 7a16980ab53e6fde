"use strict";
// Data of the page, and how numbers and elements are written.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SPECS = JSON.parse(document.getElementById("specs").textContent);
const CLASSES = DATA.classes;
const RUN = DATA.runs[0];
const BEFORE = DATA.runs[1] || null;
const NUMBER = CLASSES.name.length;
const COMPARED = BEFORE !== null || Object.keys(DATA.differences).length > 0;
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

const byId = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined;
const whole = (value) => (known(value) ? value.toLocaleString("en-US") : "-");

function decimals(value) {
  if (!known(value)) return "-";
  const text = Math.abs(value).toFixed(3).replace(/^0\./, ".");
  return value < 0 && Number(value.toFixed(3)) !== 0 ? "\u2212" + text : text;
}

function signed(value) {
  if (!known(value)) return "-";
  return (value >= 0.0005 ? "+" : "") + decimals(value);
}

function interval(low, high, write = decimals) {
  return known(low) && known(high) ? `[${write(low)}, ${write(high)}]` : "";
}

// Elements are made from texts only, never from markup: names of classes are foreign.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

function shorten(text, length) {
  const letters = Array.from(text);
  return letters.length > length ? letters.slice(0, length - 1).join("") + "\u2026" : text;
}

function className(place) {
  return place < 0 ? "background" : CLASSES.name[place];
}

function unpack(text) {
  const values = new Float32Array(text.length / 2);
  for (let i = 0; i < values.length; i++) {
    values[i] = (64 * ALPHABET.indexOf(text[2 * i]) + ALPHABET.indexOf(text[2 * i + 1])) / 4095;
  }
  return values;
}

function bar(point, low, high, { middle = false, tone = null } = {}) {
  if (!known(point)) return null;
  const percent = (value) => (middle ? 50 + 50 * value : 100 * value).toFixed(1);
  const clip = (value) => Math.min(middle ? 1 : 1, Math.max(middle ? -1 : 0, value));
  const style = { class: middle ? "bar middle" : "bar", "aria-hidden": "true", "--p": percent(clip(point)) };
  if (known(low) && known(high)) {
    style["--l"] = percent(clip(low));
    style["--h"] = percent(clip(high));
  }
  if (tone) style["--tone"] = tone;
  return make("span", style);
}

const FIGURES = [
  ["AP", "AP", "average precision over IoU .50 to .95"],
  ["AP50", "AP50", "average precision at IoU .50"],
  ["AP75", "AP75", "average precision at IoU .75"],
  ["AR", "AR", "recall averaged over IoU .50 to .95, all scores"],
  ["recall", "recall", `recall at IoU .50, scores from ${DATA.settings.score_floor}`],
  ["precision", "precision", `precision at IoU .50, scores from ${DATA.settings.score_floor}; n: detections`],
  ["f_score", "F", `F-${DATA.settings.beta} of recall and precision`],
  ["best_f", "best F", "highest F-score over all score floors", "best_f_score"],
  ["recall_at_precision", `recall at precision ${DATA.settings.min_precision}`, "with the score floor of it", "score_at_precision"],
  ["recall_at_fppi", `recall at ${DATA.settings.max_fppi} false/image`, "with the score floor of it", "score_at_fppi"],
  ["recall75", "recall75", "recall at IoU .75"],
  ["precision75", "precision75", "precision at IoU .75"],
  ["fixed_AP", "fixed AP", "AP with the detections cut per class over the whole file"],
  ["APs", "AP small", ""], ["APm", "AP medium", ""], ["APl", "AP large", ""],
  ["AR1", "AR1", "one detection per image"], ["AR10", "AR10", "ten detections per image"],
  ["ARs", "AR small", ""], ["ARm", "AR medium", ""], ["ARl", "AR large", ""],
  ["positive_share", "positive share", "part of the class's gradient in training that raised it"],
  ["more_boxes", "boxes wanted", "boxes that val lacks to know recall to +-.05", null, whole],
].filter(([key]) => RUN.figures[key]).map(([key, title, help, score, write]) => (
  { key, title, help, score: score || null, write: write || decimals }
));

function values(figure) {
  // Both sides and the difference of one figure for every class.
  const pair = DATA.differences[figure];
  const ours = pair ? pair.ours : RUN.figures[figure];
  const old = pair ? pair.baseline : BEFORE ? BEFORE.figures[figure] || [] : [];
  const change = pair ? pair.difference : ours.map((value, i) => (
    known(value) && known(old[i]) ? value - old[i] : null));
  return { ours, old, change, low: pair ? pair.low : [], high: pair ? pair.high : [] };
}
