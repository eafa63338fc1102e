"""Dynamic reward weightings inside TRL's own `GRPOTrainer` and `RLOOTrainer`, for one policy.

TRL adds up `reward_weights * rewards` with weights that are fixed for the run (huggingface/trl issue 3036 asks for
others). `WeightingCallback` sets them anew for every batch of completions, by any weighting of this package that can
work with what TRL measures.

Where it holds on to the trainer, in trl 1.x: `_calculate_rewards` returns a batch's rewards [n, M], one column a reward
function, gathered from all processes, NaN for None; right afterwards the trainer reads `reward_weights`. The callback
looks at that return value and sets that attribute, so weights answer to the batch they are applied to, as in
`ParetoAligner.fit`. No event of `transformers` lies between the two. The tests hold the installed release to it.
"""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from transformers import TrainerCallback

from pareto_align.errors import ConfigError, ObjectiveError, ParetoAlignWarning
from pareto_align.front.preferences import Preference
from pareto_align.integrations.batch_weights import BatchWeights
from pareto_align.objectives import Objective, ObjectiveSet
from pareto_align.weighting import Weighting, make
from pareto_align.weighting.evidence import FROM_REWARDS

__all__ = ["WeightingCallback"]

SEAM = ("_calculate_rewards", "reward_weights", "reward_func_names", "num_generations", "_metrics")
"""What a trainer must have: how trl 1.x measures, combines and logs rewards."""

STATE_KEY = "pareto_align.WeightingCallback"
"""Where the state stands among `stateful_callbacks` in a checkpoint's trainer_state.json."""


class WeightingCallback(TrainerCallback):
    """Sets a TRL trainer's `reward_weights` by a weighting, before every batch's rewards are added up.

    The policy in training is a population of one (K = 1); the trainer's M reward functions are its objectives. The
    weighting sees each batch's mean rewards on a scale that is frozen once: bounds where they are given, otherwise mean
    and standard deviation of the first batch. TRL multiplies raw rewards, so the weights handed to it are the
    weighting's divided by that scale; the ones logged, as `weights/<name>`, are the weighting's own. (With GRPO's
    `multi_objective_aggregation="normalize_then_sum"` TRL takes out the scale itself, and weights are not divided.)

    The sum of a row is the strength of a step: it scales the combined reward. Where the trainer divides by a standard
    deviation after adding up (GRPO unless `scale_rewards="none"`, RLOO with `normalize_advantages=True`) it cancels,
    which is warned about when a weighting asks for another strength than 1.

    The state is kept in the checkpoints' `trainer_state.json` and taken up again by
    `trainer.train(resume_from_checkpoint=...)`.

    Example:
        ```python
        trainer = GRPOTrainer(model=model, reward_funcs=[right, brief], args=args, train_dataset=dataset)
        WeightingCallback("maxmin", preference={"right": 2, "brief": 1}, bounds={"right": (0, 1)}).attach(trainer)
        trainer.train()
        ```

    Args:
        weighting: A weighting's name or an instance. One that needs what TRL does not measure (gradients, evaluations
            on held-out prompts) is refused.
        preference: What the policy is trained for, over the functions that are neither held at a threshold nor audited:
            weights by name, or [m] in order; equal ones by default.
        names: [M] names of the reward functions, in the order of `reward_funcs`; by default the trainer's own names.
        bounds: (lowest, highest) reward possible, by name. Recommended: without, the scale depends on one batch.
        at_least: Thresholds that a mean reward must not fall below, by name, in the function's own units; for
            Lagrangian weightings.
        at_most: Thresholds that a mean reward must not rise above.
        audited: Names of functions that are measured and logged, but have weight 0; for weightings that go by them.
        scale_batches: Batches of completions to measure the scale of unbounded functions on. Until then the weights are
            the preference, on the scale seen so far, and the weighting waits. The policy trains meanwhile: more batches
            mean less noise, of a policy that has moved further.

    Raises:
        ConfigError: trl is not installed, or the weighting is unknown or needs something that TRL does not measure.
    """

    def __init__(
        self,
        weighting: str | Weighting,
        *,
        preference: Mapping[str, float] | Sequence[float] | None = None,
        names: Sequence[str] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        at_least: Mapping[str, float] | None = None,
        at_most: Mapping[str, float] | None = None,
        audited: Sequence[str] = (),
        scale_batches: int = 1,
    ) -> None:
        _trl_version()
        self.weighting = make(weighting)
        if unmet := sorted(self.weighting.requires - FROM_REWARDS):
            raise ConfigError(
                f"Weighting '{self.weighting.name}' needs {', '.join(unmet)}, which TRL's trainers do not measure; "
                "ParetoAligner does."
            )
        self.preference, self.names, self.scale_batches = preference, names, scale_batches
        self.bounds, self.at_least, self.at_most = dict(bounds or {}), dict(at_least or {}), dict(at_most or {})
        self.audited = list(audited)
        self.trainer: Any = None

    @property
    def weights(self) -> dict[str, float]:
        """The weighting's newest weights by name; empty before the first batch."""
        if self.trainer is None or self.batch.row is None:
            return {}
        names = self.batch.objectives.names
        return {names[i]: float(w) for i, w in zip(self.batch.columns, self.batch.row, strict=True)}

    def attach(self, trainer: Any) -> Self:
        """Register with `trainer`, a `GRPOTrainer` or `RLOOTrainer`, before `trainer.train()`.

        Raises:
            ConfigError: The trainer combines rewards in another way, has weights of its own or another callback of this
                kind; names do not fit its reward functions; thresholds without a weighting that heeds them, or such a
                weighting without thresholds; `scale_batches` is no whole number of at least 1.
            ObjectiveError: Bounds or thresholds that cannot be.
            PreferenceError: A preference that does not fit the reward functions.
        """
        if self.trainer is trainer:
            return self
        if self.trainer is not None:
            raise ConfigError("This WeightingCallback is attached to another trainer; make a new one for each.")
        if missing := [name for name in SEAM if not hasattr(trainer, name)]:
            raise ConfigError(
                f"WeightingCallback serves GRPOTrainer and RLOOTrainer of trl>=1.0,<2. Found {type(trainer).__name__} "
                f"with trl {_trl_version()}, which has no {', '.join(missing)}."
            )
        if trainer.args.reward_weights is not None:
            raise ConfigError(
                f"The trainer's arguments fix reward_weights={trainer.args.reward_weights}, which the callback would "
                "overwrite. Leave them out and give the callback a `preference`."
            )
        others = [callback for callback in trainer.callback_handler.callbacks if callback is not self]
        if any(isinstance(callback, WeightingCallback) for callback in others):
            raise ConfigError("The trainer has a WeightingCallback already; two would overwrite each other's weights.")
        objectives = self._objectives(list(trainer.reward_func_names))
        optimised = [objectives.names[i] for i in objectives.axes]
        wanted = np.ones(len(optimised)) if self.preference is None else self.preference
        self.batch = BatchWeights(
            self.weighting,
            objectives,
            Preference.of(wanted, optimised).weights,
            group_size=trainer.num_generations,
            scale_batches=self.scale_batches,
        )
        # TRL's own normalisation, per function and group, comes before these weights and again after them.
        self.normalized_first = getattr(trainer, "multi_objective_aggregation", None) == "normalize_then_sum"
        self.strength_cancels = (
            self.normalized_first
            or getattr(trainer, "scale_rewards", "none") != "none"
            or getattr(trainer, "normalize_advantages", False)
        )
        self.warned = False
        self.trainer = trainer
        self._listen()
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start afresh, or where the checkpoint stopped.

        Raises:
            ConfigError: `attach` was not called, or the checkpoint is of another weighting or of other functions.
        """
        if self.trainer is None:
            raise ConfigError(
                "A WeightingCallback needs the trainer, which TRL's `callbacks` do not get to see: call "
                "callback.attach(trainer) before trainer.train()."
            )
        self.batch.setup()
        # Not an `ExportableState`: to restore one, transformers builds a new callback from JSON, which can hold neither
        # a weighting nor the trainer, and it does so only where an argument asks for it.
        saved = state.stateful_callbacks.get(STATE_KEY)
        if saved is not None:
            self.batch.load_state_dict(saved)
        elif state.global_step > 0:
            warnings.warn(
                "The checkpoint was made without a WeightingCallback; the weighting starts anew at step "
                f"{state.global_step}.",
                ParetoAlignWarning,
                stacklevel=2,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the state where a checkpoint takes it from."""
        state.stateful_callbacks[STATE_KEY] = self.batch.state_dict()

    def _listen(self) -> None:
        """Let every batch of training rewards pass through `_hand_over` on its way to the trainer."""
        trainer = self.trainer
        measure = trainer._calculate_rewards

        @functools.wraps(measure)
        def calculate_rewards(*args: Any, **kwargs: Any) -> Any:
            rewards = measure(*args, **kwargs)
            if trainer.model.training:  # how the trainer itself tells training from evaluation
                self._hand_over(rewards)
            return rewards

        trainer._calculate_rewards = calculate_rewards

    def _hand_over(self, gathered: Any) -> None:
        """Set the trainer's weights for the batch with these rewards [n, M], the same in all processes."""
        import torch
        from accelerate.utils import broadcast

        trainer = self.trainer
        weights = self.batch(
            gathered.detach().cpu().numpy(),
            step=trainer.state.global_step,
            steps=trainer.state.max_steps,
            raw=not self.normalized_first,
        )
        # Processes see the same rewards, but a weighting may draw numbers, and TRL seeds each process differently.
        shared = broadcast(torch.tensor(weights, dtype=torch.float32, device=gathered.device), from_process=0)
        trainer.reward_weights = shared.to(trainer.reward_weights)
        for name, weight in self.weights.items():
            trainer._metrics["train"][f"weights/{name}"].append(weight)
        self._check_strength()

    def _check_strength(self) -> None:
        strength = sum(map(abs, self.weights.values()))
        if self.strength_cancels and not self.warned and abs(strength - 1) > 1e-3:
            self.warned = True
            warnings.warn(
                f"Weighting '{self.weighting.name}' asks for a step of strength {strength:.3g}, which this trainer's "
                "normalisation cancels: only the ratios of the weights count. To have it, use scale_rewards='none' "
                "(GRPO, with sum_then_normalize) or normalize_advantages=False (RLOO).",
                ParetoAlignWarning,
                stacklevel=2,
            )

    def _objectives(self, own: list[str]) -> ObjectiveSet:
        """The reward functions as objectives, in the trainer's order."""
        names = own if self.names is None else list(self.names)
        if len(names) != len(own):
            raise ConfigError(f"Found {len(names)} names for {len(own)} reward functions ({', '.join(own)}).")
        if len(names) < 2:
            raise ConfigError(f"Weights trade at least two reward functions. Found {', '.join(names) or 'none'}.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"Several reward functions are called {twice[0]!r}; give each a name with `names`.")
        for setting in ("bounds", "at_least", "at_most", "audited"):
            for name in getattr(self, setting):
                if name not in names:
                    near = difflib.get_close_matches(str(name), names, n=1)
                    hint = f"Did you mean {near[0]!r}?" if near else f"They are {', '.join(names)}."
                    raise ConfigError(f"`{setting}` names {name!r}, which is no reward function. {hint}")
        roles = dict.fromkeys([*self.at_least, *self.at_most], "constrain") | dict.fromkeys(self.audited, "audit")
        return ObjectiveSet(
            [
                Objective(
                    name,
                    _scored_by_the_trainer,
                    bounds=self.bounds.get(name),
                    role=roles.get(name, "optimize"),
                    at_least=self.at_least.get(name),
                    at_most=self.at_most.get(name),
                )
                for name in names
            ]
        )


def _scored_by_the_trainer(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
    raise ObjectiveError("This objective stands for a reward function of TRL's trainer, which calls it.")


def _trl_version() -> str:
    try:
        import trl
    except ImportError as error:
        raise ConfigError("WeightingCallback needs trl. Install it with `pip install 'pareto-align[trl]'`.") from error
    return str(trl.__version__)
