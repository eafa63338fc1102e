"""What a front folder says, as plain records in maximised units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pareto_align.front.estimates import Estimate

__all__ = ["SCHEMA_VERSION", "FamilyRecord", "FrontRecord", "MemberRecord", "ObjectiveRecord"]

SCHEMA_VERSION = 1


@dataclass
class ObjectiveRecord:
    """One objective as the front knows it.

    Attributes:
        name: Its name.
        role: "optimize", "constrain" or "audit".
        maximize: Direction in the user's units.
        lower: Value that normalises to 0, in maximised units.
        upper: Value that normalises to 1, in maximised units.
        bounds: Smallest and largest possible value, in the user's units.
        at_least: Constraint, in the user's units.
        at_most: Constraint, in the user's units.
        description: For readers.
        tolerance: How far a measured mean may miss the constraint, in the user's units.
    """

    name: str
    role: str
    maximize: bool
    lower: float
    upper: float
    bounds: tuple[float, float] | None = None
    at_least: float | None = None
    at_most: float | None = None
    description: str = ""
    tolerance: float = 0.0


@dataclass
class MemberRecord:
    """One member of the front.

    Attributes:
        id: Its name.
        estimate: Measurement over all objectives, in maximised units.
        preference: Weights over the optimised objectives it was trained for, if any.
        provenance: Where it comes from; plain data.
        adapter: Its folder, relative to the front folder; set by `write_front`.
        files: SHA-256 of each file in that folder, by relative name; set by `write_front`.
        sample: A few answers for readers: "prompt", "completion", and where they are known "prompt_id", the prompt's
            among `estimate.prompt_ids`, and "rewards", [M] of this answer in the user's units. The first fronts have
            neither.
    """

    id: str
    estimate: Estimate
    preference: list[float] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    adapter: str = ""
    files: dict[str, str] = field(default_factory=dict)
    sample: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class FamilyRecord:
    """A family that serves every preference, and what was measured of it at some.

    Attributes:
        name: The name that its kind is registered under.
        settings: What it was built with.
        ranks: Ranks that all preferences share, and ranks of each block.
        step: Training steps behind it.
        preferences: n preferences over the m optimised objectives.
        values: Means over the M objectives at each, on the select split, in the user's units.
        stderr: Their standard errors, same units.
        n: Prompts behind them.
        adapter: Its folder, relative to the front folder; set by `write_front`.
        files: SHA-256 of each file in that folder, by relative name; set by `write_front`.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    ranks: list[int] = field(default_factory=list)
    step: int = 0
    preferences: list[list[float]] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    stderr: list[list[float]] = field(default_factory=list)
    n: int = 0
    adapter: str = ""
    files: dict[str, str] = field(default_factory=dict)


@dataclass
class FrontRecord:
    """Everything about a front but the weights.

    Attributes:
        objectives: All objectives in the user's order.
        members: The front.
        base: The model the adapters belong to: name, revision (of a model of the Hub), gguf_file, dtype,
            use_chat_template, quantization, chat_template_kwargs.
        split: Prompts behind the estimates: "select" or "report".
        reference: Reference point of the hypervolume on the optimised objectives, normalised.
        reference_policy: The untrained model's measurement, in maximised units.
        reference_sample: A few of its answers, as `MemberRecord.sample`, to the same prompts; none in the first fronts.
        fallen: Measured policies off the front: id, values (user's units), stderr, status, reason, provenance, split,
            rival, and where a limit was missed the objective, value and bound (user's units).
        cost: What the run used.
        config: Settings of the run.
        parity: How far the member that stock PEFT loaded before publication was from the policy that was measured:
            member, largest_difference of the log-probabilities, what rounding is allowed of it, and a problem if there
            was one.
            Empty in fronts that were not compared.
        family: The family that the run trained, if it trained one.
        ceilings: Where policies are measured on labels: of each two optimised objectives, in order, the front that the
            labels of these prompts allow, `[n, 2]` in the user's units.
        created: Time stamp, ISO 8601, of the first fronts; "" in those that carry none.
        schema_version: Version of the file format.
    """

    objectives: list[ObjectiveRecord]
    members: list[MemberRecord]
    base: dict[str, Any] = field(default_factory=dict)
    split: str = "select"
    reference: list[float] = field(default_factory=list)
    reference_policy: Estimate | None = None
    reference_sample: list[dict[str, Any]] = field(default_factory=list)
    fallen: list[dict[str, Any]] = field(default_factory=list)
    cost: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    family: FamilyRecord | None = None
    ceilings: list[list[list[float]]] = field(default_factory=list)
    created: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def disparity(self) -> str | None:
        """What a user has to know where a member that was loaded is not the policy that was measured; else None."""
        found = self.parity
        if not found:
            return None
        what = found.get("problem")
        if what is None:
            difference, allowed = found.get("largest_difference"), found.get("allowed")
            if difference is not None and allowed is not None and difference <= allowed:
                return None
            what = f"its log-probabilities differ by {difference}, where rounding explains {allowed}"
        return (
            f"The members of this front may not be what was measured: {found.get('member')!r} was loaded by stock PEFT "
            f"before the front was published, and compared with the policy that was trained ({what}). Do not trust the "
            "front's numbers for these adapters."
        )
