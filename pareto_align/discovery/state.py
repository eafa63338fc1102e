"""The state of a run: everything that the rest of it depends on, taken down and put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pareto_align.errors import FrontFileError
from pareto_align.runs.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pareto_align.discovery.loop import FrontDiscovery

__all__ = ["put_back", "take_down"]


def take_down(loop: FrontDiscovery) -> Checkpoint:
    """The state of a run between two steps. Random numbers need none: each is seeded by name."""
    keeper, spending = loop.keeper, loop.spending
    record = {
        "step": loop.step,
        "trained": loop.trained,
        "events": loop.journal.events,
        "next_entry": keeper.next_entry,
        "train_tokens": spending.train_tokens,
        "rollouts": spending.rollouts,
        "select_tokens": keeper.select.tokens,
        "reward_calls": loop.objectives.reward_calls,
        "reward_seconds": loop.objectives.reward_seconds,
        "nan_rewards": dict(loop.objectives.nan_counts),
        "repeated_calls": dict(loop.objectives.retry_counts),
        "seconds": spending.seconds,
        "reads_packed_rows": loop.learner.layout.reads_packed_rows,
        "drivable": loop.population.drivable,
        "micro_batch_tokens": loop.learner.layout.micro_batch_tokens,
        "scale": loop.scale.to_dict(),
        "reference": keeper.reference.to_dict(),
        "archive": keeper.archive.state_dict(),
        "explorer": loop.explorer.state_dict(),
        "plateau": loop.keeper.plateau.state_dict(),
        "rewards": loop.objectives.state_dict(),
        "blind": loop.recovery.blind,
    }
    tensors = {
        "parameters": loop.population.parameters.detach().cpu(),
        "good": loop.recovery.good,
        **{f"optimizer.{name}": value.cpu() for name, value in loop.learner.optimizer.state_dict().items()},
    }
    arrays = {
        "preferences": loop.preferences,
        "measured": loop.measured,
        "spread": loop.spread,
        "still": loop.stalls.still,
        "unsound": loop.recovery.unsound,
        **{f"weighting.{name}": value for name, value in loop.weighting.state_dict().items()},
        **{f"floors.{name}": value for name, value in loop.floors.state_dict().items()},
    }
    tensors |= {name: torch.from_numpy(np.array(value)) for name, value in arrays.items() if value is not None}
    adapters = {entry.id: entry.adapter for entry in keeper.archive.entries.values() if entry.adapter is not None}
    return Checkpoint(record, tensors, adapters)


def put_back(loop: FrontDiscovery, checkpoint: Checkpoint) -> None:
    """Let a run go on from a checkpoint of its own.

    Raises:
        FrontFileError: The checkpoint is of a run with other settings.
    """
    record, tensors = checkpoint.record, checkpoint.tensors
    keeper, spending = loop.keeper, loop.spending

    def part(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        loop.step, loop.trained = int(record["step"]), bool(record["trained"])
        keeper.next_entry = int(record["next_entry"])
        spending.train_tokens, spending.rollouts = int(record["train_tokens"]), int(record["rollouts"])
        keeper.select.tokens = int(record["select_tokens"])
        loop.objectives.reward_calls = int(record["reward_calls"])
        loop.objectives.reward_seconds = float(record["reward_seconds"])
        # checkpoints of the first runs lack these counts, `blind` and `plateau`
        loop.objectives.nan_counts |= {k: int(v) for k, v in record.get("nan_rewards", {}).items()}
        loop.objectives.retry_counts |= {k: int(v) for k, v in record.get("repeated_calls", {}).items()}
        spending.started -= float(record["seconds"])
        loop.learner.layout.reads_packed_rows = record["reads_packed_rows"]
        loop.population.drivable = record["drivable"]
        loop.learner.layout.micro_batch_tokens = int(record["micro_batch_tokens"])
        keeper.archive.load_state_dict(record["archive"])
        for name, adapter in checkpoint.adapters.items():
            keeper.archive.entries[name].adapter = adapter
        loop.recovery.blind = int(record.get("blind", 0))
        loop.explorer.load_state_dict(record["explorer"])
        if "plateau" in record:
            keeper.plateau.load_state_dict(record["plateau"])
        loop.objectives.load_state_dict(record["rewards"])
        with torch.no_grad():
            loop.population.parameters.copy_(tensors["parameters"])
        loop.learner.optimizer.load_state_dict(part("optimizer."))
        loop.weighting.load_state_dict({k: v.numpy() for k, v in part("weighting.").items()})
        loop.floors.load_state_dict({k: v.numpy() for k, v in part("floors.").items()})
        loop.recovery.good = tensors["good"].clone()
        loop.preferences = tensors["preferences"].numpy().copy()
        loop.measured = tensors["measured"].numpy().copy() if "measured" in tensors else None
        loop.spread = tensors["spread"].numpy().copy()
        loop.stalls.still = tensors["still"].numpy().copy()
        loop.recovery.unsound = tensors["unsound"].numpy().copy()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FrontFileError(
            f"The checkpoint in {loop.folder} does not fit this run: {type(error).__name__}: {error}"
        ) from error
