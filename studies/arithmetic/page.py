"""README.md: every number in its tables and claims comes from results.json."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

from cases import METHODS, PRESETS, SEEDS, cases
from runs import Spread
from summary import BASE, DIVISIONS, INDICATORS, REFERENCE, Study
from task import FORMS, answer, prompt

HERE = Path(__file__).resolve().parent
EXAMPLE = (37, 85, 46)


def short(value: float, places: int = 3) -> str:
    """A number without the zero before the point."""
    return f"{value:.{places}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{places}f}"


def cell(found: Spread, places: int = 3, scale: float = 1.0) -> str:
    """Mean and interval."""
    mean, low, high = (short(scale * value, places) for value in (found.mean, found.low, found.high))
    return f"{mean} ({low} to {high})"


def signed(found: Spread) -> str:
    """A difference and its interval, bold where the interval leaves 0 out, starred where Student's does as well."""
    text = ("+" if found.mean >= 0 else "") + cell(found)
    return f"**{text}**{'*' if found.strict else ''}" if found.verdict else text


def worth(study: Study) -> str:
    """The indicators, a row a method."""
    lines = [
        "| method | hypervolume | expected utility | best even compromise | tokens trained on | tokens measured |",
        "|---|---|---|---|---|---|",
    ]
    for method in study.methods:
        cells = [cell(study.mean(method, name)) for name in INDICATORS]
        cells += [f"{study.column(method, what).mean() / 1000:.0f} k" for what in ("train_tokens", "eval_tokens")]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def gains(study: Study) -> str:
    """Paired differences to fixed weights on the same grid."""
    lines = ["| method | hypervolume | expected utility | best even compromise |", "|---|---|---|---|"]
    for method in study.methods:
        if method != BASE:
            lines.append(f"| `{method}` | {' | '.join(signed(study.gain(method, name)) for name in INDICATORS)} |")
    return "\n".join(lines)


def policies(study: Study) -> str:
    """Every policy, a row a method and preference."""
    lines = [
        "| method | preference | right, % | tokens | clarity | short / sums / written, % |",
        "|---|---|---|---|---|---|",
    ]
    names = {weights: name for name, weights in PRESETS.items()}
    for method in study.methods:
        for preference, slots in study.groups(method):
            for slot in slots:
                shares = study.column(method, "forms")[:, slot].mean(0)
                cells = (
                    cell(study.policy(method, slot, "values", 0), 0, 100),
                    cell(study.policy(method, slot, "tokens"), 1),
                    cell(study.policy(method, slot, "values", 2), 2),
                    " / ".join(f"{100 * share:.0f}" for share in shares[: len(FORMS)]),
                )
                told = names.get(preference, " ".join(f"{w:g}".replace("0.", ".") for w in preference))
                lines.append(f"| `{method}` | {told} | {' | '.join(cells)} |")
    return "\n".join(lines)


def forms(study: Study) -> str:
    """The three forms, and what the untrained model makes of them."""
    lines = ["| form | an answer | tokens | the untrained model's share | right, % |", "|---|---|---|---|---|"]
    for place, form in enumerate(FORMS):
        text = answer(EXAMPLE, form)
        share, right = study.untrained["forms"][place], study.untrained["right"][form]
        lines.append(f"| {form} | `{text}` | {len(text) + 1} | {100 * share:.0f} % | {100 * right:.1f} |")
    return "\n".join(lines)


def done(results: dict[str, Any]) -> str:
    """How much of the plan is in the results."""
    planned = [case.key for case in cases()]
    there = sum(key in results["runs"] for key in planned)
    if there == len(planned):
        return f"All {there} runs of the plan are in."
    return (
        f"Of the plan's {len(planned)} runs {there} are in; a method without all {len(SEEDS)} seeds is left out, and "
        "the same command runs what is missing."
    )


def fields(results: dict[str, Any]) -> dict[str, str]:
    """Everything that report.md names; `hypervolume_fixed` is a mean, `gain_hypervolume_gradient` a difference."""
    study = Study(results)

    def key(*parts: str) -> str:
        return "_".join(parts).replace("-", "_")

    means = {key(name, m): cell(study.mean(m, name)) for m in study.methods for name in INDICATORS}
    differences = {
        key("gain", name, m): signed(study.gain(m, name)).strip("*")
        for m in study.methods
        for name in INDICATORS
        if m != BASE
    }
    single = {}
    for method in study.methods:
        for slot, preference in enumerate(METHODS[method][1]):
            for name in (name for name, weights in PRESETS.items() if weights == preference):
                single[key("right", method, name)] = f"{study.policy(method, slot, 'values', 0).mean:.0%}".replace(
                    "%", " %"
                )
                single[key("tokens", method, name)] = f"{study.policy(method, slot, 'tokens').mean:.1f}"
    return {
        **means,
        **differences,
        **single,
        "table_worth": worth(study),
        "table_gains": gains(study),
        "table_policies": policies(study),
        "table_forms": forms(study),
        "untrained_right": f"{100 * study.untrained['values'][0]:.0f} %",
        "untrained_tokens": f"{study.untrained['tokens']:.1f}",
        "untrained_hypervolume": short(INDICATORS["hypervolume"]([study.untrained["values"]])),
        "prompt": prompt(EXAMPLE),
        "runs": str(len(study.methods) * len(SEEDS)),
        "methods": ", ".join(f"`{name}`" for name in METHODS),
        "presets": ", ".join(
            f"{name} {' / '.join(f'{w:g}'.replace('0.', '.') for w in weights)}" for name, weights in PRESETS.items()
        ),
        "reference": f"{REFERENCE[0]:g}".replace("-0.", "-."),
        "divisions": str(DIVISIONS),
        "judged_on": str(study.setting["judged_on"]),
        "judged_samples": "one sample" if (n := study.setting["judged_samples"]) == 1 else f"{n} samples",
        "rollouts": str(int(study.column(BASE, "rollouts").mean())),
        "measured": str(int(study.column(BASE, "measured").mean())),
        "setting": ", ".join(f"`{name}={value}`" for name, value in study.setting.items()),
        "done": done(results),
    }


def report(results: dict[str, Any]) -> str:
    """README.md."""
    return Template((HERE / "report.md").read_text(encoding="utf-8")).substitute(fields(results))
