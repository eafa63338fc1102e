"""The commands that look at a finished front: `front`, `compare`, `select`, `plot`, `page`, `export` and `push`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pareto_align.cli.kinds import IMAGES, KINDS
from pareto_align.cli.output import front_json, print_front, print_json, say
from pareto_align.errors import ConfigError
from pareto_align.report.export import folder_names
from pareto_align.report.fallen import fallen_lines
from pareto_align.result import Choice, ParetoFront

__all__ = ["compare", "export", "front", "page", "plot", "push", "select"]

_DPI = 160


def _loaded(run: Path) -> ParetoFront:
    """The front of a run; of one that has not ended it is said how far it came, for its numbers are not its last."""
    found = ParetoFront.load(run)
    ended = found.record.split == "report" or any(event["event"] == "end" for event in found.history)
    if found.history and not ended:
        step = max((int(event["step"]) for event in found.history if event["event"] == "step"), default=0)
        steps = found.record.config.get("steps")
        say(f"note: the run has not ended: step {step} of {steps}, measured on selection prompts", to=sys.stderr)
    return found


def front(arguments: argparse.Namespace) -> None:
    """Print the table of a front and its hypervolume."""
    loaded = _loaded(arguments.run)
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
    loaded = _loaded(arguments.run)
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
    """Draw figures of a front, one file a kind, and their numbers if they are wanted.

    Raises:
        ConfigError: `--out` cannot be written, or an option is for another figure.
    """
    for option, kind in (("gain", "tradeoff"), ("cost", "tradeoff"), ("highlight", "front")):
        if getattr(arguments, option) is not None and arguments.kind not in (kind, "all"):
            raise ConfigError(f"--{option} is for --kind {kind}.")
    loaded = _loaded(arguments.run)
    kinds = _possible(loaded) if arguments.kind == "all" else [arguments.kind]
    style, pair = arguments.style, {"gain": arguments.gain, "cost": arguments.cost}
    draw: dict[str, Callable[[], Any]] = {
        "front": lambda: loaded.plot(highlight=arguments.highlight, style=style),
        "history": lambda: loaded.plot_history(style=style),
        "weights": lambda: loaded.plot_weights(style=style),
        "tradeoff": lambda: loaded.plot_tradeoff(**pair, style=style),
        "prices": lambda: loaded.plot_prices(style=style),
        "audit": lambda: loaded.plot_audit(style=style),
    }
    out = arguments.out or (loaded.path if loaded.path.is_dir() else loaded.folder)
    figures = {kind: draw[kind]() for kind in kinds}
    tables: dict[str, str] = {}
    if arguments.data:
        from pareto_align.report.figure_data import as_csv

        tables = {kind: as_csv(loaded.plot_data(kind, **pair)) for kind in kinds}  # type: ignore[arg-type]
    files = {kind: out / f"{kind}.{arguments.format}" for kind in kinds}
    data = {kind: out / f"{kind}.csv" for kind in tables}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for kind, figure in figures.items():
            _save(figure, files[kind], arguments.format)
        for kind, table in tables.items():
            data[kind].write_text(table, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write figures to {out}: {error.strerror or error}. Try --out DIR.") from error
    if arguments.json:
        print_json({**files, "data": data} if data else files)
    else:
        for file in [*files.values(), *data.values()]:
            say(str(file))


def compare(arguments: argparse.Namespace) -> None:
    """Print what two fronts attain in one frame, and draw it if that is wanted.

    Raises:
        ConfigError: The fronts have no frame in common, or `--out` names no such image or cannot be written.
    """
    kind = None if arguments.out is None else arguments.out.suffix.lower().removeprefix(".")
    if kind is not None and kind not in IMAGES:
        raise ConfigError(f"--out must end in {', '.join('.' + image for image in IMAGES)}. Found {arguments.out}.")
    first, second = ParetoFront.load(arguments.first), ParetoFront.load(arguments.second)
    found = first.compare(second)
    if kind is not None:
        figure = first.plot_comparison(second, style=arguments.style)
        try:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            _save(figure, arguments.out, kind)
        except OSError as error:
            raise ConfigError(f"Cannot write {arguments.out}: {error.strerror or error}.") from error
    if arguments.json:
        print_json({**found.to_dict(), **({} if kind is None else {"figure": arguments.out})})
        return
    say(str(found))
    if kind is not None:
        say(str(arguments.out))


def _save(figure: Any, file: Path, kind: str) -> None:
    """Write a figure with what is seen in words, and without a clock: equal fronts give equal bytes."""
    import matplotlib

    words = {"png": {"Description": figure.alt}, "svg": {"Description": figure.alt, "Date": None},
             "pdf": {"Subject": figure.alt, "CreationDate": None}}[kind]  # fmt: skip
    with matplotlib.rc_context({"svg.hashsalt": "pareto-align"}):
        figure.savefig(file, format=kind, dpi=_DPI, facecolor=figure.get_facecolor(), metadata=words)


def page(arguments: argparse.Namespace) -> None:
    """Write the page of a front, one HTML file."""
    loaded = _loaded(arguments.run)
    file = arguments.out or (loaded.path if loaded.path.is_dir() else loaded.folder) / "front.html"
    loaded.page(file)
    if arguments.json:
        print_json({"page": file})
    else:
        say(f"{file}  (open it in a browser; it needs no network)")


def _possible(loaded: ParetoFront) -> list[str]:
    """The kinds of figure that this front has something for."""
    told = {event.get("event") for event in loaded.history}
    roles = [objective.role for objective in loaded.record.objectives]
    has = {
        "front": True,
        "history": "step" in told,
        "weights": "step" in told,
        "tradeoff": roles.count("optimize") > 1,
        "prices": roles.count("optimize") > 2,
        "audit": "audit" in roles and "evaluation" in told,
    }
    return [kind for kind in KINDS if has[kind]]


def export(arguments: argparse.Namespace) -> None:
    """Copy the adapters to a new folder, or merge them into whole models.

    Raises:
        ConfigError: `--dtype` without `--merge`, or an unknown member.
    """
    loaded = _loaded(arguments.run)
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
    loaded = _loaded(arguments.run)
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
