// Pictures: plain SVG, drawn anew from what is chosen. Text enters the page as text nodes alone.

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, f] of Object.entries(value)) node.addEventListener(event, f);
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
const el = (tag, attributes = {}, ...children) => put(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const label = (x, y, text, kind = "") => svg("text", { x, y, class: kind }, text);
const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });
const picture = (width, height, name, role = "img") => svg("svg", { viewBox: `0 0 ${width} ${height}`, role, "aria-label": name });
const linear = (low, high, a, b) => value => a + (value - low) / ((high - low) || 1) * (b - a);
const isNumber = value => value !== null && Number.isFinite(value);
const short = (text, width) => text.length > width ? `${text.slice(0, width - 1)}…` : text;
const roleOf = objective => objective.role === "optimize" ? [] : [el("div", { class: "soft" }, objective.role === "audit" ? "audit" : "constraint")];
const better = i => OBJECTIVES[i].maximize ? "more is better" : "less is better";

function ticks(low, high, count) {
  const raw = (high - low) / count || 1, unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(factor => factor * unit).find(size => size >= raw), found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(6)));
  return found.length < 2 && count < 8 ? ticks(low, high, count + 1) : found; // one alone says nothing of the scale
}

/** What a member is to the choice: its class, and how it is told. */
function standing(k, found) {
  if (found.row === k) return ["pick", "chosen"];
  if (found.runnerUp === k) return ["second", "runner-up"];
  return found.kept.has(k) ? ["", ""] : ["outside", "outside your limits"];
}

/** Members in the order of an objective; what is not known comes first. */
const along = i => MEMBERS.map((_, k) => k).sort((a, b) => (MEMBERS[a].mean[i] ?? -Infinity) - (MEMBERS[b].mean[i] ?? -Infinity) || a - b);

function sentence(k, found, pinned) {
  const values = OBJECTIVES.map((objective, i) => `${objective.name} ${intervalText(MEMBERS[k], i).replace("±", "plus or minus")}`);
  return [MEMBERS[k].id, values.join(", "), standing(k, found)[1], pinned === k ? "pinned" : "", fresh.has(MEMBERS[k].id) ? "new" : ""].filter(Boolean).join(". ") + ".";
}

/** Names beside their marks, each where it hides least: marks, names that are placed already, and the edges. */
function placeNames(named, marks, width, height) {
  const taken = [];
  return named.map(({ x, y, text, kind, gap }) => {
    const wide = 8 * text.length, over = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
    const places = [[gap, -9, 0], [-gap, -9, 1], [gap, 17, 0], [-gap, 17, 1], [0, -gap - 3, .5], [0, gap + 12, .5], [gap + 3, 4, 0], [-gap - 3, 4, 1]].map(([dx, dy, back], rank) => {
      const left = x + dx - back * wide, box = [left, y + dy - 11, left + wide, y + dy + 3];
      const hidden = sum(marks.map(mark => over(box, [mark[0] - 7, mark[1] - 7, mark[0] + 7, mark[1] + 7]))) + 4 * sum(taken.map(other => over(box, other)));
      const outside = Math.max(0, -box[0]) + Math.max(0, box[2] - width) + Math.max(0, -box[1]) + Math.max(0, box[3] - height);
      return { box, dx, dy, anchor: ["", "middle", "end"][2 * back], cost: hidden + 1000 * outside + rank };
    });
    const best = places.reduce((a, b) => b.cost < a.cost ? b : a);
    taken.push(best.box);
    return svg("g", { class: kind, "pointer-events": "none" }, label(x + best.dx, y + best.dy, text, `name ${best.anchor}`));
  });
}

/** Members on two objectives; where there is just one, each on a line of its own. */
function frontPicture(width, found, state, act) {
  const height = Math.round(Math.min(Math.max(width * .62, 260), 460)), [left, right, top, bottom] = [58, 16, 12, 46];
  const { x: i, y: j } = state, alone = i === j, order = along(i), place = new Map(order.map((k, at) => [k, at]));
  const all = [...MEMBERS, ...DATA.fallen, ...(DATA.untrained ? [DATA.untrained] : [])];
  const allowed = alone ? [] : (DATA.allowed.find(({ of: [a, b] }) => (a === i && b === j) || (a === j && b === i)) ?? { of: [i, j], curve: [] });
  const curve = alone ? [] : allowed.curve.map(point => allowed.of[0] === i ? point : [point[1], point[0]]);
  const range = q => {
    const ends = curve.map(point => point[q === i ? 0 : 1]).concat(all.flatMap(m => [m.mean[q], m.low?.[q], m.high?.[q]])).filter(v => v !== undefined && isNumber(v));
    if (!ends.length) return [0, 1];
    const low = Math.min(...ends), high = Math.max(...ends), room = .05 * (high - low || Math.abs(high) || 1);
    return [low - room, high + room];
  };
  const [x0, x1] = range(i), [y0, y1] = alone ? [-1, MEMBERS.length] : range(j);
  const X = linear(x0, x1, left, width - right), Y = linear(y0, y1, height - bottom, top);
  const up = (member, k) => alone ? (k === undefined ? -.5 : place.get(k)) : member.mean[j];
  const image = picture(width, height, alone ? `${OBJECTIVES[i].name} of ${MEMBERS.length} members` : `${OBJECTIVES[i].name} against ${OBJECTIVES[j].name}, ${MEMBERS.length} members`, "group");
  for (const t of ticks(x0, x1, Math.max(width / 110, 3))) image.append(line(X(t), top, X(t), height - bottom, "grid"), label(X(t), height - bottom + 16, String(t), "middle"));
  if (!alone) for (const t of ticks(y0, y1, 5)) image.append(line(left, Y(t), width - right, Y(t), "grid"), label(left - 6, Y(t) + 4, String(t), "end"));
  const room = Math.floor(width / 8);
  image.append(label((left + width - right) / 2, height - 8, `${short(OBJECTIVES[i].name, room - 18)} (${better(i)})`, "middle title"));
  if (!alone) image.append(svg("text", { transform: `translate(13 ${(top + height - bottom) / 2}) rotate(-90)`, class: "middle title" }, `${short(OBJECTIVES[j].name, Math.floor((height - top - bottom) / 6.9) - 17)} (${better(j)})`));
  const limit = (q, at) => { const bound = state.limits[q] ?? OBJECTIVES[q].threshold; if (isNumber(bound)) image.append(at(bound)); };
  limit(i, bound => line(X(bound), top, X(bound), height - bottom, "limit"));
  if (!alone) limit(j, bound => line(left, Y(bound), width - right, Y(bound), "limit"));
  if (!alone) for (const fell of DATA.fallen) if (isNumber(fell.mean[i]) && isNumber(fell.mean[j]))
    image.append(svg("path", { d: `M${X(fell.mean[i]) - 3.5} ${Y(fell.mean[j])}h7m-3.5 -3.5v7`, class: "fell" }, svg("title", {}, `${fell.id}: ${fell.reason}`)));
  const bars = (member, y, k) => [
    ...(isNumber(member.low[i]) ? [line(X(member.low[i]), y, X(member.high[i]), y, "bar")] : []),
    ...(!alone && isNumber(member.low[j]) ? [line(X(member.mean[i]), Y(member.low[j]), X(member.mean[i]), Y(member.high[j]), "bar")] : []),
  ];
  if (curve.length) {
    const [x, y] = curve[Math.floor(curve.length / 2)];
    image.append(svg("path", { d: `M${curve.map(([a, b]) => `${X(a)} ${Y(b)}`).join("L")}`, class: "allowed" }, svg("title", {}, "The most that the labels allow")));
    image.append(label(X(x) - 8, Y(y) - 8, "the labels allow", X(x) > left + 110 ? "faint end" : "faint"));
  }
  const { untrained } = DATA, named = [], marks = [];
  if (untrained && isNumber(untrained.mean[i]) && isNumber(up(untrained))) {
    const x = X(untrained.mean[i]), y = Y(up(untrained));
    image.append(svg("g", { class: "untrained" }, ...bars(untrained, y), svg("path", { d: `M${x - 7} ${y}l7 -7 7 7 -7 7z`, class: "dot" })));
    marks.push([x, y]);
    named.push({ x, y, text: "untrained", kind: "untrained", gap: 11 });
  }
  const walk = order.filter(k => isNumber(MEMBERS[k].mean[i]) && isNumber(up(MEMBERS[k], k)));
  const entrance = walk.includes(found.row) ? found.row : walk[0];
  walk.forEach((k, at) => {
    const member = MEMBERS[k], [kind] = standing(k, found), x = X(member.mean[i]), y = Y(up(member, k)), told = sentence(k, found, state.pinned);
    const node = svg("g", {
      class: `point ${kind}`, tabindex: k === entrance ? 0 : -1, role: "button", "aria-pressed": state.pinned === k, "aria-label": told, "data-key": `point-${k}`,
      on: {
        click: () => act.pin(state.pinned === k ? null : k),
        keydown: event => {
          const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
          if (step) image.querySelector(`[data-key="point-${walk[(at + step + walk.length) % walk.length]}"]`).focus();
          else if (event.key === "Enter" || event.key === " ") act.pin(k);
          else if (event.key === "Escape") act.pin(null);
          else return;
          event.preventDefault();
        },
      },
    }, svg("title", {}, told), ...bars(member, y, k));
    if (kind === "pick") node.append(svg("circle", { cx: x, cy: y, r: 12, class: "ring" }));
    if (kind === "second") node.append(svg("circle", { cx: x, cy: y, r: 10, class: "ring dashed" }));
    if (state.pinned === k) node.append(svg("rect", { x: x - 14, y: y - 14, width: 28, height: 28, class: "pinned" }));
    node.append(svg("circle", { cx: x, cy: y, r: 6.5, class: "dot" }));
    if (kind === "outside") node.append(svg("path", { d: `M${x - 4} ${y - 4}l8 8m-8 0l8 -8`, class: "cross" }));
    const isNew = fresh.has(member.id);
    marks.push([x, y]);
    if (kind === "pick" || kind === "second" || state.pinned === k || isNew) named.push({ x, y, text: isNew ? `${member.id} new` : member.id, kind, gap: 15 });
    image.append(node);
  });
  const first = ["pick", "second"]; // what was asked for is named first
  named.sort((a, b) => (first.indexOf(b.kind) >= 0) - (first.indexOf(a.kind) >= 0));
  image.append(...placeNames(named, marks, width, height));
  return image;
}

/** Every member as a line over all objectives, better on top. */
function parallelPicture(width, found, state) {
  const height = 190, top = 20, bottom = 20, count = OBJECTIVES.length, X = q => (q + .5) * width / count;
  const image = picture(width, height, "All members on all objectives; the table below has the numbers");
  const everyone = [...MEMBERS, ...(DATA.untrained ? [DATA.untrained] : [])];
  const ends = OBJECTIVES.map((_, q) => { const v = everyone.map(m => m.mean[q]).filter(isNumber); return v.length ? [Math.min(...v), Math.max(...v)] : [0, 1]; });
  const Y = (value, q) => linear(...(OBJECTIVES[q].maximize ? ends[q] : [...ends[q]].reverse()), height - bottom, top)(value);
  OBJECTIVES.forEach((objective, q) => {
    const [worst, best] = objective.maximize ? ends[q] : [...ends[q]].reverse(), bound = state.limits[q] ?? objective.threshold;
    image.append(line(X(q), top, X(q), height - bottom, "axis"), label(X(q), top - 6, shown(best, q), "middle faint"), label(X(q), height - 5, shown(worst, q), "middle faint"));
    if (isNumber(bound) && bound >= ends[q][0] && bound <= ends[q][1]) image.append(line(X(q) - 12, Y(bound, q), X(q) + 12, Y(bound, q), "bound"));
  });
  const draw = (member, kind) => {
    if (member.mean.every(isNumber)) image.append(svg("path", { d: `M${member.mean.map((v, q) => `${X(q)} ${Y(v, q)}`).join("L")}`, class: `path ${kind}` }, svg("title", {}, member.id ?? "untrained")));
  };
  const last = [found.runnerUp, found.row].filter(k => k !== null && k !== undefined);
  MEMBERS.forEach((member, k) => { if (!last.includes(k)) draw(member, state.pinned === k ? "held" : standing(k, found)[0]); });
  if (DATA.untrained) draw(DATA.untrained, "untrained");
  for (const k of last) draw(MEMBERS[k], standing(k, found)[0]);
  const names = el("div", { class: "columns" }, ...OBJECTIVES.map((o, q) => el("div", {}, `${o.name} ${o.maximize ? "↑" : "↓"}`, ...roleOf(o))));
  names.style.gridTemplateColumns = `repeat(${count}, minmax(0, 1fr))`;
  return [names, image];
}

/** Colours that tell neighbours apart: mixed by what a member is good at, or, past three objectives, spread out. */
const TONES = [[205, 92, 20], [20, 105, 175], [60, 140, 70]];
function toneOf(k) {
  if (AXES.length > 3) return `hsl(${Math.round(k * 137.5) % 360} 55% 50%)`;
  const reach = AXES.map((_, j) => { const v = VALUES.map(row => row[j]).filter(x => !Number.isNaN(x)); return [Math.min(...v), Math.max(...v)]; });
  const w = VALUES[k].map((v, j) => ((v - reach[j][0]) / (reach[j][1] - reach[j][0] || 1)) ** 2 + .02), total = sum(w);
  return `rgb(${[0, 1, 2].map(c => Math.round(sum(w.map((x, j) => x / total * TONES[j][c])))).join(" ")})`;
}

/** Which member each preference gets; returns the picture's nodes and how often each member was chosen. */
function mapPicture(width, state, pick, prefer) {
  const seen = new Map(), w = shares(state.weights), m = AXES.length;
  const chosen = weights => { const k = pick(weights); if (k !== null) seen.set(k, (seen.get(k) ?? 0) + 1); return k; };
  const tone = MEMBERS.map((_, k) => toneOf(k));
  const picked = (image, read) => { // a drag sets the preference; the sliders do the same for a keyboard
    const take = event => { if (event.buttons & 1) { const box = image.getBoundingClientRect(); prefer(read((event.clientX - box.left) / box.width * width, (event.clientY - box.top) / box.width * width)); } };
    image.addEventListener("pointerdown", take);
    image.addEventListener("pointermove", take);
  };
  const name = j => OBJECTIVES[AXES[j]].name;
  if (m === 2) {
    const steps = 400, runs = [], image = picture(width, 66, "Which member each preference gets, from all the second objective to all the first");
    for (let q = 0; q <= steps; q++) { const k = chosen([q / steps, 1 - q / steps]); if (runs.at(-1)?.k === k) runs.at(-1).to = q; else runs.push({ k, from: q, to: q }); }
    const X = q => q / (steps + 1) * width;
    let free = 0;
    for (const { k, from, to } of runs) if (k !== null) {
      image.append(svg("rect", { x: X(from), y: 30, width: X(to + 1) - X(from), height: 24, fill: tone[k], class: "cell" }, svg("title", {}, `${MEMBERS[k].id}: ${name(0)} from ${Math.round(100 * from / steps)} to ${Math.round(100 * to / steps)} %`)));
      const middle = (X(from) + X(to + 1)) / 2, room = 8 * MEMBERS[k].id.length / 2;
      if (middle - room >= free && middle + room <= width) { image.append(label(middle, 26, MEMBERS[k].id, "middle")); free = middle + room + 10; }
    }
    const at = w[0] * width;
    image.append(svg("path", { d: `M${at} 54l-7 11h14z`, class: "mark" }));
    picked(image, x => [x / width, 1 - x / width]);
    return { image: [image, el("div", { class: "ends" }, ...[1, 0].map(j => el("div", {}, `all ${name(j)}`)))], seen, tried: null };
  }
  if (m === 3) {
    const N = 26, height = Math.round(width * .92), corners = [[width / 2, 22], [14, height - 24], [width - 14, height - 24]];
    const at = b => [0, 1].map(d => sum(b.map((v, q) => v * corners[q][d]))), image = picture(width, height, "Ternary map: which member each preference gets"), where = new Map();
    const cell = (...points) => {
      const middle = [0, 1, 2].map(q => sum(points.map(p => p[q])) / 3), k = chosen(middle);
      if (k === null) return;
      where.set(k, [...(where.get(k) ?? []), middle]);
      image.append(svg("path", { d: `M${points.map(p => at(p).map(v => v.toFixed(1)).join(" ")).join("L")}z`, fill: tone[k], stroke: tone[k], "stroke-width": .7 }));
    };
    const p = (a, b) => [a / N, b / N, 1 - (a + b) / N];
    for (let a = 0; a < N; a++) for (let b = 0; a + b < N; b++) { cell(p(a, b), p(a + 1, b), p(a, b + 1)); if (a + b < N - 1) cell(p(a + 1, b), p(a, b + 1), p(a + 1, b + 1)); }
    const taken = [];
    for (const [k, cells] of [...where].sort((a, b) => b[1].length - a[1].length)) { // the largest regions have their names
      const [x, y] = at([0, 1, 2].map(q => sum(cells.map(c => c[q])) / cells.length)), room = 9 * MEMBERS[k].id.length;
      if (taken.some(([left, top]) => Math.abs(left - x) < room && Math.abs(top - y) < 15)) continue;
      taken.push([x, y]);
      image.append(label(Math.min(Math.max(x, room / 2), width - room / 2), y + 4, MEMBERS[k].id, "middle name"));
    }
    const room = Math.floor(width / 16);
    corners.forEach(([x], q) => image.append(label(x + (q === 0 ? 0 : q === 1 ? -14 : 14), q ? height - 6 : 14, `all ${short(name(q), q ? room : 2 * room)}`, ["middle", "", "end"][q])));
    const [x, y] = at(w);
    image.append(svg("circle", { cx: x, cy: y, r: 7, class: "here" }), svg("circle", { cx: x, cy: y, r: 7, class: "here" }));
    picked(image, (px, py) => {
      const first = (corners[1][1] - py) / (corners[1][1] - corners[0][1]), across = (px - corners[1][0]) / (corners[2][0] - corners[1][0]), third = across - first / 2;
      return [first, 1 - first - third, third].map(v => Math.min(Math.max(v, 0), 1));
    });
    return { image: [image], seen, tried: null };
  }
  const steps = 40, image = el("div");
  AXES.forEach((_, j) => { // a bar an objective: who is chosen as its weight goes from 0 to all, the others in proportion
    const rest = 1 - w[j], bar = picture(width, 20, `Which member is chosen as ${name(j)} counts from nothing to everything`), X = q => q / (steps + 1) * width;
    for (let q = 0; q <= steps; q++) {
      const k = pick(w.map((v, other) => other === j ? q / steps : (rest > 0 ? v / rest : 1 / (m - 1)) * (1 - q / steps)));
      if (k !== null) bar.append(svg("rect", { x: X(q), y: 0, width: X(q + 1) - X(q) + .5, height: 16, fill: tone[k] }, svg("title", {}, MEMBERS[k].id)));
    }
    const at = w[j] * width;
    bar.append(svg("path", { d: `M${at} 20l-5 -8h10z`, class: "mark" }), line(at, 0, at, 20, "axis"));
    picked(bar, x => w.map((v, other) => other === j ? Math.min(Math.max(x / width, 0), 1) : (rest > 0 ? v / rest : 1 / (m - 1)) * Math.max(1 - x / width, 0)));
    image.append(el("div", { class: "soft" }, name(j)), bar);
  });
  let tried = 0;
  const spread = (left, given) => { // evenly spread preferences, for who is ever chosen
    if (given.length === m - 1) { tried++; chosen([...given, left].map(v => v / 6)); return; }
    for (let part = 0; part <= left; part++) spread(left - part, [...given, part]);
  };
  spread(6, []);
  return { image: [image], seen, tried };
}

/** Hypervolume over the run with its interval. */
function historyPicture(width) {
  const { steps, value, low, high } = DATA.history, height = 120, top = Math.max(...[...value, ...high].filter(isNumber), 0) * 1.06 || 1;
  const X = linear(Math.min(...steps, 0), Math.max(...steps), 38, width - 8), Y = linear(0, top, height - 34, 6), image = picture(width, height, "Hypervolume over the training steps; the sentence below says what it means");
  const drawn = steps.map((_, at) => at).filter(at => isNumber(value[at])), banded = drawn.filter(at => isNumber(low[at]) && isNumber(high[at]));
  for (const t of ticks(0, top, 3)) image.append(line(38, Y(t), width - 8, Y(t), "grid"), label(33, Y(t) + 4, String(t), "end"));
  for (const t of ticks(Math.min(...steps, 0), Math.max(...steps), 4).filter(Number.isInteger)) image.append(label(X(t), height - 20, String(t), "middle"));
  if (banded.length) image.append(svg("path", { d: `M${banded.map(at => `${X(steps[at])} ${Y(high[at])}`).join("L")}L${[...banded].reverse().map(at => `${X(steps[at])} ${Y(low[at])}`).join("L")}z`, class: "band" }));
  if (drawn.length) image.append(svg("path", { d: `M${drawn.map(at => `${X(steps[at])} ${Y(value[at])}`).join("L")}`, class: "curve" }));
  for (const at of banded) image.append(svg("line", { x1: X(steps[at]), x2: X(steps[at]), y1: Y(low[at]), y2: Y(high[at]), class: "tick" }));
  for (const at of drawn) image.append(svg("circle", { cx: X(steps[at]), cy: Y(value[at]), r: 3, class: "knot" }));
  image.append(label(width / 2, height - 4, "training step", "middle"));
  return image;
}
