// Which members serve a preference that none was trained for: what front/blending.py does, by the same linear programme.

const OUTSIDE = 1e-6;

/**
 * The weights [n] of anchors [n, m] whose mean is a point [m], on the corners of the anchors' Delaunay cell that holds it:
 * those of the least mean square distance. Null where the point lies outside of them all. Simplex method, by Bland's rule.
 */
function cellOf(anchors, point) {
  const n = anchors.length, m = point.length, basis = point.map((_, i) => n + i); // at first one invented anchor an axis
  const rows = point.map((b, i) => [...anchors.map(anchor => anchor[i]), ...point.map((_, j) => Number(i === j)), b]);
  const least = cost => {
    for (let turn = 0; turn < 1000; turn++) {
      const enter = anchors.findIndex((_, j) => cost[j] - sum(basis.map((b, i) => cost[b] * rows[i][j])) < -1e-10);
      if (enter < 0) return;
      let leave = -1, ratio = Infinity;
      rows.forEach((row, i) => {
        const found = row[enter] > 1e-9 ? Math.max(row.at(-1), 0) / row[enter] : Infinity;
        if (found < ratio - 1e-12 || (leave >= 0 && found <= ratio + 1e-12 && basis[i] < basis[leave])) [leave, ratio] = [i, found];
      });
      if (leave < 0) return;
      const pivot = rows[leave].map(v => v / rows[leave][enter]);
      rows.forEach((row, i) => { const by = row[enter]; rows[i] = i === leave ? pivot : row.map((v, j) => v - by * pivot[j]); });
      basis[leave] = enter;
    }
  };
  least([...anchors.map(() => 0), ...point.map(() => 1)]);
  if (sum(basis.map((b, i) => b >= n ? Math.abs(rows[i].at(-1)) : 0)) > OUTSIDE) return null;
  // an invented anchor that is left counts nothing, and is too dear to count again
  least([...anchors.map(anchor => sum(anchor.map((v, i) => (v - point[i]) ** 2))), ...point.map(() => 1e3)]);
  const found = anchors.map(() => 0);
  basis.forEach((b, i) => { if (b < n) found[b] = rows[i].at(-1); });
  return found;
}

/**
 * Who takes part at a preference [m], each { anchor, weight }, and what is expected there: mean [M] and halfwidth [M] in
 * the user's units, NaN for what is not known. Null where the preference lies outside of those that were trained for.
 */
function between(weights) {
  const { error, reach } = DATA.mixture, anchors = DATA.mixture.anchors.map(anchor => ({ mean: MEMBERS[anchor.member]?.mean, preference: MEMBERS[anchor.member]?.preference, ...anchor })), best = new Map();
  const worth = anchor => sum(AXES.map((i, j) => weights[j] * (sign(i) * known(anchor.mean[i]) - LOWER[j]) / (UPPER[j] - LOWER[j])));
  for (const anchor of anchors) { // of two that were trained for the same the better one counts
    const place = anchor.preference.map(w => w.toFixed(9)).join();
    if (!best.has(place) || worth(anchor) > worth(best.get(place))) best.set(place, anchor);
  }
  const corners = [...best.values()], found = cellOf(corners.map(anchor => anchor.preference), weights);
  if (found === null) return null;
  const kept = found.map(weight => weight > OUTSIDE ? weight : 0), total = sum(kept);
  const parts = corners.flatMap((anchor, k) => kept[k] ? [{ anchor, weight: kept[k] / total }] : []);
  const at = (name, i) => sum(parts.map(({ anchor, weight }) => weight * known(anchor[name][i])));
  return {
    parts,
    mean: OBJECTIVES.map((_, i) => at("mean", i)),
    halfwidth: OBJECTIVES.map((_, i) => Math.hypot(known(reach) * at("stderr", i), known(error[i]))),
  };
}
