"""The commands that look at a finished front: `front`, `select`, `plot`, `page`, `export` and `push`."""

from __future__ import annotations

import argparse
from typing import Any

from pareto_align.cli.output import front_json, print_front, print_json, say
from pareto_align.cli.parser import KINDS
from pareto_align.errors import ConfigError
from pareto_align.report.export import folder_names
from pareto_align.report.fallen import fallen_lines
from pareto_align.result import Choice, ParetoFront

__all__ = ["export", "front", "page", "plot", "push", "select"]

_DPI = 160


def front(arguments: argparse.Namespace) -> None:
    """Print the table of a front and its hypervolume."""
    loaded = ParetoFront.load(arguments.run)
    if arguments.json:
        print_json(front_json(loaded, fallen=arguments.all))
        return
    print_front(loaded)
    if arguments.all:
        say("\n" + "\n".join(fallen_lines(loaded.record) or ["Everything was kept."]))


def select(arguments: argparse.Namespace) -> None:
    """Print the member that serves a preference, or agrees with comparisons, and how sure that is.

    Raises:
        ConfigError: There are a preference and comparisons, or a column and no comparisons.
    """
    loaded = ParetoFront.load(arguments.run)
    choice = _chosen(loaded, arguments)
    second = None if choice.runner_up is None else choice.runner_up.id
    if arguments.json:
        found: dict[str, Any] = choice.member.to_dict()
        found["member"] = found.pop("id")
        found |= {
            "regret": choice.regret,
            "runner_up": second,
            "probability_best": choice.probability_best,
            "feasible": choice.feasible,
            "rule": choice.rule,
            "reason": choice.reason,
            "explanation": choice.explain(),
        }
        if choice.posterior is not None:
            found["posterior"] = choice.posterior
        print_json(found)
        return
    shown = repr(choice.member).removeprefix("<Member ").removesuffix(">")
    say(shown)
    say(choice.reason)
    say(choice.explain())
    known = choice.probability_best == choice.probability_best  # NaN where nothing is known of the noise
    unit = "bits a comparison" if choice.rule == "like" else "of the objectives' range"
    told = f"{choice.regret:.4f} {unit}, expected from noise" if known else "not known"
    say(f"Regret:           {told}")
    say(f"Runner-up:        {second or 'none'}")
    say(f"Probability best: {choice.probability_best:.2f}" if known else "Probability best: not known")
    say(f"Adapter:          {choice.adapter_path}")


def _chosen(loaded: ParetoFront, arguments: argparse.Namespace) -> Choice:
    if arguments.like is None:
        if arguments.column is not None:
            raise ConfigError("--column says which labels of --like count. Give --like FILE as well.")
        return loaded.select(
            arguments.prefer,
            rule=arguments.rule,
            criterion=arguments.criterion or "ser",
            at_least=arguments.at_least,
            at_most=arguments.at_most,
        )
    for option in ("prefer", "rule", "criterion", "at_least", "at_most"):
        if getattr(arguments, option):
            raise ConfigError(f"--like chooses by comparisons alone. Leave out --{option.replace('_', '-')}.")
    from pareto_align.data.comparisons import Comparisons

    return loaded.select_like(Comparisons.read(arguments.like), column=arguments.column)


def plot(arguments: argparse.Namespace) -> None:
    """Draw figures of a front, one PNG file a kind.

    Raises:
        ConfigError: `--out` cannot be written.
    """
    loaded = ParetoFront.load(arguments.run)
    kinds = _possible(loaded) if arguments.kind == "all" else [arguments.kind]
    draw = {
        "front": loaded.plot,
        "history": loaded.plot_history,
        "weights": loaded.plot_weights,
        "tradeoff": loaded.plot_tradeoff,
    }
    out = arguments.out or (loaded.path if loaded.path.is_dir() else loaded.folder)
    figures = {kind: draw[kind]() for kind in kinds}
    files = {kind: out / f"{kind}.png" for kind in kinds}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for kind, figure in figures.items():
            figure.savefig(files[kind], dpi=_DPI)
    except OSError as error:
        raise ConfigError(f"Cannot write figures to {out}: {error.strerror or error}. Try --out DIR.") from error
    if arguments.json:
        print_json(files)
    else:
        for file in files.values():
            say(str(file))


def page(arguments: argparse.Namespace) -> None:
    """Write the page of a front, one HTML file."""
    loaded = ParetoFront.load(arguments.run)
    file = arguments.out or (loaded.path if loaded.path.is_dir() else loaded.folder) / "front.html"
    loaded.page(file)
    if arguments.json:
        print_json({"page": file})
    else:
        say(f"{file}  (open it in a browser; it needs no network)")


def _possible(loaded: ParetoFront) -> list[str]:
    """The kinds of figure that this front has something for."""
    steps = any(event.get("event") == "step" for event in loaded.history)
    objectives = sum(objective.role == "optimize" for objective in loaded.record.objectives)
    left_out = (set() if steps else {"history", "weights"}) | (set() if objectives > 1 else {"tradeoff"})
    return [kind for kind in KINDS if kind not in left_out]


def export(arguments: argparse.Namespace) -> None:
    """Copy the adapters to a new folder, or merge them into whole models.

    Raises:
        ConfigError: `--dtype` without `--merge`, or an unknown member.
    """
    loaded = ParetoFront.load(arguments.run)
    folder = loaded.export(
        arguments.out,
        format=arguments.format,
        members=arguments.member,
        merge=arguments.merge,
        dtype=arguments.dtype,
    )
    wanted = [member for member in loaded if arguments.member is None or member.id in arguments.member]
    names = folder_names({member.id: member.adapter_path for member in wanted})
    what = "merged" if arguments.merge else "adapters"
    if arguments.json:
        print_json({"folder": folder, what: {member: folder / name for member, name in names.items()}})
        return
    kind = "merged model" if arguments.merge else "adapter"
    say(f"{len(names)} {kind}{'' if len(names) == 1 else 's'} in {folder}")
    if arguments.format == "vllm":
        say(f"sh {folder / 'serve.sh'} starts vLLM with them")


def push(arguments: argparse.Namespace) -> None:
    """Put a front on the Hugging Face Hub, and print where it is."""
    loaded = ParetoFront.load(arguments.run)
    address = loaded.push_to_hub(
        arguments.repo,
        private=arguments.private,
        license=arguments.license,
        create_pr=arguments.create_pr,
        journal=arguments.journal,
    )
    if arguments.json:
        print_json({"address": address})
    else:
        say(address)
