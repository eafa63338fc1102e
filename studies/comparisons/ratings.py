"""Human ratings of sentences as comparisons: warm by its raters, brief by its tokens.

The source distribution of `vaderSentiment` ships how 15 to 29 people rated sentences of film reviews, of product
reviews and of editorials, from -4 to 4. It is fetched by pip when the study runs, and nothing of it is kept here.

Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014.
"""

from __future__ import annotations

import ast
import itertools
import math
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pareto_align import Comparisons

RELEASE = "vaderSentiment==3.3.1"
FILES = {"film": "movieReviewSnippets", "product": "amazonReviewSnippets", "editorial": "nytEditorialSnippets"}
WORDS = (4, 18)
"""Least and most words of the sentences that are used."""

GROUP = 4
"""Sentences of a comparison."""

LENGTH_UNIT = 4.0
"""Tokens that make a sentence the briefer one with odds of e to 1."""

SYSTEM = "You write reviews."
TOPICS = {
    "film": (
        "plot", "cast", "director", "characters", "acting", "performances", "script", "comedy", "humor", "drama",
        "action", "romance", "ending", "music", "dialogue", "documentary", "thriller", "horror", "screenplay",
        "effects", "jokes", "premise", "emotion", "ideas", "animation", "adventure", "family", "love", "war", "kids",
        "actors", "narrative", "mystery", "images", "satire", "sequel", "message", "tone", "moments", "scenes",
        "audience", "genre", "history", "energy", "heart", "world", "tale", "imagination", "laughs", "tension", "wit",
        "culture", "performance", "star", "remake", "friendship", "story", "fun", "charm", "subject",
    ),
    "product": (
        "camera", "battery", "player", "phone", "screen", "software", "pictures", "sound", "quality", "price", "lens",
        "zoom", "menu", "remote", "size", "manual", "router", "headset", "service", "memory", "video", "buttons",
        "keyboard", "setup", "support", "computer", "flash", "controls", "design", "features", "viewfinder", "charger",
        "internet", "weight", "speed",
    ),
}  # fmt: skip
FORMS = {
    "film": ("Write a sentence of a film review about the {}.", "What does a critic say of the {} of a film?"),
    "product": ("Write a sentence of a product review about the {}.", "What does a customer say of the {}?"),
}


@dataclass(frozen=True)
class Rated:
    """A sentence.

    Attributes:
        text: What it says.
        ratings: Of its raters, from -4 to 4.
    """

    text: str
    ratings: tuple[float, ...]


def fetch(folder: Path | None = None) -> Path:
    """The folder with the ratings, fetched by pip where it is not there yet.

    Args:
        folder: Where it is kept; by default among the temporary files of this machine.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"pareto-align-{RELEASE.replace('==', '-')}"
    inside = folder / RELEASE.replace("==", "-") / "additional_resources"
    if not (inside / "hutto_ICWSM_2014").is_dir():
        command = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", RELEASE, "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
        (archive,) = folder.glob("*.tar.gz")
        for name, target in ((archive, folder), (inside / "hutto_ICWSM_2014.tar.gz", inside)):
            with tarfile.open(name) as packed:
                packed.extractall(target, filter="data")
    return inside / "hutto_ICWSM_2014"


def read(folder: Path, source: str) -> list[Rated]:
    """All sentences of one source that have ratings.

    Args:
        folder: As `fetch` gives it.
        source: Of FILES.
    """

    def lines(kind: str) -> list[list[str]]:
        text = (folder / f"{FILES[source]}_{kind}.txt").read_text(encoding="utf-8-sig", errors="replace")
        return [line.split("\t") for line in text.splitlines()]

    rated = {}
    for number, *rest in (parts for parts in lines("anonDataRatings") if len(parts) >= 4):
        rated[number] = tuple(float(value) for value in ast.literal_eval(rest[2]))
    found = []
    for parts in lines("GroundTruth"):
        if len(parts) >= 3 and parts[0] in rated:
            found.append(Rated(parts[2].replace("''", '"').strip(), rated[parts[0]]))
    return found


def usable(sentence: Rated) -> bool:
    """Whether it is of the length that is used."""
    return WORDS[0] <= len(sentence.text.split()) <= WORDS[1]


def warmer(a: Rated, b: Rated) -> float:
    """How probable it is that a rater of a sentence rates it higher than one of another does; half where they agree."""
    first, second = np.array(a.ratings)[:, None], np.array(b.ratings)
    return float((first > second).mean() + 0.5 * (first == second).mean())


def conversation(text: str) -> list[dict[str, str]]:
    """A prompt."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def about(sentences: Sequence[Rated], source: str) -> tuple[list[tuple[str, list[Rated]]], list[Rated]]:
    """Prompts with sentences that are about what they ask for, and what is left over.

    A sentence that names several topics is about the rarest of them. Every prompt has GROUP sentences of its own.
    """
    named: dict[str, list[Rated]] = {topic: [] for topic in TOPICS[source]}
    words = [set(sentence.text.lower().replace(",", " ").replace(".", " ").split()) for sentence in sentences]
    counts = {topic: sum(topic in said for said in words) for topic in named}
    left = []
    for sentence, said in zip(sentences, words, strict=True):
        topics = [topic for topic in named if topic in said] if usable(sentence) else []
        rarest = min(topics, key=lambda topic: counts[topic], default=None)
        room = len(FORMS[source]) * GROUP
        if rarest is not None and len(named[rarest]) < room:
            named[rarest].append(sentence)
        else:
            left.append(sentence)
    found = []
    for topic, those in named.items():
        for place, form in enumerate(FORMS[source]):
            group = those[place * GROUP : (place + 1) * GROUP]
            if len(group) == GROUP:
                found.append((form.format(topic), group))
            else:
                left += group
    return found, left


def compared(groups: Sequence[tuple[str, Sequence[Rated]]], count_tokens: Callable[[str], int]) -> Comparisons:
    """Comparisons of all pairs of each prompt's sentences, labelled "warm" and "brief".

    Args:
        groups: Prompts with sentences.
        count_tokens: Tokens of a text.
    """
    from pareto_align import Comparisons
    from pareto_align.data.comparison import Comparison, Labels

    rows = []
    for prompt, group in groups:
        sizes = [count_tokens(sentence.text) for sentence in group]
        pairs = list(itertools.combinations(range(len(group)), 2))
        values = [
            [warmer(group[a], group[b]), 1 / (1 + math.exp((sizes[a] - sizes[b]) / LENGTH_UNIT))] for a, b in pairs
        ]
        texts = tuple(sentence.text for sentence in group)
        rows.append(Comparison(conversation(prompt), texts, Labels(np.array(pairs), np.array(values))))
    return Comparisons(rows, ("warm", "brief"))


def material(count_tokens: Callable[[str], int], judge_rows: int, folder: Path | None = None) -> dict[str, Any]:
    """What the policies learn from, and what the judge learns from: other sentences.

    Args:
        count_tokens: Tokens of a text.
        judge_rows: Comparisons for the judge, half of editorials and half of films.
        folder: As `fetch` gives it.

    Returns:
        `policies` and `judge`, both Comparisons.
    """
    folder = fetch() if folder is None else folder
    learned, left = [], []
    for source in TOPICS:
        groups, rest = about(read(folder, source), source)
        learned += groups
        left += [sentence for sentence in rest if source == "film" and usable(sentence)]
    editorials = [sentence for sentence in read(folder, "editorial") if usable(sentence)]
    shown = []
    for name, sentences in (("film review", left), ("newspaper editorial", editorials)):
        order = np.random.default_rng(0).permutation(len(sentences))[: judge_rows // 2 * GROUP]
        for number in range(len(order) // GROUP):
            group = [sentences[place] for place in order[number * GROUP : (number + 1) * GROUP]]
            shown.append((f"Write sentence {number + 1} of a {name}.", group))
    return {"policies": compared(learned, count_tokens), "judge": compared(shown, count_tokens)}
