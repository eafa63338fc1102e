"""Adding numbers with a small language model: the problems, what may be said about them, the rewards, the judging.

A prompt is `37+85+46=`. An answer is marked and has three digits, `#168`; what stands before it is working. Three
forms of answer are in the language the model was pre-trained on (`pretrain.py`):

- `short`: `#168`
- `sums`: the columns' sums from the right, carried over: `18,16#168`
- `written`: the columns written out as well: `7+5+6=18,3+8+4+1=16#168`

from task import adding, judge

task = adding()                                        # model, tokenizer, objectives, prompts
aligner = ParetoAligner(task.model, task.objectives, tokenizer=task.tokenizer, **task.settings, ...)
aligner.fit(task.prompts, eval_prompts=task.select)
judged = judge(task, aligner.policies_)                # on problems that are in no other split
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from pareto_align import Objective

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights.safetensors"

SYMBOLS = "0123456789+=,#"
SPECIAL = ("<pad>", "<bos>", "<eos>")
FORMS = ("short", "sums", "written")
SUMMANDS, DIGITS = 3, 2
LEAST, SPAN = 10 ** (DIGITS - 1), 9 * 10 ** (DIGITS - 1)
BUDGET = 26
"""Most tokens of a completion; a written answer takes 24 with its end."""

SPLITS = {"judge": 1000, "select": 500, "fit": 4000}
"""Problems that pre-training never sees: those of the judging, of the aligner's measurements, of its rollouts."""


# ------------------------------------------------------------------------------------------------ problems


@cache
def _order() -> np.ndarray:
    return np.random.default_rng(2509).permutation(SPAN**SUMMANDS)


def problems(split: str) -> np.ndarray:
    """The summands [n, 3], two digits each, of a split; "pretrain" are all that no other split has."""
    order, start = _order(), 0
    for name, count in SPLITS.items():
        if name == split:
            order = order[start : start + count]
            break
        start += count
    else:
        order = order[start:]
    return np.stack(np.unravel_index(order, (SPAN,) * SUMMANDS), axis=1) + LEAST


def prompt(numbers: Sequence[int]) -> str:
    """`37+85+46=`."""
    return "+".join(map(str, numbers)) + "="


def answer(numbers: Sequence[int], form: str) -> str:
    """The right answer in one of the forms."""
    marked = f"#{sum(numbers):0{DIGITS + 1}d}"
    if form == "short":
        return marked
    columns, carry = [], 0
    for place in range(DIGITS):
        digits = [n // 10**place % 10 for n in numbers]
        if place:
            digits.append(carry)
        total = sum(digits)
        columns.append(f"{total:02d}" if form == "sums" else f"{'+'.join(map(str, digits))}={total:02d}")
        carry = total // 10
    return ",".join(columns) + marked


def rows(split: str, count: int | None = None) -> list[dict[str, Any]]:
    """A split as prompts with the column `answer`."""
    return [{"prompt": prompt(n), "answer": f"{sum(n):0{DIGITS + 1}d}"} for n in problems(split)[:count].tolist()]


# ------------------------------------------------------------------------------------------------ model


def adding_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, `<bos>` in front, as `pareto_align.testing.tiny.symbol_tokenizer`."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {text: index for index, text in enumerate((*SYMBOLS, *SPECIAL))}
    backend = Tokenizer(WordLevel(vocabulary))
    backend.pre_tokenizer = Split(Regex("."), behavior="isolated")
    backend.decoder = Fuse()
    backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )


def adding_llama(seed: int = 0) -> LlamaForCausalLM:
    """The untrained model, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    symbols = len(SYMBOLS)
    config = LlamaConfig(
        vocab_size=symbols + len(SPECIAL),
        hidden_size=144,
        intermediate_size=432,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        pad_token_id=symbols,
        bos_token_id=symbols + 1,
        eos_token_id=symbols + 2,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


@cache
def _weights() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(WEIGHTS)


def adding_model() -> LlamaForCausalLM:
    """The pre-trained model, in float32."""
    model = adding_llama()
    model.load_state_dict(_weights())
    return model.eval()


# ------------------------------------------------------------------------------------------------ rewards


def form_of(text: str) -> str | None:
    """The form of an answer, whether right or wrong; None for anything else."""
    return next((form for form, pattern in _patterns().items() if pattern.fullmatch(text)), None)


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    """The three forms with any digits in the digits' places."""
    return {form: re.compile(re.sub(r"\d", r"\\d", re.escape(answer([11] * SUMMANDS, form)))) for form in FORMS}


def accuracy(completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float]:
    """1 for the right number behind the mark at the end, else 0, whatever stands before it."""
    return [float(text.endswith(f"#{right}")) for text, right in zip(completions, answer, strict=True)]


def conciseness(completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    """The share of the budget of tokens that is left, the end not counted; 0 without a marked answer of full length.

    So the shortest completion that earns it is a whole answer. Nothing said, or half a number, is not brevity.
    """
    marked = re.compile(rf"#\d{{{DIGITS + 1}}}$")
    return [
        1 - len(ids) / BUDGET if marked.search(text) else 0.0
        for text, ids in zip(completions, completion_ids, strict=True)
    ]


def clarity(completions: Sequence[str], **columns: Any) -> list[float]:
    """How much of the working is shown: 0 for a marked answer alone, 1/2 with the columns' sums, 1 written out.

    Of the form only, right or wrong; 0 for anything else.
    """
    worth = {"short": 0.0, "sums": 0.5, "written": 1.0, None: 0.0}
    return [worth[form_of(text)] for text in completions]


def objectives() -> list[Objective]:
    """Accuracy, conciseness, clarity, each from 0 to 1."""
    from pareto_align import Objective

    return [Objective(reward.__name__, reward, bounds=(0.0, 1.0)) for reward in (accuracy, conciseness, clarity)]


def adding_lora() -> LoraConfig:
    """Rank 8 on all linear layers."""
    from peft import LoraConfig

    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


# ------------------------------------------------------------------------------------------------ task


@dataclass(frozen=True, eq=False)
class Task:
    """What a fit needs, and what it is judged on.

    Attributes:
        model, tokenizer: The pre-trained model and its characters.
        objectives: Accuracy, conciseness, clarity.
        prompts: To train on, with the column `answer`.
        select: For the aligner's own measurements (`eval_prompts` of `fit`).
        held_out: For the judging; no fit sees them.
        settings: `max_new_tokens`, `lora` and `device`, for `ParetoAligner`.
    """

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    objectives: list[Objective]
    prompts: list[dict[str, Any]]
    select: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    settings: dict[str, Any]


def adding(*, judged_on: int = 400) -> Task:
    """The task, with so many of the problems that are there for judging."""
    return Task(
        model=adding_model(),
        tokenizer=adding_tokenizer(),
        objectives=objectives(),
        prompts=rows("fit"),
        select=rows("select"),
        held_out=rows("judge", judged_on),
        settings={"max_new_tokens": BUDGET, "lora": adding_lora(), "device": "cpu"},
    )


@dataclass(frozen=True, eq=False)
class Judged:
    """What policies do on the held-out problems, n of them; sampled at temperature 1 with the same random numbers.

    Attributes:
        values: [n, 3] mean accuracy, conciseness and clarity.
        stderr: [n, 3] their standard errors over problems.
        tokens: [n] mean tokens of a completion, its end counted.
        forms: [n, 4] shares of the forms short, sums, written, and of anything else.
        right: [n, 3] how often each form is right where it is used; NaN where it never is.
    """

    values: np.ndarray
    stderr: np.ndarray
    tokens: np.ndarray
    forms: np.ndarray
    right: np.ndarray


def judge(task: Task, adapters: Tensor | Sequence[str | Path] | None, *, samples: int = 1, seed: int = 2509) -> Judged:
    """Judge adapters on the held-out problems.

    Args:
        task: The task.
        adapters: [n, P], such as an aligner's `policies_`; or folders of adapters, such as the `adapter_path` of a
            front's members; None judges the untrained model.
        samples: Completions a problem.
        seed: Of the random numbers, the same for every policy.
    """
    import torch

    from pareto_align.data.prompts import read_prompts
    from pareto_align.evaluation.answers import Evaluator
    from pareto_align.objectives import ObjectiveSet
    from pareto_align.policies import PolicyPopulation, load_base
    from pareto_align.policies.sampling import SamplingParams

    base = load_base(task.model, tokenizer=task.tokenizer, device=task.settings["device"])
    counted = [*task.objectives, *_audits()]
    with closing(PolicyPopulation(base, 1, lora=task.settings["lora"])) as population:
        evaluator = Evaluator(
            population, ObjectiveSet(counted), read_prompts(task.held_out, base, BUDGET), samples,
            SamplingParams(BUDGET, 1.0), seed,
        )  # fmt: skip
        if adapters is None:
            found = [evaluator.measure_reference()]
        else:
            if not isinstance(adapters, torch.Tensor):
                adapters = torch.stack([population.read_adapter(Path(folder)) for folder in adapters])
            found = evaluator.measure(adapters)
    means = np.stack([one.estimate.mean for one in found])
    errors = np.sqrt(np.stack([np.diag(one.estimate.covariance) for one in found]))
    m, f = len(task.objectives), len(FORMS) + 1
    lengths = np.array([one.length for one in found])
    return Judged(means[:, :m], errors[:, :m], lengths, means[:, m : m + f], means[:, m + f :])


def _audits() -> list[Objective]:
    """How often each form is used, and how often it is right where it is; looked at only."""
    from pareto_align import Objective

    def share(form: str | None) -> Objective:
        def reward(completions: Sequence[str], **columns: Any) -> list[float]:
            return [float(form_of(text) == form) for text in completions]

        return Objective(form or "other", reward, role="audit", bounds=(0.0, 1.0))

    def right(form: str) -> Objective:
        def reward(completions: Sequence[str], **columns: Any) -> list[float | None]:
            scored = zip(completions, accuracy(completions, **columns), strict=True)
            return [score if form_of(text) == form else None for text, score in scored]

        return Objective(f"right_{form}", reward, role="audit", bounds=(0.0, 1.0))

    return [*(share(form) for form in (*FORMS, None)), *(right(form) for form in FORMS)]
