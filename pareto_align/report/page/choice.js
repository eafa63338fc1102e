"use strict";
// From a preference to a member: what front/selection.py and report/request.py do, in the same order of operations.
// All values are maximised here, as they are there; `null` in the data is a number that is not known.

let DATA, OBJECTIVES, MEMBERS, AXES;
const ROUNDING = 8 * Number.EPSILON;
const DRAWS = 4000;
const RULES = ["chebyshev", "linear", "knee"];

const sign = i => OBJECTIVES[i].maximize ? 1 : -1;
const known = value => value === null ? NaN : value;
const sum = values => values.reduce((a, b) => a + b, 0);
let VALUES, LOWER, UPPER, errors;

/** Take a front as `content.py` tells it. */
function take(data) {
  DATA = data;
  ({ objectives: OBJECTIVES, members: MEMBERS } = data);
  AXES = OBJECTIVES.flatMap((objective, i) => objective.role === "optimize" ? [i] : []);
  VALUES = MEMBERS.map(member => AXES.map(i => sign(i) * known(member.mean[i])));
  [LOWER, UPPER] = [AXES.map(i => OBJECTIVES[i].lower), AXES.map(i => OBJECTIVES[i].upper)];
  errors = null;
}

// ---- limits ---------------------------------------------------------------------------------------------------------

/** Limits in the order in which `front.select` reads them: lower ones, then upper ones. */
function limitsOf(bounds) {
  const set = bounds.flatMap((bound, column) => bound === null ? [] : [{ column, bound }]);
  return [...set.filter(l => OBJECTIVES[l.column].maximize), ...set.filter(l => !OBJECTIVES[l.column].maximize)];
}

/** How far a value in the user's units misses a limit; 0 or less where it keeps it, NaN where it is not known. */
function missedBy({ column, bound }, value) {
  const found = sign(column) * known(value), least = sign(column) * bound, missed = least - found;
  return Math.abs(missed) <= ROUNDING * Math.max(Math.abs(found), Math.abs(least)) ? 0 : missed;
}

/** The members whose means keep all limits, and the one that comes nearest to it. */
function keeping(limits) {
  const missed = MEMBERS.map(member => limits.map(limit => missedBy(limit, member.mean[limit.column])));
  const spans = limits.map(({ column }) => {
    const column_ = MEMBERS.map(member => known(member.mean[column]));
    return Math.max(...column_) - Math.min(...column_) || 1;
  });
  const worst = missed.map(row => {
    const shares = row.map((by, j) => Math.max(by, 0) / spans[j]);
    return shares.some(Number.isNaN) ? Infinity : Math.max(0, ...shares);
  });
  return {
    rows: MEMBERS.map((_, k) => k).filter(k => missed[k].every(by => by <= 0)),
    nearest: worst.indexOf(Math.min(...worst)),
  };
}

// ---- utilities ------------------------------------------------------------------------------------------------------

/**
 * The utility of points [m] under a rule: the sum of slope (v - from), or where `worstOf` the least of them; and the unit
 * of each axis in it.
 */
function utilityOf(rule, weights, points) {
  const axes = weights.map((_, j) => j);
  let from = LOWER, unit = axes.map(j => UPPER[j] - LOWER[j]), scale = 1;
  if (rule === "chebyshev") ({ ideal: from, span: unit } = DATA.place);
  if (rule === "knee") {
    const low = axes.map(j => Math.min(...points.map(v => v[j]))), high = axes.map(j => Math.max(...points.map(v => v[j])));
    const apart = j => high[j] - low[j] > ROUNDING * Math.max(Math.abs(low[j]), Math.abs(high[j]));
    [from, unit, scale] = [low, axes.map(j => apart(j) ? high[j] - low[j] : Infinity), axes.length];
  }
  const worstOf = rule === "chebyshev", parts = v => axes.map(j => scale * ((v[j] - from[j]) / unit[j]) * weights[j]);
  return { of: v => worstOf ? Math.min(...parts(v)) : sum(parts(v)), slope: axes.map(j => scale * weights[j] / unit[j]), from, worstOf, unit };
}

/** The first two rows, best first, by keys of falling weight; values within `rounding` are equal. */
function ranked(keys, rounding) {
  let left = keys[0].map((_, row) => row);
  const order = [];
  while (order.length < 2 && left.length) {
    let best = left;
    for (const key of keys) {
      const most = Math.max(...best.map(row => key[row]));
      best = best.filter(row => key[row] >= most - rounding);
    }
    order.push(best[0]);
    left = left.filter(row => row !== best[0]);
  }
  return order;
}

/** Weights with sum 1; where none counts anything, all count the same. */
function shares(weights) {
  const most = Math.max(...weights), scaled = weights.map(w => most > 0 ? w / most : 1), total = sum(scaled);
  return scaled.map(w => w / total);
}

/**
 * The member that serves a preference, or why there is none.
 * weights: [m] of any scale; bounds: [M] limits in the user's units or null.
 */
function choose(weights, rule, bounds) {
  if (!MEMBERS.length) return { problem: "This front has no members to choose from." };
  const w = shares(weights), limits = limitsOf(bounds), kept = keeping(limits);
  if (!kept.rows.length) return { limits, nearest: kept.nearest };
  const rows = kept.rows.filter(k => VALUES[k].every(v => !Number.isNaN(v)));
  if (!rows.length) return { problem: "There is no member to choose from." };
  const points = rows.map(k => VALUES[k]), utility = utilityOf(rule, w, points);
  const framed = points.map(v => v.map((x, j) => (x - LOWER[j]) / (UPPER[j] - LOWER[j])));
  const score = points.map(utility.of);
  const sizes = w.map((_, j) => Math.max(Math.abs(LOWER[j]), Math.abs(UPPER[j]), ...points.map(v => Math.abs(v[j]))));
  const rounding = ROUNDING * w.length * Math.max(...sizes.map((size, j) => size / utility.unit[j]));
  const byHand = framed.map(v => sum(v.map((x, j) => x * w[j])));
  const order = ranked([score, byHand, framed.map(sum)], rounding);
  return {
    weights: w, rule, limits, rows, utility, rounding, best: order[0],
    row: rows[order[0]],
    runnerUp: order.length > 1 ? rows[order[1]] : null,
    score: score[order[0]],
    excluded: MEMBERS.length - kept.rows.length,
    unsure: limits.filter(limit => !surely(limit, rows[order[0]])),
  };
}

/** Whether the whole 95 % interval of a member's mean keeps a limit. */
function surely(limit, k) {
  const { low, high } = MEMBERS[k], worst = OBJECTIVES[limit.column].maximize ? low : high;
  return missedBy(limit, worst[limit.column]) <= 0;
}

// ---- noise ----------------------------------------------------------------------------------------------------------

/** Pseudo-random numbers in [0, 1), the same in every browser (mulberry32). */
function uniforms(seed) {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function normals(uniform) { // Box and Muller
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** Chi-squared over its degrees of freedom (Marsaglia and Tsang, "A simple method for generating gamma variables"). */
function spreadOf(freedom, normal, uniform) {
  let shape = freedom / 2, boost = 1;
  if (shape < 1) { boost = (1 - uniform()) ** (1 / shape); shape += 1; }
  const d = shape - 1 / 3, c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = normal(), v = (1 + c * x) ** 3;
    if (v > 0 && Math.log(1 - uniform()) < x * x / 2 + d - d * v + d * Math.log(v)) return 2 * d * v * boost / freedom;
  }
}

/** The factor of the errors' covariance, unpacked: `rows` rows of `size` numbers, zero below the diagonal. */
function factorOf({ factor, scale, rows }) {
  const bytes = Uint8Array.from(atob(factor), c => c.charCodeAt(0)), view = new DataView(bytes.buffer);
  const size = scale.length, full = new Float64Array(rows * size);
  for (let i = 0, at = 0; i < rows; i++)
    for (let j = i; j < size; j++, at += 2) full[i * size + j] = view.getInt16(at, true) * scale[j];
  return full;
}

/** [DRAWS, n, m] draws of how far the true means may lie from the measured ones; each comes with its opposite. */
function drawErrors() {
  const n = MEMBERS.length, m = AXES.length, size = n * m, noise = DATA.noise;
  const uniform = uniforms(20250101), normal = normals(uniform), errors = new Float32Array(DRAWS * size);
  const factor = noise.factor === undefined ? null : factorOf(noise), row = new Float64Array(size);
  const kinds = noise.kinds.flat(), units = noise.units.flat();
  for (let draw = 0; draw < DRAWS; draw += 2) {
    if (factor) {
      row.fill(0);
      for (let i = 0; i < noise.rows; i++) {
        const z = normal();
        for (let j = i, at = i * size + i; j < size; j++, at++) row[j] += z * factor[at];
      }
      const by = 1 / Math.sqrt(spreadOf(noise.freedom, normal, uniform));
      for (let j = 0; j < size; j++) row[j] *= by;
    } else {
      for (let j = 0; j < size; j++) {
        const spread = noise.stderr[Math.floor(j / m)][j % m];
        row[j] = normal() * spread / Math.sqrt(spreadOf(Math.max(units[j] - 1, 1), normal, uniform));
      }
    }
    for (let j = 0; j < size; j++) {
      errors[draw * size + j] = kinds[j] === "unknown" ? NaN : row[j];
      errors[(draw + 1) * size + j] = kinds[j] === "unknown" ? NaN : -row[j];
      if (kinds[j] === "alike") { // the measurement that was not made counts Beta(1, n) towards an end
        const [low, high] = OBJECTIVES[AXES[j % m]].bounds, value = VALUES[Math.floor(j / m)][j % m];
        for (const at of [draw, draw + 1])
          errors[at * size + j] = (1 - (1 - uniform()) ** (1 / units[j])) * ((uniform() < 0.5 ? low : high) - value);
      }
    }
  }
  return errors;
}

/** How probable it is that the choice is truly the best, and its expected regret; NaN where the noise is not known. */
function sureness({ rows, utility, rounding, best, rule, weights }) {
  if (rows.length === 1) return { probability: 1, regret: 0 };
  errors ??= drawErrors();
  const m = AXES.length, size = MEMBERS.length * m, count = rows.length;
  const [worst, top] = attainable(rule, rows.map(k => VALUES[k])), { slope, from, worstOf } = utility;
  const values = Float64Array.from(rows.flatMap(k => VALUES[k])), at = rows.map(k => k * m);
  let firsts = 0, regret = 0;
  for (let draw = 0; draw < DRAWS; draw++) {
    let most = -Infinity, mine = 0, mostWithin = -Infinity, mineWithin = 0, largest = 0;
    for (let row = 0; row < count; row++) {
      let found = worstOf ? Infinity : 0, within = found;
      for (let j = 0; j < m; j++) {
        if (weights[j] === 0 && !worstOf) continue; // what does not count may well not be known
        const v = values[row * m + j] + (weights[j] === 0 ? 0 : errors[draw * size + at[row] + j]);
        const part = slope[j] * (v - from[j]), clipped = slope[j] * ((v < worst[j] ? worst[j] : v > top[j] ? top[j] : v) - from[j]);
        if (part !== part) return { probability: NaN, regret: NaN };
        if (worstOf) { if (part < found) found = part; if (clipped < within) within = clipped; }
        else { found += part; within += clipped; }
      }
      if (found > most) most = found;
      if (within > mostWithin) mostWithin = within;
      if (Math.abs(found) > largest) largest = Math.abs(found);
      if (row === best) { mine = found; mineWithin = within; }
    }
    if (most - mine <= rounding + ROUNDING * largest) firsts++;
    regret += mostWithin - mineWithin;
  }
  return { probability: firsts / DRAWS, regret: regret / DRAWS };
}

/** Ends of where the true values may lie, [m] each. */
function attainable(rule, points) {
  const worst = AXES.map((_, j) => Math.min(...points.map(v => v[j]))), top = AXES.map((_, j) => Math.max(...points.map(v => v[j])));
  if (rule === "knee") return [worst, top];
  for (let j = 0; j < AXES.length; j++) {
    const low = Math.min(worst[j], LOWER[j]), high = Math.max(top[j], UPPER[j]), bounds = OBJECTIVES[AXES[j]].bounds;
    [worst[j], top[j]] = bounds ?? [low - (high - low), high + (high - low)];
  }
  return [worst, top];
}
