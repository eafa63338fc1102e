// A run that goes on: asks the server of this page how it stands, and takes in every new measurement of the front.

const LOST = "The watcher does not answer any more. What is shown stays as it was; `pareto-align watch` begins a new one.";
const badge = el("span", { class: "tag" }), standing_ = el("span", {}), news = el("p", { role: "status" }), notes = el("ul"), told = el("details", {}, el("summary", {}, "What happened in the run"), notes);
document.querySelector("header").append(el("div", { id: "live", role: "group", "aria-label": "The run" }, badge, standing_), news, told);
$("title").textContent = document.title;
document.querySelector("main").hidden = told.hidden = true;
let version = ""; // of front.json, and how many of its measurements the journal tells
const frontOf = text => text.split(":")[0];

/** A front that was measured again: what was asked for stays. Without `measured` only its history is new. */
function renew(data, measured) {
  const before = MEMBERS, asked = DATA.prompts[state.prompt]?.text, pinned = MEMBERS[state.pinned]?.id, at = (list, found) => { const k = list.findIndex(found); return k < 0 ? null : k; };
  take(data);
  state.pinned = at(MEMBERS, member => member.id === pinned);
  state.prompt = at(DATA.prompts, prompt => prompt.text === asked) ?? 0;
  if (measured) fresh = new Set(MEMBERS.filter(member => !before.some(old => old.id === member.id)).map(member => member.id));
  settle();
  draw();
  if (!measured) return;
  const left = before.filter(old => !MEMBERS.some(member => member.id === old.id)), why = new Map(DATA.fallen.map(fell => [fell.id, fell.reason]));
  news.textContent = [
    measured,
    fresh.size ? `New: ${[...fresh].join(", ")}.` : "No new member.",
    ...left.slice(0, 5).map(({ id }) => why.has(id) ? `${id} fell: ${why.get(id)}` : `${id} is no member any more.`),
    left.length > 5 ? `${left.length - 5} others fell.` : "",
  ].filter(Boolean).join(" ");
}

function show(found) {
  badge.textContent = found.state;
  standing_.textContent = ` ${found.line}`;
  document.documentElement.dataset.state = found.state;
  told.hidden = !found.notes.length;
  if (notes.childElementCount !== found.notes.length) notes.replaceChildren(...found.notes.map(text => el("li", {}, text)));
  if (!found.front || found.version === version) return;
  const names = found.front.objectives.map(objective => objective.name);
  if (version && String(names) !== String(OBJECTIVES.map(objective => objective.name))) return void location.reload(); // another run
  document.title = `${found.front.title} (live)`;
  if (!version) {
    $("title").textContent = document.title;
document.querySelector("main").hidden = false;
    begin(found.front);
  } else renew(found.front, frontOf(found.version) === frontOf(version) ? null : found.measured);
  version = found.version;
  document.documentElement.dataset.version = version;
}

async function look() {
  let wait = 2000;
  try {
    const reply = await fetch(`state.json?have=${version}`, { cache: "no-store" });
    const found = await reply.json();
    wait = 1000 * found.every;
    show(found);
  } catch {
    badge.textContent = "lost";
    standing_.textContent = ` ${LOST}`;
    document.documentElement.dataset.state = "lost";
  }
  setTimeout(look, wait);
}
look();
