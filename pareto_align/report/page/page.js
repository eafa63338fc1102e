// The page: what is asked, kept in the address, and everything that follows from it.

const $ = id => document.getElementById(id);
const NAMES = {
  chebyshev: ["a place on the front", "The member that falls least short of the best, by the weighted share of what the members span. Every member can be chosen."],
  linear: ["an exchange rate", "Weighted values are added up. Members in a dent of the front are never chosen."],
  knee: ["the knee", "Where giving up a little of one objective no longer buys much of another."],
};
const plain = () => ({
  weights: AXES.map(() => 50), rule: DATA.rule, limits: OBJECTIVES.map(() => null), prompt: 0, pinned: null,
  x: AXES[0], y: AXES[1] ?? OBJECTIVES.map((_, i) => i).find(i => i !== AXES[0]) ?? AXES[0], everyone: false, sort: null,
});
let state, START;
let fresh = new Set(); // the members that were not there at the measurement before, of a run that goes on

// ---- the address ------------------------------------------------------------------------------------------------------

/** The state as the address tells it: only what differs from the start. */
function written() {
  const told = new URLSearchParams();
  if (String(state.weights) !== String(START.weights)) told.set("prefer", state.weights.join(","));
  if (state.rule !== START.rule) told.set("rule", state.rule);
  state.limits.forEach((bound, i) => { if (bound !== null) told.set(`limit.${i}`, bound); });
  for (const name of ["x", "y", "prompt"]) if (state[name] !== START[name]) told.set(name, state[name]);
  if (state.everyone) told.set("everyone", 1);
  if (state.pinned !== null) told.set("pin", state.pinned);
  return told.toString();
}

/** A state from an address, which may say anything. */
function read(hash) {
  const told = new URLSearchParams(hash.replace(/^#/, "")), found = structuredClone(START);
  const whole = (name, count) => /^\d{1,6}$/.test(told.get(name) ?? "") && Number(told.get(name)) < count ? Number(told.get(name)) : null;
  const weights = (told.get("prefer") ?? "").split(",");
  if (weights.length === AXES.length && weights.every(w => /^\d{1,3}$/.test(w) && Number(w) <= 100)) found.weights = weights.map(Number);
  if (RULES.includes(told.get("rule"))) found.rule = told.get("rule");
  OBJECTIVES.forEach((_, i) => { const bound = told.get(`limit.${i}`); if (bound && Number.isFinite(Number(bound))) found.limits[i] = Number(bound); });
  found.x = whole("x", OBJECTIVES.length) ?? START.x;
  found.y = whole("y", OBJECTIVES.length) ?? START.y;
  found.prompt = whole("prompt", DATA.prompts.length) ?? 0;
  found.pinned = whole("pin", MEMBERS.length);
  found.everyone = told.get("everyone") === "1";
  return found;
}

function remember() {
  try { history.replaceState(null, "", `#${written()}`); } catch { /* a frame without an address of its own has none to keep */ }
}

// ---- controls ---------------------------------------------------------------------------------------------------------

const sliders = [], limiters = [];

function control(name, input, more = []) {
  const output = el("output", { for: input.id });
  return { output, input, node: el("div", { class: "control" }, el("label", { for: input.id }, name), output, input, ...more) };
}

function buildControls() {
  AXES.forEach((i, j) => {
    const input = el("input", { type: "range", min: 0, max: 100, step: 1, id: `weight-${j}`, on: { input: () => { state.weights[j] = Number(input.value); draw(); } } });
    sliders.push(control(OBJECTIVES[i].name, input));
    $("sliders").append(sliders.at(-1).node);
  });
  for (const rule of RULES) {
    const input = el("input", { type: "radio", name: "rule", value: rule, id: `rule-${rule}`, on: { change: () => { state.rule = rule; draw(); } } });
    $("rules").append(el("label", { for: input.id }, input, ` ${NAMES[rule][0]}${rule === DATA.rule ? ", as in the run" : ""}`));
  }
  OBJECTIVES.forEach((objective, i) => {
    // from no limit on the left to the strictest one that a member keeps on the right; rounded towards the lenient side
    const ends = () => { const found = MEMBERS.map(member => member.mean[i]).filter(isNumber), most = [Math.min(...found), Math.max(...found)]; return !found.length ? [0, 0] : objective.maximize ? most : most.reverse(); };
    const at = step => { const [worst, best] = ends(), digits = objective.digits + 1, exact = worst + step / 100 * (best - worst), unit = 10 ** -digits; return Number(((objective.maximize ? Math.floor(exact / unit + 1e-6) : Math.ceil(exact / unit - 1e-6)) * unit).toFixed(digits)); };
    const name = `${objective.name} ${objective.maximize ? "at least" : "at most"}`;
    const input = el("input", { type: "range", min: 0, max: 100, step: 1, id: `limit-${i}`, on: { input: () => { state.limits[i] = Number(input.value) ? at(Number(input.value)) : null; draw(); } } });
    const exact = el("input", { type: "number", step: "any", "aria-label": `${name}, as a number`, id: `exact-${i}`, placeholder: "no limit", on: { input: () => { state.limits[i] = exact.value === "" || !Number.isFinite(exact.valueAsNumber) ? null : exact.valueAsNumber; draw(exact); } } });
    const step = bound => { const [worst, best] = ends(); return bound === null ? 0 : best === worst ? 100 : Math.round(Math.min(Math.max((bound - worst) / (best - worst), 0.01), 1) * 100); };
    const node = el("div", { class: "control" }, el("label", { for: input.id }, name), exact, input);
    limiters.push({ input, exact, step });
    $("limits").append(node);
  });
  $("reset").addEventListener("click", () => { state = structuredClone(START); draw(); });
  const turn = by => { state.prompt = (state.prompt + by + DATA.prompts.length) % DATA.prompts.length; draw(); };
  $("prompt").addEventListener("change", () => { state.prompt = Number($("prompt").value); draw(); });
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("everyone").addEventListener("change", () => { state.everyone = $("everyone").checked; draw(); });
  if (OBJECTIVES.length > 1) for (const [axis, name] of [["x", "across"], ["y", "up"]]) {
    const choice = el("select", { id: `axis-${axis}`, "aria-label": `Objective ${name}`, on: { change: () => { state[axis] = Number(choice.value); draw(); } } }, ...OBJECTIVES.map((o, i) => el("option", { value: i }, `${name}: ${o.name}`)));
    $("axes").append(choice);
  }
  window.addEventListener("hashchange", () => { state = read(location.hash); draw(); });
}

function showControls(typing) {
  const w = shares(state.weights);
  sliders.forEach(({ input, output }, j) => {
    input.value = state.weights[j];
    output.textContent = `${Math.round(100 * w[j])} %`;
    input.setAttribute("aria-valuetext", output.textContent);
  });
  limiters.forEach(({ input, exact, step }, i) => {
    const bound = state.limits[i];
    input.value = step(bound);
    input.setAttribute("aria-valuetext", bound === null ? "no limit" : String(bound));
    if (exact !== typing) exact.value = bound === null ? "" : bound;
  });
  for (const rule of RULES) $(`rule-${rule}`).checked = rule === state.rule;
  $("rule-help").textContent = NAMES[state.rule][1];
  if (OBJECTIVES.length > 1) for (const axis of ["x", "y"]) $(`axis-${axis}`).value = state[axis];
  if (DATA.prompts.length) $("prompt").value = state.prompt;
  $("everyone").checked = state.everyone;
}

// ---- the answer -------------------------------------------------------------------------------------------------------

function copyable(text, name) {
  const code = el("code", { class: "code" }, text), said = el("span", { class: "soft", role: "status" });
  const select = () => { getSelection().selectAllChildren(code); said.textContent = " selected, press Ctrl+C"; };
  const copy = async () => { try { await navigator.clipboard.writeText(text); said.textContent = " copied"; } catch { select(); } };
  return [code, el("button", { type: "button", "data-key": `copy-${name}`, on: { click: copy } }, `Copy the ${name}`), said];
}

function showAnswer(found, sure) {
  if (found.row === null) {
    $("answer").replaceChildren(el("p", { class: "problem" }, refusal(found)));
    $("said").textContent = refusal(found);
    return;
  }
  const member = MEMBERS[found.row], limits = new Map(found.limits.map(limit => [limit.column, limit]));
  const instead = ["chebyshev", "linear"].filter(rule => rule !== state.rule && state.rule in READINGS)
    .map(rule => [rule, choose(state.weights, rule, state.limits).row]).filter(([, k]) => k !== found.row);
  const rows = OBJECTIVES.map((objective, i) => {
    const verdict = member.against?.[i], untold = verdict === null || verdict === undefined;
    const versus = untold ? ["", "not known"] : verdict === 0 ? ["", "unclear"] : verdict > 0 ? ["better", "better"] : ["worse", "worse"];
    const limit = limits.get(i) ?? (objective.threshold === null ? null : { column: i, bound: objective.threshold });
    const kept = limit === null ? "" : missedBy(limit, member.mean[i]) > 0 ? "missed" : surely(limit, found.row) ? "kept" : "kept in the mean";
    return el("tr", {}, el("th", { scope: "row", class: /\S{18}/.test(objective.name) ? null : "whole" }, objective.name, ...roleOf(objective)),
      el("td", {}, intervalText(member, i), ...(kept ? [el("div", { class: "soft" }, `${limitText(limit)}: ${kept}`)] : [])),
      ...(DATA.untrained ? [el("td", { class: versus[0] }, versus[1])] : []));
  });
  const told = sure === null ? { probability: NaN, regret: NaN } : sure;
  $("answer").replaceChildren(
    el("div", { class: "id", id: "chosen" }, member.id),
    el("p", { id: "explanation" }, sure === null ? "…" : explanation(found, told)),
    el("p", { id: "reason", class: "soft" }, sure === null ? "…" : reason(found, told, instead)),
    ...(Number.isNaN(told.regret) ? [] : [el("p", { class: "soft" }, `Regret, what the noise is expected to cost: ${fixed(told.regret, 4)} of the objectives' range.`)]),
    el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "objective"), el("th", { scope: "col" }, "mean and 95 % interval"), ...(DATA.untrained ? [el("th", { scope: "col" }, "than untrained")] : []))), el("tbody", {}, ...rows)),
    ...copyable(command(state.weights.some(w => w > 0) ? state.weights : state.weights.map(() => 1), state.rule, found.limits), "command"),
    ...copyable(`PeftModel.from_pretrained(base, ${member.adapter})`, "PEFT line"),
  );
  $("said").textContent = sure === null ? "" : `${member.id} is chosen: ${inWords(told.probability)}.`;
}

/** What the members around the preference would be together, where none was trained for it. */
function showMixture() {
  const weights = shares(state.weights), found = between(weights), { family, kl } = DATA.mixture;
  const call = copyable(`pareto-align blend ${DATA.run} --prefer ${AXES.map((i, j) => `${OBJECTIVES[i].word}=${state.weights.some(w => w > 0) ? state.weights[j] : 1}`).join(" ")}`, "blend command");
  if (found === null)
    return void $("mixture").replaceChildren(el("p", {}, "This preference lies outside of those that were trained for. The command serves the nearest one between them, and says which."), ...call);
  const { parts, mean, halfwidth } = found, names = parts.map(({ anchor, weight }) => `${MEMBERS[anchor.member]?.id} (${fixed(weight, 2)})`);
  const expected = OBJECTIVES.flatMap((o, i) => Number.isFinite(mean[i]) ? [`${o.name} ${shown(mean[i], i)}${Number.isFinite(halfwidth[i]) ? ` ± ${fixed(halfwidth[i], o.digits)}` : ""}`] : []);
  const who = family ? "The run trained a family, which has an adapter for this very preference."
    : parts.length > 1 ? `${listed(names)} together serve this preference, for which none was trained.` : `${MEMBERS[parts[0].anchor.member].id} was trained for this very preference: nothing has to be mixed.`;
  const worth = parts.length > 1 || family ? ` Expected: ${listed(expected)}, read off between what was measured.` : "";
  const doubt = parts.length > 1 && !family ? kl ? " Measure it before you rely on it." : " The front was trained without a price of KL, so no formula says that a mixture is good: measure it." : "";
  const chosen = family ? choose(state.weights, state.rule, state.limits) : {}, reach = o => halfwidth[o] || 0;
  const held = OBJECTIVES.map((o, i) => state.limits[i] ?? o.threshold);
  const missed = limitsOf(held).filter(l => family && missedBy(l, mean[l.column]) > 0);
  const hoped = AXES.map(i => sign(i) * mean[i] + reach(i));
  const behind = chosen.row !== undefined && (missed[0] && missed.every(l => missedBy(l, MEMBERS[chosen.row].mean[l.column]) <= 0) || state.rule in READINGS && chosen.utility.of(hoped) < chosen.score - chosen.rounding);
  const better = (behind ? ` The family does not hold that place yet: ${MEMBERS[chosen.row].id}, which was measured, serves it better.` : "")
    + (missed.length ? ` Expected not to keep ${missed.map(limitText).join(" and ")}.` : "");
  $("mixture").replaceChildren(el("p", { id: "between" }, `${who}${worth}${doubt}${better}`), ...(parts.length > 1 || family ? call : []));
}

// ---- questions --------------------------------------------------------------------------------------------------------

let interview = null;

/** A question, what the answers say, or the offer to begin. */
function showQuestions() {
  if (interview && interview.limits !== String(state.limits)) interview = null; // others come into question
  const press = (key, text, f) => el("button", { type: "button", "data-key": key, on: { click: () => { f(); draw(); } } }, text);
  const ask = text => press("ask", text, () => { interview = new Interview(keeping(limitsOf(state.limits)).rows.filter(k => VALUES[k].every(v => !Number.isNaN(v))), String(state.limits)); });
  const put_ = (text, ...more) => $("questions").replaceChildren(el("p", { role: "status", id: "question", tabindex: -1 }, text), ...more);
  if (interview === null)
    return put_(`Up to ${QUESTIONS} times, say which of two answers is better: that finds your weights, and a member for you.`, el("p", { class: "row" }, ask("Ask me")));
  const { question, outcome, said } = interview;
  if (question !== null) {
    const { pair, prompt } = question, reply = (verdict, text) => press(verdict, text, () => interview.answer(verdict));
    return put_(`Question ${said.length + 1} of at most ${QUESTIONS}: which answer is better?`,
      el("p", { class: "soft text", tabindex: 0, role: "group", "aria-label": "The prompt of the question" }, DATA.prompts[prompt].text),
      el("div", { class: "samples" }, ...pair.map((k, at) => el("article", {}, el("p", { class: "text", tabindex: 0, role: "group", "aria-label": ["The first answer", "The second answer"][at] }, interview.text(k, prompt) || "(an empty answer)")))),
      el("p", { class: "row" }, reply("first", "The first"), reply("second", "The second"), reply("same", "Neither"), press("stop", "Stop", () => { interview = null; })));
  }
  if (!said.length) return put_("These members differ by too little to ask about, or said the same to every prompt.", el("p", { class: "row" }, ask("Ask me anew")));
  const { best, likely, regret, weights } = outcome, name = MEMBERS[best].id;
  return put_(`By ${said.length} answer${said.length === 1 ? "" : "s"} ${name} is the best for you with probability ${fixed(likely, 2)}, and expected to lose ${fixed(regret, 3)} of what you could gain. Weights by the answers: ${AXES.map((i, j) => `${OBJECTIVES[i].name} ${fixed(weights[j], 2)}`).join(", ")}.`,
    el("p", { class: "row" }, press("adopt", `Set these weights and pin ${name}`, () => { state.weights = weights.map(w => Math.round(100 * w)); state.pinned = best; }), ask("Ask me anew")));
}

// ---- the rest ---------------------------------------------------------------------------------------------------------

function showSamples(found) {
  const columns = [];
  const add = (name, owner, kind, tag) => columns.push({ name, owner, kind, tag });
  if (DATA.untrained) add("untrained", DATA.untrained, "", "");
  if (state.everyone) for (const k of along(AXES[0])) add(MEMBERS[k].id, MEMBERS[k], ...standing(k, found));
  else for (const k of new Set([found.runnerUp, found.row, state.pinned])) if (k !== null && k !== undefined) {
    const [kind, tag] = standing(k, found);
    add(MEMBERS[k].id, MEMBERS[k], kind, tag || "pinned");
  }
  const cards = columns.flatMap(({ name, owner, kind, tag }) => {
    const given = owner.answers[state.prompt];
    if (!given) return [];
    const rewards = given.rewards ? OBJECTIVES.map((o, i) => `${o.name} ${shown(given.rewards[i], i)}`).join(" · ") : "";
    return [el("article", { class: kind }, el("h3", {}, name), ...(tag ? [el("span", { class: "tag" }, tag)] : []), ...(rewards ? [el("div", { class: "soft" }, rewards)] : []),
      el("p", { class: "text", tabindex: 0, role: "group", "aria-label": `Answer of ${name}` }, given.text || "(an empty answer)"))];
  });
  const { name, text } = DATA.prompts[state.prompt];
  $("asked").textContent = name === text ? "" : text;
  $("samples").replaceChildren(...(cards.length ? cards : [el("p", { class: "soft" }, "None of these has an answer to this prompt.")]));
}

function showTable(found) {
  const { header, rows, remarks } = DATA.table, offset = header.length - OBJECTIVES.length;
  let order = MEMBERS.map((_, k) => k);
  if (state.sort !== null) {
    const [column, down] = state.sort, key = k => column < offset ? k : MEMBERS[k].mean[column - offset] ?? -Infinity;
    order.sort((a, b) => (down ? -1 : 1) * (key(a) - key(b)));
  }
  if (rows.length > MEMBERS.length) order = [...order, MEMBERS.length]; // the untrained model comes last
  const heads = header.map((name, column) => {
    const sorted = state.sort?.[0] === column ? (state.sort[1] ? "descending" : "ascending") : null;
    const turn = () => { state.sort = [column, sorted !== "descending"]; draw(); };
    return el("th", { scope: "col", "aria-sort": sorted, role: "columnheader" }, column && column < offset ? name : el("button", { type: "button", "data-key": `sort-${column}`, title: "Sort", on: { click: turn } }, name, sorted ? (sorted === "descending" ? " ▼" : " ▲") : ""));
  });
  const body = order.map(k => {
    const mine = k < MEMBERS.length, [kind, tag] = mine ? standing(k, found) : ["", ""];
    const cells = rows[k].map((cell, column) => {
      if (column) return el("td", { "data-label": header[column], role: "cell" }, cell);
      if (!mine) return el("td", { role: "cell" }, cell);
      const tags = [tag, state.pinned === k ? "pinned" : "", mine && fresh.has(MEMBERS[k].id) ? "new" : ""].filter(Boolean);
      return el("td", { role: "cell" }, el("button", { type: "button", "data-key": `row-${k}`, "aria-pressed": state.pinned === k, title: "Pin", on: { click: () => act.pin(state.pinned === k ? null : k) } }, cell), ...tags.map(text => el("span", { class: "tag" }, text)));
    });
    return el("tr", { class: kind, role: "row" }, ...cells);
  });
  $("table").replaceChildren(el("table", { role: "table" }, el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)), el("tbody", { role: "rowgroup" }, ...body)), ...remarks.map(text => el("p", { class: "soft" }, text)));
}

function showFallen() {
  const shownHere = DATA.fallen.slice(-200), rest = DATA.fallen.length - shownHere.length;
  $("fallen").hidden = !DATA.fallen.length;
  $("fallen").querySelector("summary").textContent = `${DATA.fallen.length} more ${DATA.fallen.length === 1 ? "policy was" : "policies were"} measured on the same prompts and not kept`;
  $("fallen").querySelector("ul").replaceChildren(...(rest ? [el("li", {}, `${rest} earlier ones are not listed`)] : []), ...shownHere.map(fell => el("li", {}, `${fell.id}: ${fell.reason}`)));
}

let mapWaiting = 0;
function showMap() {
  const pick = weights => choose(weights, state.rule, state.limits).row ?? null;
  const prefer = weights => { state.weights = weights.map(w => Math.round(100 * w)); draw(); };
  const { image, seen, tried } = mapPicture(widths.map, state, pick, prefer);
  $("map").replaceChildren(...image);
  const never = MEMBERS.filter((_, k) => !seen.has(k)).map(member => member.id);
  $("map-text").textContent = `${seen.size} of ${MEMBERS.length} members serve ${tried ? `one of ${tried} evenly spread preferences` : "some preference"}.`
    + (never.length ? ` Never chosen so: ${never.slice(0, 8).join(", ")}${never.length > 8 ? " and others" : ""}.` : "");
}

const widths = {};
/** The room for each picture, asked for once: to ask between two changes would lay the page out each time. */
function measure() {
  for (const id of ["front", "parallel", "map", "history"]) widths[id] = Math.max($(id).clientWidth, 240);
}

const act = { pin: k => { state.pinned = k; draw(); } };

/** Redraws what depends on the choice, and puts the focus back on what had it. */
function draw(typing = null) {
  const key = document.activeElement?.dataset?.key, found = { row: null, runnerUp: null, ...choose(state.weights, state.rule, state.limits) };
  found.kept = new Set(keeping(limitsOf(state.limits)).rows);
  showControls(typing);
  if (DATA.mixture) showMixture();
  if (!$("questions-section").hidden) showQuestions();
  showAnswer(found, found.row === null ? null : ready ? sureness(found) : null);
  if (MEMBERS.length || DATA.fallen.length || DATA.untrained) $("front").replaceChildren(frontPicture(widths.front, found, state, act));
  if (OBJECTIVES.length > 1) $("parallel").replaceChildren(...parallelPicture(widths.parallel, found, state));
  if (DATA.prompts.length) showSamples(found);
  if (MEMBERS.length) showTable(found);
  if (key) (document.querySelector(`[data-key="${key}"]`) ?? $("question"))?.focus({ preventScroll: true }); // a button that asked is gone
  remember();
  document.documentElement.dataset.chosen = found.row === null ? "" : found.row;
  if (MEMBERS.length && AXES.length > 1) { // dear, and nobody waits for it
    clearTimeout(mapWaiting);
    mapWaiting = setTimeout(showMap, 60);
  }
}

let ready = false; // whether the errors are drawn, which the first picture does not wait for

/** What depends on the front alone, and not on what is chosen. */
function settle() {
  $("title").textContent = DATA.title;
  $("subtitle").textContent = DATA.subtitle;
  $("ask").hidden = !MEMBERS.length;
  $("want-section").hidden = AXES.length < 2; // one objective is all there is to want
  $("map-section").hidden = AXES.length < 2 || !MEMBERS.length;
  $("parallel-section").hidden = OBJECTIVES.length < 2 || !MEMBERS.length;
  $("samples-section").hidden = !DATA.prompts.length;
  $("mixture-section").hidden = !DATA.mixture;
  $("questions-section").hidden = AXES.length < 2 || DATA.prompts.filter((_, q) => MEMBERS.every(member => member.answers[q])).length < 1 || MEMBERS.length < 2;
  interview = null;
  $("prompt").replaceChildren(...DATA.prompts.map((prompt, k) => el("option", { value: k }, short(prompt.name, 90))));
  for (const id of ["front", "map", "table"]) $(id).replaceChildren();
  showFallen();
  measure();
  $("history").replaceChildren(...(DATA.history?.steps.length ? [historyPicture(widths.history)] : []));
  $("history-text").textContent = DATA.history ? DATA.history.said : "The run's journal is not beside this front, so nothing here says how it grew.";
}

function begin(data) {
  take(data);
  START = plain();
  buildControls();
  settle();
  state = read(location.hash);
  draw();
  requestAnimationFrame(() => setTimeout(() => { ready = true; draw(); document.documentElement.dataset.ready = ""; }));
  let before = innerWidth;
  window.addEventListener("resize", () => { if (innerWidth !== before) { before = innerWidth; measure(); draw(); } });
}

const embedded = JSON.parse($("data").textContent);
if (embedded !== null) begin(embedded);
