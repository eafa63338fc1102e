// A or B? The possible users of front/elicitation.py, drawn anew in the browser, and the questions of interview.py.

const QUESTIONS = 6, ENOUGH = 0.02, TEMPERATURE = 0.1, LAPSE = 0.1, AUGMENTED = 0.01;
const MOST_MEMBERS = 24, LIKELY = 20, LEAST_EFFECTIVE = 0.1, INFORMATION = 0.3, TIE = 1e-6, CONCENTRATION = 200;

/** How probable it is that what is `ahead` temperatures better is said to be better. */
const saidBetter = ahead => (1 - LAPSE) / (1 + Math.exp(-ahead)) + LAPSE / 2;

/** Possible users, half of whom judge by a weighted sum and half by the worst weighted shortfall. */
class Users {
  /** rows: the members that are asked about; `errors` [DRAWS, members, m] says how far their true values may lie off. */
  constructor(rows, errors, seed = 7) {
    const m = AXES.length;
    this.rows = rows;
    this.uniform = uniforms(seed);
    this.normal = normals(this.uniform);
    this.weights = Array.from({ length: DRAWS }, () => shares(AXES.map(() => -Math.log(1 - this.uniform()))));
    this.linear = this.weights.map((_, p) => 2 * p < DRAWS);
    const half = (k, j) => { const { low, high } = MEMBERS[k], i = AXES[j]; return isNumber(low[i]) ? (high[i] - low[i]) / 4 : 0; };
    const reach = AXES.map((_, j) => { const v = rows.map(k => VALUES[k][j]); return Math.max(...v) - Math.min(...v) + Math.max(...rows.map(k => half(k, j))); });
    // what is not known counts as exact, and what few measurements leave open does not run away
    this.values = this.weights.map((_, p) => rows.map(k => AXES.map((_, j) => VALUES[k][j] + Math.min(Math.max(errors[(p * MEMBERS.length + k) * m + j] || 0, -reach[j]), reach[j]))));
    this.log = new Float64Array(DRAWS);
    this.measure();
  }

  /** [DRAWS][rows] what each user thinks of each member: 0 of his worst, 1 of his best. */
  measure() {
    const { ideal, span } = DATA.place;
    this.utility = this.weights.map((w, p) => {
      const found = this.values[p].map(v => {
        if (this.linear[p]) return sum(v.map((x, j) => (x - LOWER[j]) / (UPPER[j] - LOWER[j]) * w[j]));
        const short = v.map((x, j) => w[j] * (ideal[j] - x) / span[j]);
        return -Math.max(...short) - AUGMENTED * sum(short);
      });
      const worst = Math.min(...found), reach = Math.max(...found) - worst;
      return found.map(u => reach > 1e-12 ? (u - worst) / reach : 0);
    });
    this.likely = this.probabilities();
  }

  probabilities() {
    const most = this.log.reduce((a, b) => Math.max(a, b)), found = this.log.map(l => Math.exp(l - most)), total = sum([...found]);
    return found.map(p => p / total);
  }

  mean(of) { let total = 0; for (let p = 0; p < DRAWS; p++) total += this.likely[p] * of(p); return total; }
  get expected() { return this.rows.map((_, k) => this.mean(p => this.utility[p][k])); }
  get best() { const found = this.expected; return found.indexOf(Math.max(...found)); }
  get regret() { const best = this.best; return this.mean(p => Math.max(...this.utility[p]) - this.utility[p][best]); }
  get preference() { return AXES.map((_, j) => this.mean(p => this.weights[p][j])); }
  /** How likely each member is the user's best. */
  get firsts() { const found = this.rows.map(() => 0); this.utility.forEach((u, p) => { found[u.indexOf(Math.max(...u))] += this.likely[p]; }); return found; }

  /** The pair whose answer is worth most, of those that may be asked about, with so many questions left; null where there is none. */
  ask(askable, left = 0) {
    const firsts = this.firsts, loss = INFORMATION * left * this.regret, xlogx = x => x > 0 ? x * Math.log(x) : 0;
    const tops = this.utility.map(u => u.indexOf(Math.max(...u))), known = sum(firsts.map(xlogx));
    const order = this.rows.map((_, k) => k), { expected, likely, utility } = this;
    const near = order.length <= MOST_MEMBERS ? order : order.sort((a, b) => firsts[b] - firsts[a]).slice(0, LIKELY).sort((a, b) => a - b);
    let most = -Infinity, better = -Infinity, pair = null;
    near.forEach((i, at) => near.slice(at + 1).forEach(j => {
      if (!askable(i, j)) return;
      // what the members are worth, and how likely each is the best, if the first is said to be better
      const then = new Float64Array(this.rows.length), joint = new Float64Array(this.rows.length);
      for (let p = 0; p < DRAWS; p++) {
        const u = utility[p], said = likely[p] * saidBetter((u[i] - u[j]) / TEMPERATURE);
        for (let k = 0; k < then.length; k++) then[k] += said * u[k];
        joint[tops[p]] += said;
      }
      const other = firsts.map((f, k) => f - joint[k]), told = sum([...joint, ...other].map(xlogx)) - known - xlogx(sum([...joint])) - xlogx(sum(other));
      const worth = Math.max(...then) + Math.max(...expected.map((e, k) => e - then[k])) + loss * told;
      if (worth < most - TIE) return;
      const larger = this.mean(p => Math.max(utility[p][i], utility[p][j])); // decides where no one answer changes the choice
      if (worth > most + TIE || larger > better + 1e-12) [most, better, pair] = [Math.max(worth, most), larger, [i, j]];
    }));
    return pair;
  }

  /** Takes in what was said of two: "first", "second" or "same", half an answer either way. */
  answer(first, second, verdict) {
    const said = ahead => Math.log(saidBetter(ahead));
    this.utility.forEach((u, p) => {
      const ahead = (u[first] - u[second]) / TEMPERATURE;
      this.log[p] += verdict === "same" ? (said(ahead) + said(-ahead)) / 2 : said(verdict === "first" ? ahead : -ahead);
    });
    this.likely = this.probabilities();
    if (1 / sum([...this.likely].map(p => p * p)) < LEAST_EFFECTIVE * DRAWS) this.renew();
  }

  /** Draws the users anew, each near one that is there, as often as that one is likely. */
  renew() {
    const chosen = [], start = this.uniform();
    for (let p = 0, upTo = this.likely[0], at = 0; p < DRAWS; p++) {
      while ((p + start) / DRAWS > upTo && at < DRAWS - 1) upTo += this.likely[++at];
      chosen.push(at);
    }
    const gamma = shape => shape * spreadOf(2 * shape, this.normal, this.uniform);
    this.weights = chosen.map(at => shares(this.weights[at].map(w => gamma(CONCENTRATION * w + 1e-3))));
    [this.linear, this.values] = [chosen.map(at => this.linear[at]), chosen.map(at => this.values[at])];
    this.log.fill(0);
    this.measure();
  }
}

/** Questions about the members that keep the limits, on the prompts that all of them answered. */
class Interview {
  /** rows: the members that keep the limits. */
  constructor(rows, limits) {
    errors ??= drawErrors();
    this.limits = limits;
    this.users = new Users(rows, errors);
    this.prompts = DATA.prompts.map((_, q) => q).filter(q => rows.every(k => MEMBERS[k].answers[q]));
    this.turns = uniforms(11);
    this.said = [];
    this.next();
  }

  text(k, q) { return MEMBERS[this.users.rows[k]].answers[q].text; }

  /** Prompts on which two differ and were not compared yet, those shown least first. */
  open(i, j) {
    const shownOften = q => this.said.filter(said => said.prompt === q).length, pair = String([i, j].sort());
    return this.prompts.filter(q => this.text(i, q).trim() !== this.text(j, q).trim() && !this.said.some(said => said.prompt === q && said.pair === pair))
      .sort((a, b) => shownOften(a) - shownOften(b));
  }

  next() {
    const { users } = this, { best, regret } = users;
    this.question = null;
    this.outcome = { best: users.rows[best], likely: users.firsts[best], regret, weights: users.preference };
    if (this.said.length >= QUESTIONS || regret < ENOUGH) return;
    const pair = users.ask((i, j) => this.open(i, j).length > 0, QUESTIONS - this.said.length - 1);
    if (pair === null) return;
    const [prompt] = this.open(...pair);
    this.question = { pair: this.turns() < 0.5 ? pair.reverse() : pair, prompt }; // who stands first must not say who is better
  }

  answer(verdict) {
    const { pair, prompt } = this.question;
    this.users.answer(...pair, verdict);
    this.said.push({ pair: String([...pair].sort()), prompt, verdict });
    this.next();
  }
}
