"""What every explorer must do, as tests that a plug-in's author runs by subclassing, and the means to test more.

Example:
    ```python
    from pareto_align.testing.explorer import ExplorerContract


    class TestMyExplorer(ExplorerContract):
        def make(self):
            return MyExplorer()
    ```
    pytest then collects every check below for `MyExplorer`. `exploration` makes a situation out of points; `simulate`
    plays a whole run in which a preference leads to a known point, without any model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pareto_align.discovery.explorers import Exploration, Explorer, Mixture, Task
from pareto_align.errors import ConfigError
from pareto_align.front import Estimate, ParetoArchive, lattice
from pareto_align.front.certificates import Ceiling

__all__ = ["ExplorerContract", "Round", "exploration", "names_of", "simulate", "sphere"]

ADAPTER = "an adapter"  # explorers never look into one


def names_of(m: int) -> list[str]:
    """Names of m objectives."""
    return [f"objective {i}" for i in range(m)]


def sphere(preference: np.ndarray) -> np.ndarray:
    """Where a preference `[m]` leads on a front that is a piece of the unit sphere, under linear weights: p / |p|."""
    return np.asarray(preference / np.linalg.norm(preference))


def _ceiling(point: np.ndarray, preference: np.ndarray, stderr: float) -> Ceiling:
    """Of a policy that is the best one for its preference and needs no KL for it."""
    values = tuple(np.asarray(point, dtype=float).tolist())
    return Ceiling(
        float(np.dot(point, preference)), stderr, 50.0, 0.0, 0.0, values=values, errors=(stderr,) * len(values)
    )


def _estimate(point: np.ndarray, stderr: float) -> Estimate:
    return Estimate(np.asarray(point, dtype=float), np.eye(len(point)) * stderr**2, n=100)


def _archive(m: int, resolution: float) -> ParetoArchive:
    zero, one = np.zeros(m), np.ones(m)
    return ParetoArchive(
        range(m), reference=zero, scale_lower=zero, scale_upper=one, constraints=[(0, -5.0)], resolution=resolution
    )


def exploration(
    points: ArrayLike,
    *,
    preferences: ArrayLike | None = None,
    population: int | None = None,
    stderr: float = 0.01,
    step: int = 50,
    steps: int = 100,
    seed: int = 1,
    held: Sequence[bool] | None = None,
    resolution: float = 2.0,
) -> Exploration:
    """A situation in which n policies were just measured, policy k in slot k.

    Args:
        points: `[n, m]` framed and true: the frame is the identity.
        preferences: `[n, m]` what they were trained for; by default p proportional to the points.
        population: K slots; by default n. With K < n the last K policies are in the slots, the others are older.
        stderr: Of every mean.
        step: Training steps made.
        steps: Training steps planned.
        seed: Of what the explorer draws.
        held: `[n]` whether each policy was offered with its adapter; by default all.
        resolution: Of the archive.
    """
    values = np.atleast_2d(np.asarray(points, dtype=float))
    n, m = values.shape
    K = n if population is None else population
    asked = np.maximum(values, 1e-3) if preferences is None else np.asarray(preferences, dtype=float)
    asked = asked / asked.sum(1, keepdims=True)
    archive = _archive(m, resolution)
    for k, (point, preference) in enumerate(zip(values, asked, strict=True)):
        slot = k - (n - K)
        provenance = {
            "step": step if slot >= 0 else step - 10,
            "policy": slot % K,
            "preference": preference.tolist(),
            "spread": 0.3,
            "ceiling": _ceiling(point, preference, stderr),
        }
        adapter = ADAPTER if held is None or held[k] else None
        archive.offer(f"m{k:04d}", _estimate(point, stderr), provenance, adapter)
    return _state(archive, asked[n - K :], values[n - K :], step, steps, seed)


def _state(
    archive: ParetoArchive, preferences: np.ndarray, measured: np.ndarray, step: int, steps: int, seed: int
) -> Exploration:
    for array in (preferences := preferences.copy(), measured := measured.copy()):
        array.flags.writeable = False  # an explorer that writes into what it is shown fails
    return Exploration(
        step=step,
        steps=steps,
        names=names_of(preferences.shape[1]),
        preferences=preferences,
        measured=measured,
        archive=archive,
        frame=lambda estimate: estimate.mean,
        frame_stderr=lambda estimate: estimate.stderr,
        seed=seed,
        kl_coef=0.05,
        audits=["what the first objective is"],
        describe=lambda estimate: estimate.mean[:1],
    )


@dataclass(frozen=True, eq=False)
class Round:
    """One measurement of a simulated run.

    Attributes:
        state: What the explorer saw. The archive is the run's own and goes on changing.
        holding: Entries that held an adapter when it was asked for mixtures; measuring them may cost others theirs.
        mixtures: What it had measured.
        tasks: What it proposed.
    """

    state: Exploration
    holding: frozenset[str]
    mixtures: list[Mixture]
    tasks: list[Task | None]


def simulate(
    explorer: Explorer,
    *,
    m: int = 2,
    population: int = 6,
    rounds: int = 10,
    leads_to: Callable[[np.ndarray], np.ndarray] = sphere,
    reaches: Callable[[np.ndarray], np.ndarray] | None = None,
    stderr: float = 0.005,
    seed: int = 0,
) -> Iterator[Round]:
    """Rounds of a run without a model: a policy trained for p is on its way to a known point `leads_to(p)`.

    From one measurement to the next a policy makes half of the way that is left. A task with floors leads to where its
    objective is best among the points that keep them. Soups lie on the mean of their parents. All measurements have
    noise.

    Args:
        explorer: Who decides.
        m: Objectives.
        population: K.
        rounds: The run's length in measurements; the last one, after which nothing is decided, is left out.
        leads_to: Takes a preference `[m]` to a framed point `[m]`.
        reaches: The front that is there under floors, in the same way; by default what preferences lead to.
        stderr: Of every measured mean.
        seed: Of the noise, and of what the explorer draws.
    """
    rng = np.random.default_rng(seed)
    wanted = np.array(explorer.preferences(names_of(m), population, seed), dtype=float)
    targets = np.stack([leads_to(p) for p in wanted])
    reached = np.full((population, m), 0.2)
    where: dict[str, np.ndarray] = {}
    archive = _archive(m, 2.0)

    def offer(point: np.ndarray, provenance: dict[str, Any]) -> np.ndarray:
        name = f"m{len(archive.entries):04d}"
        seen = point + rng.normal(0.0, stderr, m)
        where[name] = point
        archive.offer(name, _estimate(seen, stderr), provenance, ADAPTER)
        return np.asarray(seen)

    floored: list[list[float] | None] = [None] * population
    for number in range(1, rounds):
        step = 10 * number
        reached = reached + 0.5 * (targets - reached)
        measured = []
        for k in range(population):
            provenance: dict[str, Any] = {"step": step, "policy": k, "preference": wanted[k].tolist(), "spread": 0.3}
            # the best policy for what the slot pursues is where it is led to, however far it still is
            best = float(np.dot(targets[k], wanted[k]))
            provenance["ceiling"] = replace(_ceiling(reached[k], wanted[k], stderr), value=best)
            measured.append(offer(reached[k], provenance | ({} if floored[k] is None else {"floors": floored[k]})))
        state = _state(archive, wanted, np.stack(measured), step, 10 * rounds, seed=1000 * seed + step)
        holding = _holding(state)
        mixtures = list(explorer.mixtures(state))
        for mixture in mixtures:
            point = np.asarray(mixture.coefficients) @ np.stack([where[name] for name in mixture.parents])
            provenance = {
                "step": step,
                "parents": list(mixture.parents),
                "coefficients": list(mixture.coefficients),
                "noise": mixture.noise,
                "seed": mixture.seed,
            }
            if mixture.preference is not None:
                provenance["preference"] = np.asarray(mixture.preference).tolist()
            offer(point + 0.1 * mixture.noise, provenance)
        tasks = list(explorer.propose(state))
        yield Round(state, holding, mixtures, tasks)
        wanted = wanted.copy()
        for slot, task in enumerate(tasks):
            if task is not None:
                wanted[slot] = task.preference
                targets[slot] = leads_to(task.preference) if task.floors is None else _kept(task, reaches or leads_to)
                floored[slot] = None if task.floors is None else task.floors.tolist()
                if task.parent is not None:
                    reached[slot] = where[task.parent]


def _kept(task: Task, reaches: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Where a task with floors leads: among the points that violate them least, the one it prefers."""
    assert task.floors is not None
    m = len(task.preference)
    points = np.stack([reaches(p) for p in lattice(m, 60 if m == 2 else 8)])
    missed = np.nan_to_num(np.maximum(task.floors - points, 0.0)).sum(1)
    return np.asarray(points[np.lexsort((-points @ task.preference, missed.round(9)))[0]])


class ExplorerContract:
    """Subclass it, name the subclass `Test...`, implement `make`; pytest runs all checks.

    Attributes:
        objectives: Numbers of objectives in the checks.
        population: Policies in the checks.
        rounds: Measurements of the simulated runs.
        reacts: False for an explorer that neither proposes nor mixes anything, whatever it sees.
        symmetric: True for one that draws nothing and treats all objectives alike: its tasks permute with them.
    """

    objectives: tuple[int, ...] = (2, 3, 5)
    population: int = 6
    rounds: int = 8
    reacts: bool = True
    symmetric: bool = False

    def make(self) -> Explorer:
        """A new explorer."""
        raise NotImplementedError

    def ready(self, m: int, population: int | None = None, seed: int = 0) -> Explorer:
        """A new explorer at the beginning of a run."""
        explorer = self.make()
        explorer.preferences(names_of(m), population or self.population, seed)
        return explorer

    def test_preferences_are_on_the_simplex(self) -> None:
        """The beginning is `[K, m]` preferences, the same ones for the same seed."""
        for m in self.objectives:
            for population in (m, self.population):
                rows = self.make().preferences(names_of(m), population, 3)
                assert rows.shape == (population, m)
                _check_simplex(rows)
                np.testing.assert_array_equal(rows, self.make().preferences(names_of(m), population, 3))

    def test_a_run_holds_together(self) -> None:
        """In a whole run: K tasks on the simplex, parents that hold adapters, floors that fit, reasons."""
        for m in self.objectives:
            reacted = False
            for turn in simulate(self.make(), m=m, population=self.population, rounds=self.rounds):
                _check_round(turn, self.population)
                reacted = reacted or bool(turn.mixtures) or any(task is not None for task in turn.tasks)
            assert reacted == self.reacts, f"m={m}"

    def test_the_same_run_again(self) -> None:
        """Nothing but what it is shown decides."""
        for m in self.objectives:
            runs = [simulate(self.make(), m=m, population=self.population, rounds=self.rounds) for _ in range(2)]
            for first, second in zip(*runs, strict=True):
                _check_same(first, second)

    def test_a_second_run_starts_anew(self) -> None:
        """`preferences` forgets an earlier run."""
        used, m = self.make(), self.objectives[0]
        for _ in simulate(used, m=m, population=self.population, rounds=self.rounds, seed=1):
            pass
        fresh = simulate(self.make(), m=m, population=self.population, rounds=self.rounds)
        for first, second in zip(
            simulate(used, m=m, population=self.population, rounds=self.rounds), fresh, strict=True
        ):
            _check_same(first, second)

    def test_state_round_trip(self) -> None:
        """Saved as JSON and loaded by another instance after every round, it goes on as if nothing had been."""
        for m in self.objectives:
            plain = simulate(self.make(), m=m, population=self.population, rounds=self.rounds)
            proxy = simulate(_Reloaded(self.make), m=m, population=self.population, rounds=self.rounds)
            for first, second in zip(plain, proxy, strict=True):
                _check_same(first, second)

    def test_foreign_state_is_refused(self) -> None:
        """A state with an unknown entry is an error, not half a load."""
        explorer = self.ready(self.objectives[0])
        state = explorer.state_dict() | {"no such entry": 1}
        try:
            self.ready(self.objectives[0]).load_state_dict(state)
        except ConfigError:
            return
        raise AssertionError("Expected a ConfigError.")

    def test_what_it_is_shown_stays_as_it_is(self) -> None:
        """The archive is read only."""
        for m in self.objectives:
            state = _arc(m, self.population)
            before = json.dumps(state.archive.state_dict())
            explorer = self.ready(m)
            for _ in range(3):
                explorer.mixtures(state)
                explorer.propose(state)
            assert json.dumps(state.archive.state_dict()) == before

    def test_little_to_go_by(self) -> None:
        """An empty archive, one policy, all the same, nothing measured, no adapter kept: no error, no false parent."""
        for m in self.objectives:
            K = self.population
            full = _arc(m, K)
            empty = exploration(np.zeros((1, m)))
            empty.archive.entries.clear()
            nowhere = np.full((K, m), np.nan)
            states = [
                replace(full, archive=empty.archive, measured=nowhere),
                replace(full, archive=exploration(np.full((1, m), 0.5)).archive),
                replace(full, measured=nowhere),
                exploration(np.full((K, m), 0.5), preferences=full.preferences),
                exploration(full.measured, held=[False] * K),
                exploration(full.measured - np.eye(m)[0] * 10),  # below the archive's bound: not feasible
            ]
            for number, state in enumerate(states):
                explorer = self.ready(m)
                for again in range(3):
                    later = replace(state, seed=again)
                    turn = Round(later, _holding(later), list(explorer.mixtures(later)), list(explorer.propose(later)))
                    _check_round(turn, K)
                    named = [task for task in turn.tasks if task is not None and task.parent is not None]
                    if number in (0, 4, 5):
                        assert not named
                        assert not turn.mixtures

    def test_permuting_objectives_permutes_tasks(self) -> None:
        """No objective is treated differently, where nothing is drawn."""
        if not self.symmetric:
            return
        for m in self.objectives:
            order = np.roll(np.arange(m), 1)
            points = _arc(m, self.population).measured * np.linspace(1.0, 0.9, self.population)[:, None]
            plain, turned = self.ready(m), self.ready(m)
            for _ in range(4):
                tasks = plain.propose(exploration(points))
                others = turned.propose(exploration(points[:, order]))
                for one, other in zip(tasks, others, strict=True):
                    assert (one is None) == (other is None)
                    if one is not None and other is not None:
                        np.testing.assert_allclose(one.preference[order], other.preference, atol=1e-9)
                        assert one.parent == other.parent


class _Reloaded(Explorer):
    """Another instance after every round, with what was saved of the last one as JSON."""

    def __init__(self, make: Callable[[], Explorer]) -> None:
        self.make, self.inner = make, make()

    def preferences(self, names: Sequence[str], population: int, seed: int) -> np.ndarray:
        self.asked = (names, population, seed)
        return self.inner.preferences(*self.asked)

    def mixtures(self, state: Exploration) -> Sequence[Mixture]:
        self._reload()
        return self.inner.mixtures(state)

    def propose(self, state: Exploration) -> Sequence[Task | None]:
        self._reload()
        return self.inner.propose(state)

    def _reload(self) -> None:
        saved = json.dumps(self.inner.state_dict(), allow_nan=False)
        self.inner = self.make()
        self.inner.preferences(*self.asked)
        self.inner.load_state_dict(json.loads(saved))


def _arc(m: int, population: int) -> Exploration:
    rows = np.random.default_rng(m).dirichlet(np.ones(m), size=population)
    return exploration(np.stack([sphere(p) for p in rows]), preferences=rows)


def _holding(state: Exploration) -> frozenset[str]:
    return frozenset(entry.id for entry in state.alive())


def _check_simplex(rows: ArrayLike) -> None:
    weights = np.asarray(rows, dtype=float)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-9)


def _check_round(turn: Round, population: int) -> None:
    entries, m = turn.state.archive.entries, len(turn.state.names)

    assert len(turn.tasks) == population
    for task in turn.tasks:
        if task is None:
            continue
        assert np.shape(task.preference) == (m,)
        _check_simplex(task.preference)
        assert task.reason.strip()
        if task.parent is not None:
            assert task.parent in _holding(turn.state), task.parent
        if task.floors is not None:
            assert np.shape(task.floors) == (m,)
            assert np.isfinite(task.floors).any()
            if task.parent is not None:
                # a parent that violates its own floors would first have to be repaired
                values = turn.state.frame(entries[task.parent].estimate)
                assert (np.nan_to_num(task.floors - values, nan=-1.0) <= 1e-9).all()
    for mixture in turn.mixtures:
        assert len(mixture.parents) == len(mixture.coefficients) > 0
        assert len(set(mixture.parents)) == len(mixture.parents)
        assert np.isfinite([*mixture.coefficients, mixture.noise]).all()
        assert mixture.reason.strip()
        assert turn.holding.issuperset(mixture.parents), mixture.parents
        if mixture.preference is not None:
            assert np.shape(mixture.preference) == (m,)
            _check_simplex(mixture.preference)


def _check_same(first: Round, second: Round) -> None:
    assert len(first.tasks) == len(second.tasks)
    for one, other in zip(first.tasks, second.tasks, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_array_equal(one.preference, other.preference)
            np.testing.assert_array_equal(
                np.nan if one.floors is None else one.floors, np.nan if other.floors is None else other.floors
            )
            assert (one.parent, one.reason) == (other.parent, other.reason)
    assert len(first.mixtures) == len(second.mixtures)
    for soup, again in zip(first.mixtures, second.mixtures, strict=True):
        assert list(soup.parents) == list(again.parents)
        np.testing.assert_array_equal(soup.coefficients, again.coefficients)
        assert (soup.noise, soup.seed) == (again.noise, again.seed)
