// What is said about a choice: the sentences of report/explanation.py and report/request.py, and the command to get it.

const READINGS = { chebyshev: "a place on the front", linear: "an exchange rate" };
const SURE = 0.9, CLOSE = 0.6, SHOWN_ALIKE = 0.006;

/** A number with a fixed count of decimals as Python writes it: a tie goes to the even digit, and no zero is negative. */
function fixed(value, digits) {
  if (!Number.isFinite(value)) return "-";
  let text = value.toFixed(digits);
  const exact = Math.abs(value).toFixed(100), tail = exact.slice(exact.indexOf(".") + 1 + digits);
  if (/^50*$/.test(tail) && Number(text.at(-1)) % 2) {
    const even = Math.abs(Number(text)) - 10 ** -digits;
    text = (value < 0 ? "-" : "") + even.toFixed(digits);
  }
  return Number(text) === 0 ? text.replace("-", "") : text;
}

/** A number with so many significant digits, as Python's format "g" writes it. */
function general(value, digits) {
  if (value === 0) return "0";
  const [mantissa, exponent] = value.toExponential(digits - 1).split("e"), power = Number(exponent);
  const trimmed = text => text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  if (power < -4 || power >= digits)
    return `${trimmed(mantissa)}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
  return trimmed(value.toFixed(Math.max(digits - 1 - power, 0)));
}

const shown = (value, i) => fixed(known(value), OBJECTIVES[i].digits);
const listed = parts => parts.length > 1 ? `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}` : parts[0] ?? "";
const limitText = ({ column, bound }) =>
  `${OBJECTIVES[column].name} ${OBJECTIVES[column].maximize ? "at least" : "at most"} ${general(bound, 6)}`;

/** A mean with its 95 % interval. */
function intervalText(member, i) {
  const [value, low, high] = [member.mean[i], member.low[i], member.high[i]];
  if (value === null || low === null || high === null) return shown(value, i);
  const lopsided = Math.abs(low + high - 2 * value) > 10 ** -OBJECTIVES[i].digits;
  return lopsided ? `${shown(value, i)} (${shown(low, i)} to ${shown(high, i)})` : `${shown(value, i)} ± ${shown((high - low) / 2, i)}`;
}

/** Two sentences for somebody who decides: `Choice.explain()`. */
function explanation(found, sure) {
  const { row, runnerUp } = found, chosen = MEMBERS[row];
  const reached = OBJECTIVES.map((objective, i) =>
    `${objective.name} ${shown(chosen.mean[i], i)}` + (DATA.untrained ? against(known(chosen.mean[i]), known(DATA.untrained.mean[i]), i) : ""));
  const first = `${chosen.id} has ${listed(reached)}.`;
  if (runnerUp === null) return `${first} No other member comes into question.`;
  const changes = OBJECTIVES.flatMap((objective, i) => {
    const change = known(MEMBERS[runnerUp].mean[i]) - known(chosen.mean[i]), text = fixed(Math.abs(change), objective.digits);
    if (!Number.isFinite(change) || Number(text) === 0) return [];
    return [`${text} ${change > 0 ? "more" : "less"} ${objective.name} (${change * sign(i) > 0 ? "better" : "worse"})`];
  });
  const other = `${MEMBERS[runnerUp].id}, the runner-up, would have ${listed(changes) || "the same values"}`;
  return `${first} ${other}; ${inWords(sure.probability)}.`;
}

/** The untrained model's value, and what is gained or lost on it. */
function against(value, before, i) {
  const change = fixed(Math.abs(value - before), OBJECTIVES[i].digits), side = (value - before) * sign(i) > 0 ? "better" : "worse";
  const told = !Number.isFinite(value - before) ? "" : Number(change) === 0 ? ", the same" : `, so ${change} ${side}`;
  return ` (untrained ${fixed(before, OBJECTIVES[i].digits)}${told})`;
}

function inWords(probability) {
  if (Number.isNaN(probability)) return "which of them is better is not known, as too little was measured";
  const told = probability >= SURE ? "the choice is sure" : probability < CLOSE ? "a close call" : "likely the best";
  return `${told}, with probability ${fixed(probability, 2)}`;
}

/** Why this one, and how the preference was read: `Choice.reason`. `instead` is what the other readings would choose. */
function reason(found, sure, instead) {
  const { row, runnerUp, rule, weights, excluded, unsure } = found;
  const wish = AXES.flatMap((i, j) => weights[j] > 0 ? [`${OBJECTIVES[i].name} ${fixed(weights[j], 2)}`] : []);
  let text = `${MEMBERS[row].id} is best for ${listed(wish)}`;
  if (rule in READINGS && AXES.length > 1)
    text += `, read as ${READINGS[rule]}` + (rule === DATA.rule ? " like the run did" : "");
  if (runnerUp !== null) {
    text += `, before ${MEMBERS[runnerUp].id}; ` + (Number.isNaN(sure.probability)
      ? "whether it is truly the best is not known: one measurement, or a few all equal, say nothing of noise"
      : `on the mean over all prompts like these it is the best with probability ${fixed(sure.probability, 2)}`);
  }
  if (excluded) text += `; ${excluded} member${excluded === 1 ? "" : "s"} did not keep the limits`;
  if (unsure.length) text += `. It keeps ${unsure.map(limitText).join(" and ")} in the mean, but not with 95 % confidence`;
  const meant = rule === DATA.rule && AXES.length > 1 ? trainedFor(weights, found.rows) : [];
  if (meant.length && !meant.includes(row))
    text += `. ${listed(meant.map(k => MEMBERS[k].id))} ${meant.length === 1 ? "was" : "were"} trained for this very preference; by what was measured ${MEMBERS[row].id} serves it better`;
  if (rule in READINGS && DATA.untrained) {
    const { mean } = DATA.untrained, before = AXES.map(i => sign(i) * known(mean[i]));
    const held = [...found.limits, ...OBJECTIVES.flatMap(({ threshold }, column) => threshold === null ? [] : [{ column, bound: threshold }])];
    const keeps = held.every(limit => missedBy(limit, mean[limit.column]) <= 0);
    if (keeps && found.utility.of(before) > found.score + found.rounding) text += ". The untrained model serves it better than any of them, as far as it was measured";
  }
  for (const [other, k] of instead)
    text += `. Read as ${READINGS[other]} (rule '${other}') the preference would choose ${MEMBERS[k].id}`;
  return `${text}.`;
}

/** Which rows were trained for a preference, as far as a table shows it. */
const trainedFor = (weights, rows) => rows.filter(k => MEMBERS[k].preference?.every((w, j) => Math.abs(w - weights[j]) <= SHOWN_ALIKE));

/** Why there is no choice: the message of `front.select`. */
function refusal({ problem, limits, nearest }) {
  if (problem) return problem;
  const reached = limits.flatMap(limit => missedBy(limit, MEMBERS[nearest].mean[limit.column]) <= 0 ? [] :
    [`${OBJECTIVES[limit.column].name} ${general(known(MEMBERS[nearest].mean[limit.column]), 4)}`]);
  return `No member keeps ${limits.map(limitText).join(" and ")}. The nearest is ${MEMBERS[nearest].id} with ${reached.join(", ")}.`;
}

/** The command that chooses the same member. The data carries names as words of a shell. */
function command(weights, rule, limits) {
  const words = [`pareto-align select ${DATA.run} --prefer`];
  AXES.forEach((i, j) => words.push(`${OBJECTIVES[i].word}=${weights[j]}`));
  words.push(`--rule ${rule}`);
  for (const [option, maximize] of [["--at-least", true], ["--at-most", false]]) {
    const given = limits.filter(({ column }) => OBJECTIVES[column].maximize === maximize);
    if (given.length) words.push(option, ...given.map(({ column, bound }) => `${OBJECTIVES[column].word}=${bound}`));
  }
  return words.join(" ");
}
