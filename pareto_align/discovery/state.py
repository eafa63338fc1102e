"""The state of a run: everything that the rest of it depends on, taken down and put back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pareto_align.discovery.checkpoint import Checkpoint
from pareto_align.errors import FrontFileError

if TYPE_CHECKING:
    from pareto_align.discovery.loop import FrontDiscovery

__all__ = ["put_back", "take_down"]


def take_down(loop: FrontDiscovery) -> Checkpoint:
    """The state of a run between two steps. Random numbers need none: each is seeded by name."""
    record = {
        "step": loop.step,
        "trained": loop.trained,
        "events": loop.journal.events,
        "next_entry": loop.next_entry,
        "train_tokens": loop.train_tokens,
        "rollouts": loop.rollouts,
        "select_tokens": loop.select.tokens,
        "reward_calls": loop.objectives.reward_calls,
        "reward_seconds": loop.objectives.reward_seconds,
        "nan_rewards": dict(loop.objectives.nan_counts),
        "repeated_calls": dict(loop.objectives.retry_counts),
        "seconds": time.monotonic() - loop.started,
        "reads_packed_rows": loop.learner.layout.reads_packed_rows,
        "drivable": loop.population.drivable,
        "micro_batch_tokens": loop.learner.layout.micro_batch_tokens,
        "scale": loop.scale.to_dict(),
        "reference": loop.reference.to_dict(),
        "archive": loop.archive.state_dict(),
        "explorer": loop.explorer.state_dict(),
        "rewards": loop.objectives.state_dict(),
    }
    tensors = {
        "parameters": loop.population.parameters.detach().cpu(),
        "good": loop.good,
        **{f"optimizer.{name}": value.cpu() for name, value in loop.learner.optimizer.state_dict().items()},
    }
    arrays = {
        "preferences": loop.preferences,
        "measured": loop.measured,
        "spread": loop.spread,
        "still": loop.stalls.still,
        "unsound": loop.unsound,
        **{f"weighting.{name}": value for name, value in loop.weighting.state_dict().items()},
        **{f"floors.{name}": value for name, value in loop.floors.state_dict().items()},
    }
    tensors |= {name: torch.from_numpy(np.array(value)) for name, value in arrays.items() if value is not None}
    adapters = {entry.id: entry.adapter for entry in loop.archive.entries.values() if entry.adapter is not None}
    return Checkpoint(record, tensors, adapters)


def put_back(loop: FrontDiscovery, checkpoint: Checkpoint) -> None:
    """Let a run go on from a checkpoint of its own.

    Raises:
        FrontFileError: The checkpoint is of a run with other settings.
    """
    record, tensors = checkpoint.record, checkpoint.tensors

    def part(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        loop.step, loop.trained = int(record["step"]), bool(record["trained"])
        loop.next_entry = int(record["next_entry"])
        loop.train_tokens, loop.rollouts = int(record["train_tokens"]), int(record["rollouts"])
        loop.select.tokens = int(record["select_tokens"])
        loop.objectives.reward_calls = int(record["reward_calls"])
        loop.objectives.reward_seconds = float(record["reward_seconds"])
        # checkpoints of the first runs lack these two counts
        loop.objectives.nan_counts |= {k: int(v) for k, v in record.get("nan_rewards", {}).items()}
        loop.objectives.retry_counts |= {k: int(v) for k, v in record.get("repeated_calls", {}).items()}
        loop.started = time.monotonic() - float(record["seconds"])
        loop.learner.layout.reads_packed_rows = record["reads_packed_rows"]
        loop.population.drivable = record["drivable"]
        loop.learner.layout.micro_batch_tokens = int(record["micro_batch_tokens"])
        loop.archive.load_state_dict(record["archive"])
        for name, adapter in checkpoint.adapters.items():
            loop.archive.entries[name].adapter = adapter
        loop.explorer.load_state_dict(record["explorer"])
        loop.objectives.load_state_dict(record["rewards"])
        with torch.no_grad():
            loop.population.parameters.copy_(tensors["parameters"])
        loop.learner.optimizer.load_state_dict(part("optimizer."))
        loop.weighting.load_state_dict({k: v.numpy() for k, v in part("weighting.").items()})
        loop.floors.load_state_dict({k: v.numpy() for k, v in part("floors.").items()})
        loop.good = tensors["good"].clone()
        loop.preferences = tensors["preferences"].numpy().copy()
        loop.measured = tensors["measured"].numpy().copy() if "measured" in tensors else None
        loop.spread = tensors["spread"].numpy().copy()
        loop.stalls.still = tensors["still"].numpy().copy()
        loop.unsound = tensors["unsound"].numpy().copy()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FrontFileError(
            f"The checkpoint in {loop.folder} does not fit this run: {type(error).__name__}: {error}"
        ) from error
