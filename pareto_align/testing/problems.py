"""Multi-objective problems for language models whose true Pareto front is known exactly.

Completions are strings of T symbols out of V, so every reward is a table and every policy can be judged by
enumeration (`pareto_align.testing.exact`), while training runs the real pipeline on a tiny language model
(`pareto_align.testing.tiny`). A problem is a table of rewards with names:

    import numpy as np
    from pareto_align.testing.problems import KnownFrontProblem

    table = np.array([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7]])                  # one row a symbol, one column an objective
    problem = KnownFrontProblem("mine", V=3, T=1, rewards=table[None])      # or KnownFrontProblem.from_function(...)
    model, tokenizer, objectives = problem.model(), problem.tokenizer(), problem.objectives()

`get_problem(name, **overrides)` makes the ready ones; `PROBLEMS` lists them, each with what it tells apart.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ConfigError
from pareto_align.testing.tiny import prompt_text, symbol_strings, symbol_text, symbol_tokenizer, tiny_llama

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from pareto_align.objectives.objective import Objective

__all__ = ["LARGEST_TABLE", "PROBLEMS", "KnownFrontProblem", "TableReward", "get_problem"]

Array = NDArray[np.float64]

LARGEST_TABLE = 4096
"""Most strings V**T of a problem: beyond it enumeration is no longer a matter of milliseconds."""


class TableReward:
    """One column of a reward table as a reward function with TRL's signature.

    Args:
        name: Shown in error messages.
        prompts: Texts of the prompts, in the order of the table's rows.
        table: [n_prompts, V**T] rewards.
        V: Number of symbols.
        T: Length of every completion.
        noise: Standard deviation of the Gaussian noise added to each score, drawn anew for each call.
        seed: Of the noise.
    """

    def __init__(
        self, name: str, prompts: Sequence[str], table: Array, V: int, T: int, *, noise: float = 0.0, seed: int = 0
    ) -> None:
        self.__name__ = name
        self.row = {text: i for i, text in enumerate(prompts)}
        self.digit = {symbol_text(v): v for v in range(V)}
        self.table, self.V, self.T, self.noise = table, V, T, noise
        self.rng = np.random.default_rng(seed)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        """Score completions; see `pareto_align.Objective` for the signature.

        Raises:
            ValueError: A prompt is not one of the problem's, or a completion is not T of its symbols.
        """
        values = [self.table[self._row(p), self._column(c)] for p, c in zip(prompts, completions, strict=True)]
        if self.noise:
            values = list(values + self.rng.normal(0.0, self.noise, len(values)))
        return [float(v) for v in values]

    def _row(self, prompt: str) -> int:
        if prompt not in self.row:
            raise ValueError(f"{self.__name__} has no prompt {prompt!r}; its prompts are {', '.join(self.row)}.")
        return self.row[prompt]

    def _column(self, completion: str) -> int:
        if len(completion) != self.T or any(c not in self.digit for c in completion):
            raise ValueError(
                f"{self.__name__} scores strings of exactly {self.T} of its {self.V} symbols, found {completion!r}. "
                f"Sample with max_new_tokens={self.T} from the problem's own model."
            )
        index = 0
        for character in completion:
            index = index * self.V + self.digit[character]
        return index


@dataclass(frozen=True, eq=False)
class KnownFrontProblem:
    """A multi-objective problem whose exact answers can be enumerated.

    Attributes:
        name: Of the problem.
        V: Number of symbols.
        T: Number of symbols in every completion; there is no end token.
        rewards: [n_prompts, V**T, m] expected reward of each string, maximised, in the order of
            `itertools.product(range(V), repeat=T)`.
        reference: [m] reference point of the hypervolume. Default: the smallest reward of each objective.
        names: m names of objectives. Default: r1, r2, ...
        bounds: One (low, high) or None for each objective. Default: all None, as for a reward of unknown range.
        noise: Standard deviation of the noise on each scored reward.
        audits: More rewards by name, [n_prompts, V**T] each, that are measured but never optimised.
        targets: [m] proxy points where constraints should hold the expected rewards, or None.
        group_shares: Share of users behind each objective, summing to 1, or None.
        hidden_size: Width of the tiny model.
        description: What the problem tells apart.
    """

    name: str
    V: int
    T: int
    rewards: Array
    reference: Array = None  # type: ignore[assignment]  # filled in below, so that it is always an array
    names: tuple[str, ...] = ()
    bounds: tuple[tuple[float, float] | None, ...] = ()
    noise: float = 0.0
    audits: Mapping[str, Array] = field(default_factory=dict)
    targets: tuple[float, ...] | None = None
    group_shares: tuple[float, ...] | None = None
    hidden_size: int = 64
    description: str = ""

    def __post_init__(self) -> None:
        """Validate the table and fill in the defaults."""
        if self.V < 2 or self.T < 1 or self.V**self.T > LARGEST_TABLE:
            raise ConfigError(
                f"A problem needs V >= 2, T >= 1 and V**T <= {LARGEST_TABLE} strings. Found V={self.V}, T={self.T}."
            )
        rewards = np.array(self.rewards, dtype=float)
        if rewards.ndim != 3 or rewards.shape[1] != self.V**self.T or 0 in rewards.shape:
            raise ConfigError(
                f"Attribute `rewards` must have shape (n_prompts, {self.V**self.T}, m). Found shape {rewards.shape}."
            )
        if not np.isfinite(rewards).all():
            raise ConfigError("Attribute `rewards` must be finite everywhere.")
        m = rewards.shape[2]
        low = rewards.min(axis=(0, 1)) if self.reference is None else np.array(self.reference, dtype=float)
        names = tuple(self.names) or tuple(f"r{i + 1}" for i in range(m))
        bounds = tuple(self.bounds) or (None,) * m
        for label, found in (("reference", low), ("names", names), ("bounds", bounds)):
            if len(found) != m:
                raise ConfigError(f"Attribute `{label}` must have one entry for each of {m} objectives. Found {found}.")
        audits = {name: np.array(table, dtype=float) for name, table in self.audits.items()}
        for name, table in audits.items():
            if table.shape != rewards.shape[:2]:
                raise ConfigError(f"Audit '{name}' must have shape {rewards.shape[:2]}. Found shape {table.shape}.")
        settled = {"rewards": rewards, "reference": low, "names": names, "bounds": bounds, "audits": audits}
        for label, value in settled.items():
            object.__setattr__(self, label, value)

    @classmethod
    def from_function(
        cls,
        name: str,
        reward: Callable[[int, tuple[int, ...]], Sequence[float]],
        *,
        V: int,
        T: int,
        n_prompts: int = 1,
        **fields: Any,
    ) -> KnownFrontProblem:
        """A problem from `reward(prompt number, string as T symbol numbers) -> m values`.

        Args:
            name: Of the problem.
            reward: Called once for each prompt and string.
            V: Number of symbols.
            T: Length of a completion.
            n_prompts: Number of prompts.
            **fields: Other attributes of the problem.
        """
        strings = [tuple(int(s) for s in row) for row in symbol_strings(V, T)]
        return cls(name, V, T, np.array([[reward(p, s) for s in strings] for p in range(n_prompts)], float), **fields)

    @property
    def m(self) -> int:
        """Number of optimised objectives."""
        return int(self.rewards.shape[2])

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts as texts, one for each row of the reward table."""
        return tuple(prompt_text(p) for p in range(len(self.rewards)))

    def repeated_prompts(self, count: int) -> list[str]:
        """A data set of `count` prompts that goes round through the problem's own."""
        return [self.prompts[i % len(self.prompts)] for i in range(count)]

    def prompts_ids(self) -> list[list[int]]:
        """Token ids of the prompts, as the tokenizer encodes them: `<bos>`, then the prompt's own token."""
        return [[self.V + 1, self.V + 3 + p] for p in range(len(self.rewards))]

    def strings(self) -> list[str]:
        """All completions as texts, in the order of the table."""
        return ["".join(symbol_text(int(s)) for s in row) for row in symbol_strings(self.V, self.T)]

    def objectives(self, *, seed: int = 0) -> list[Objective]:
        """The rewards as objectives, optimised ones first, then the audits.

        Args:
            seed: Of the noise, where the problem has any. The noise is a stream of its own in each objective.
        """
        from pareto_align.objectives.objective import Objective

        seeds = np.random.SeedSequence(seed).generate_state(self.m)
        optimized = [
            Objective(
                name,
                TableReward(name, self.prompts, self.rewards[..., i], self.V, self.T, noise=self.noise, seed=seeds[i]),
                bounds=self.bounds[i],
            )
            for i, name in enumerate(self.names)
        ]
        audited = [
            Objective(name, TableReward(name, self.prompts, table, self.V, self.T), role="audit")
            for name, table in self.audits.items()
        ]
        return optimized + audited

    def model(self, seed: int = 0) -> LlamaForCausalLM:
        """A fresh tiny Llama that can say the problem's strings and nothing else: the reference policy."""
        return tiny_llama(self.V, len(self.rewards), hidden_size=self.hidden_size, seed=seed)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that belongs to `model`."""
        return symbol_tokenizer(self.V, len(self.rewards))


# ------------------------------------------------------------------------------------------------ the family


def _unit(m: int) -> tuple[tuple[float, float], ...]:
    return ((0.0, 1.0),) * m


def arc(*, V: int = 32) -> KnownFrontProblem:
    """Symbols on a quarter circle: every weight has its own best symbol. Everything should work here."""
    angle = np.linspace(0.0, np.pi / 2, V)
    table = np.stack([np.cos(angle), np.sin(angle)], axis=1).clip(0.0, 1.0)
    return KnownFrontProblem("arc", V, 1, table[None], np.zeros(2), bounds=_unit(2))


def flat(*, V: int = 16) -> KnownFrontProblem:
    """A straight front between two symbols, the rest far below: linear weights end in the two corners."""
    t = np.linspace(0.0, 1.0, V - 2)
    depth = 0.4 * np.where(np.arange(V - 2) % 2 == 0, 1.0, 0.5)  # on 0.4 of the segment, and below it
    below = np.stack([t, 1.0 - t], axis=1) * depth[:, None]
    return KnownFrontProblem("flat", V, 1, np.concatenate([np.eye(2), below])[None], np.zeros(2), bounds=_unit(2))


def dent(*, V: int = 16) -> KnownFrontProblem:
    """Symbols on sqrt(x) + sqrt(y) = 1: single symbols inside the dent lose to mixtures of the two corners."""
    t = np.linspace(0.0, 1.0, V)
    return KnownFrontProblem("dent", V, 1, np.stack([t**2, (1.0 - t) ** 2], axis=1)[None], np.zeros(2), bounds=_unit(2))


def scales(*, V: int = 32, factor: float = 0.01) -> KnownFrontProblem:
    """The arc with a small second reward of undeclared range: without a frozen scale one objective is trained."""
    return KnownFrontProblem("scales", V, 1, arc(V=V).rewards * np.array([1.0, factor]), np.zeros(2))


def contexts(*, V: int = 8, T: int = 2, n_prompts: int = 4, m: int = 2, seed: int = 0) -> KnownFrontProblem:
    """Utilities differ from prompt to prompt and place to place: credit must be given prompt by prompt."""
    rng = np.random.default_rng(seed)
    direction = np.abs(rng.normal(size=(n_prompts, T, V, m)))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    utility = direction * rng.uniform(0.5, 1.0, size=(n_prompts, T, V, 1))
    strings = symbol_strings(V, T)
    table = np.mean([utility[:, t, strings[:, t]] for t in range(T)], axis=0)
    return KnownFrontProblem("contexts", V, T, table, np.zeros(m), bounds=_unit(m))


def strings(*, V: int = 6, T: int = 4, n_prompts: int = 2) -> KnownFrontProblem:
    """Rewards of the whole string that do not add up over its symbols: share, variety, repetition."""

    def reward(prompt: int, string: tuple[int, ...]) -> tuple[float, float, float]:
        run = longest = 1
        for before, now in itertools.pairwise(string):
            run = run + 1 if now == before else 1
            longest = max(longest, run)
        return string.count(0) / T, len(set(string)) / T, longest / T

    names = ("share_of_first", "distinct", "longest_run")
    return KnownFrontProblem.from_function(
        "strings", reward, V=V, T=T, n_prompts=n_prompts, names=names, bounds=_unit(3)
    )


def many(*, V: int = 24, m: int = 5, seed: int = 0) -> KnownFrontProblem:
    """Corners, pairs better than mixed corners, and noise symbols below: selection beyond three objectives."""
    pairs = [0.7 * (np.eye(m)[i] + np.eye(m)[j]) for i in range(m) for j in range(i + 1, m)]
    good = np.concatenate([np.eye(m), np.reshape(pairs, (-1, m))])
    spare = V - len(good)
    if spare < 0:
        raise ConfigError(f"The problem 'many' with m={m} needs at least V={len(good)} symbols. Found V={V}.")
    below = np.random.default_rng(seed).uniform(0.0, 0.3, size=(spare, m))
    return KnownFrontProblem("many", V, 1, np.concatenate([good, below])[None], np.zeros(m), bounds=_unit(m))


def noisy(*, V: int = 32, noise: float = 0.3) -> KnownFrontProblem:
    """The arc behind noise: a front that keeps lucky members is wrong."""
    return KnownFrontProblem("noisy", V, 1, arc(V=V).rewards, np.zeros(2), noise=noise)


def hacked(*, targets: tuple[float, float] = (0.5, 0.3)) -> KnownFrontProblem:
    """Two proxies and a gold score that falls again past the proxy points: summing the proxies overshoots.

    Ten symbols are poor in both proxies, three lie at the proxy points, three beyond. The gold score is audited only.
    """
    poor = np.stack([np.linspace(0.0, 0.3, 10), np.tile([0.0, 0.15], 5)], axis=1)
    near = np.array(targets) + np.array([[0.0, 0.0], [-0.1, 0.05], [0.1, -0.05]])
    beyond = np.array([[1.0, 0.6], [0.8, 1.0], [1.0, 1.0]])
    table = np.concatenate([poor, near, beyond])
    gold = -((table - np.array(targets)) ** 2).sum(axis=1)
    return KnownFrontProblem(
        "hacked", 16, 1, table[None], np.zeros(2), bounds=_unit(2), audits={"gold": gold[None]}, targets=targets
    )


def misleading(*, V: int = 24, seed: int = 0) -> KnownFrontProblem:
    """Three proxies of one audited score: a fair one, a weak one, and one that is highest where the score is lowest."""
    rng = np.random.default_rng(seed)
    wanted = rng.uniform(0.0, 1.0, V)
    fair = np.clip(wanted + 0.25 * rng.normal(size=V), 0.0, 1.0)
    weak = np.clip(0.6 * wanted + 0.2 + 0.3 * rng.normal(size=V), 0.0, 1.0)
    false = rng.uniform(0.0, 1.0, V)
    worst = np.argsort(wanted)[: V // 3]
    false[worst] = rng.uniform(0.85, 1.0, len(worst))
    table = np.stack([fair, weak, false], axis=1)
    return KnownFrontProblem(
        "misleading",
        V,
        1,
        table[None],
        np.zeros(3),
        names=("fair", "weak", "false"),
        bounds=_unit(3),
        audits={"wanted": wanted[None]},
    )


def groups(*, V: int = 16, majority: float = 10.0, shared: float = 0.7) -> KnownFrontProblem:
    """Two groups of users, 10 : 1, like other symbols; one is good for both: MaxMin finds it, the mean does not."""
    likes = np.linspace(1.0, 0.3, (V - 1) // 2)
    first = np.stack([likes, np.full_like(likes, 0.05)], axis=1)
    table = np.concatenate([first, first[:, ::-1], [[shared, shared]], np.zeros((V - 1 - 2 * len(likes), 2))])
    share = majority / (majority + 1.0)
    return KnownFrontProblem(
        "groups",
        V,
        1,
        table[None],
        np.zeros(2),
        names=("majority", "minority"),
        bounds=_unit(2),
        group_shares=(share, 1.0 - share),
    )


def tilt(*, V: int = 24, m: int = 2, seed: int = 0) -> KnownFrontProblem:
    """A straight front that leans, poor symbols beside it: one objective alone prefers some of them to a good symbol.

    Of the m good symbols the i-th is worth .9 (the first) to .7 (the last) in objective i and .2 in the others; the
    poor ones are worth 0 to .3 in each. Every good symbol is on the front, and so is every mixture of them.
    """
    good = np.full((m, m), 0.2)
    np.fill_diagonal(good, np.linspace(0.9, 0.7, m))
    return _beside_poor("tilt", good, V, seed)


def bow(*, V: int = 30, seed: int = 0) -> KnownFrontProblem:
    """The poor symbols of "tilt" beside a round front with the same two ends, of eight good symbols."""
    angle = np.linspace(0.0, np.pi / 2, 8)
    good = 0.2 + np.stack([0.7 * np.cos(angle), 0.5 * np.sin(angle)], axis=1)
    return _beside_poor("bow", good, V, seed)


def _beside_poor(name: str, good: Array, V: int, seed: int) -> KnownFrontProblem:
    """The symbols `good` [n, m], and V - n more with worths between 0 and .3."""
    n, m = good.shape
    if n > V:
        raise ConfigError(f"The problem '{name}' needs at least V={n} symbols. Found V={V}.")
    poor = np.random.default_rng(seed).uniform(0.0, 0.3, size=(V - n, m))
    return KnownFrontProblem(name, V, 1, np.concatenate([good, poor])[None], np.zeros(m), bounds=_unit(m))


PROBLEMS: dict[str, Callable[..., KnownFrontProblem]] = {
    build.__name__: build
    for build in (arc, flat, dent, scales, contexts, strings, many, noisy, hacked, misleading, groups, tilt, bow)
}
"""The ready problems by name. A function's keyword arguments are the problem's parameters."""


def get_problem(name: str, **overrides: Any) -> KnownFrontProblem:
    """A problem of the family by name.

    Args:
        name: One of `PROBLEMS`.
        **overrides: Parameters of the problem's function (V, m, seed, noise, ...) or attributes of the problem
            (bounds, reference, names, hidden_size, ...).

    Raises:
        ConfigError: The name or a parameter is unknown.
    """
    if name not in PROBLEMS:
        nearest = difflib.get_close_matches(name, PROBLEMS, n=1)
        hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
        raise ConfigError(f"There is no problem '{name}'.{hint} Known: {', '.join(PROBLEMS)}.")
    build = PROBLEMS[name]
    own = inspect.signature(build).parameters
    # V and T shape the table: they are replaced by building anew or not at all.
    attributes = {f.name for f in dataclasses.fields(KnownFrontProblem)} - {"V", "T", "rewards"}
    unknown = [key for key in overrides if key not in own and key not in attributes]
    if unknown:
        raise ConfigError(f"Problem '{name}' has no parameter '{unknown[0]}'. Its own are: {', '.join(own) or 'none'}.")
    problem = build(**{key: value for key, value in overrides.items() if key in own})
    rest = {key: value for key, value in overrides.items() if key not in own}
    if not problem.description:
        rest.setdefault("description", (build.__doc__ or "").splitlines()[0])
    return dataclasses.replace(problem, **rest)
