"use strict";
// FROC and reliability of one class, beside its baseline and its group.

const RATES = DATA.settings.froc_rates;

const groupOf = (i) => (
  CLASSES.group[i] ? places().filter((other) => CLASSES.group[other] === CLASSES.group[i]) : []);

function frocRows(i, run, side) {
  const packed = DATA.runs[run] && DATA.runs[run].froc[i];
  if (!packed) return [];
  const [recall, scores] = packed.map(unpack);
  return Array.from(RATES, (rate, k) => ({
    side, rate, value: recall[k], text: decimals(recall[k]), score: recall[k] ? decimals(scores[k]) : "none",
    of: side === "class" ? CLASSES.name[i] : "baseline",
  }));
}

function frocChart(i) {
  const curves = groupOf(i).map((other) => RUN.froc[other]).filter(known).map(([text]) => unpack(text));
  const mean = curves.length < 2 ? [] : Array.from(RATES, (rate, k) => {
    const value = curves.reduce((sum, curve) => sum + curve[k], 0) / curves.length;
    return { side: "group", rate, value, text: decimals(value), score: "", of: `mean of ${CLASSES.group[i]} classes` };
  });
  return { points: [...frocRows(i, 0, "class"), ...frocRows(i, 1, "baseline"), ...mean] };
}

const othersInWords = (i) => [
  BEFORE ? "dashed: the baseline" : "",
  groupOf(i).length > 1 ? `dotted: ${CLASSES.group[i]} classes` : "",
].filter(Boolean).join("; ");

function frocWords(i) {
  if (!RUN.froc[i]) return "This class has no boxes to find.";
  return `Whole: the class${othersInWords(i) ? `; ${othersInWords(i)}` : ""}.`;
}

// Right and all detections of some classes in each step of the score.
function binsOf(classes, run) {
  const bins = classes.map((i) => DATA.runs[run].histograms[i]).filter(known);
  const sum = (side, k) => bins.reduce((total, one) => total + one[side][k], 0);
  return Array.from({ length: bins.length ? bins[0][0].length : 0 }, (_, k) => ({
    right: sum(0, k), number: sum(0, k) + sum(1, k),
  }));
}

function reliabilityRows(classes, run, side, of) {
  const bins = binsOf(classes, run);
  return bins.flatMap(({ right, number }, k) => (number ? [{
    side, of, start: (k + 0.5) / bins.length, value: right / number, text: decimals(right / number),
    amount: whole(number), span: `${decimals(k / bins.length, 2)} to ${decimals((k + 1) / bins.length, 2)}`,
  }] : []));
}

function reliabilityChart(i) {
  const members = groupOf(i);
  return { points: [
    ...reliabilityRows([i], 0, "class", CLASSES.name[i]),
    ...(DATA.runs.length > 1 ? reliabilityRows([i], 1, "baseline", "baseline") : []),
    ...(members.length > 1 ? reliabilityRows(members, 0, "group", `all ${CLASSES.group[i]} classes`) : []),
  ] };
}

// How far scores are from the share that is right, on average over the detections.
function calibrationError(bins) {
  const number = bins.reduce((sum, bin) => sum + bin.number, 0);
  const apart = bins.reduce((sum, bin, k) => sum + Math.abs(bin.right - bin.number * (k + 0.5) / bins.length), 0);
  return number ? apart / number : null;
}

function reliabilityWords(i) {
  const error = calibrationError(binsOf([i], 0));
  if (error === null) return "There are no detections of this class.";
  return `Below the diagonal scores promise too much. Whole: the class, whose scores are ${decimals(error)} off on`
    + ` average (expected calibration error in 20 steps)${othersInWords(i) ? `; ${othersInWords(i)}` : ""}.`;
}
