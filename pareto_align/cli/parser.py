"""The arguments of every command. Nothing heavy is imported here, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pareto_align

__all__ = ["IMAGES", "KINDS", "LABEL_KINDS", "PAIRS", "REWARDS", "SOURCES", "build_parser", "is_path"]

KINDS = ("front", "history", "weights", "tradeoff", "prices", "audit")
_STYLES = ("light", "dark")
IMAGES = ("png", "svg", "pdf")
_RULES = ("linear", "chebyshev", "knee", "lexicographic")
_WAYS = ("auto", "map", "logits", "soup")
_FORMATS = ("peft", "vllm")
SOURCES = (
    "auto", "trl", "hh", "pairs", "strength", "ultrafeedback", "nectar", "responses", "ratings", "unpaired",
    "beavertails", "written",
)  # fmt: skip
PAIRS = ("auto", "all", "adjacent", "best_worst", "best_rest", "random")
REWARDS = ("bt", "regression", "mixture", "pal", "gpm")
LABEL_KINDS = ("which", "probability", "signed", "scores")


class _Parser(argparse.ArgumentParser):
    """A parser whose epilog may be made when help is asked for."""

    epilog_maker: Callable[[], str] | None = None

    def format_help(self) -> str:
        if self.epilog_maker is not None:
            self.epilog = self.epilog_maker()
        return super().format_help()


class _Pairs(argparse.Action):
    """Collects `name=number` arguments in a dict; a name that is given twice is an error."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        found = dict(getattr(namespace, self.dest) or {})
        for name, number in values:
            if name in found:
                parser.error(f"argument {option}: {name!r} is given twice")
            found[name] = number
        setattr(namespace, self.dest, found)


def _pair(text: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (equals and name and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=number")
    return name, value


def _kind(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not (equals and name and kind in LABEL_KINDS):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form column=kind, with {', '.join(LABEL_KINDS)}")
    return name, kind


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # shells leave the ~ of --out=~/figures alone


def is_path(action: argparse.Action) -> bool:
    """Whether an argument is a file or a folder."""
    return action.type is _path


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.1 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return number


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _temperature(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return number


def build_parser() -> argparse.ArgumentParser:
    """The parser of `pareto-align` with all its commands."""
    parser = _Parser(
        prog="pareto-align",
        description="Fit a whole Pareto front of LoRA adapters for one language model, look at it, and choose from it.",
        epilog="`pareto-align COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"pareto-align {pareto_align.__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks, and warnings of other libraries")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, help: str, description: str, json: str | None) -> _Parser:
        lines = [textwrap.fill(line, _width()) for line in description.splitlines()]
        added: _Parser = commands.add_parser(
            name, help=help, description="\n".join(lines), formatter_class=argparse.RawDescriptionHelpFormatter
        )
        # given before or after the command; unless suppressed, the default here would undo the former
        added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        if json is not None:
            added.add_argument("--json", action="store_true", help=json)
        return added

    demo = command(
        "demo",
        "fit a front on a small real model",
        "Fit a front between a positive tone and brevity on SmolLM2-135M-Instruct: about 12 minutes on 2 cores.",
        "print one JSON object instead of text",
    )
    demo.add_argument("--seed", type=int, default=0, help="seeds everything (default 0)")
    demo.add_argument("--output-dir", type=_path, metavar="DIR", help="the run folder (default: new in pareto_runs/)")
    demo.add_argument("--steps", type=_count, metavar="N", help="training steps, fewer for a quick look")
    demo.add_argument("--population", type=_count, metavar="K", help="policies trained side by side")

    fit = command(
        "fit",
        "fit a front as a YAML file describes it",
        "Fit a front as a YAML file describes it. Any key can be overridden.",
        "print the front as one JSON object instead of a table",
    )
    fit.epilog_maker = _config_keys
    fit.add_argument("config", type=_path, metavar="CONFIG", help="the YAML file")
    fit.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="sets a key, dotted where it is nested: steps=20 lora.r=16 'objectives.0.bounds=[0, 1]'",
    )

    resume = command(
        "resume",
        "go on with a run that was stopped or killed",
        "Go on with a run that was stopped or killed, from its last checkpoint. On the same machine the front is the "
        "one that the run would have found undisturbed.",
        "print the front as one JSON object instead of a table",
    )
    resume.add_argument("run", type=_path, metavar="RUN", help="the run folder")
    resume.add_argument(
        "--config",
        type=_path,
        metavar="CONFIG",
        help="the YAML file the run was begun with; needed where it names code of your own, which is never imported on "
        "the word of a run folder",
    )
    resume.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="with --config: the keys that were set for fit"
    )

    tune = command(
        "tune",
        "find the learning rate, KL price and temperature that lead to the best fronts",
        "Tune the settings that a YAML file describes by the hypervolume of the fronts they lead to, and compare the "
        "best with the file's own on other seeds. Any key can be overridden. With the output_dir of a sweep that was "
        "stopped, it goes on.",
        "print the sweep as one JSON object instead of a table",
    )
    tune.epilog_maker = _tuning_keys
    tune.add_argument(
        "config", type=_path, metavar="CONFIG", help="the YAML file, as for fit; its output_dir is the sweep's"
    )
    tune.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="sets a key, dotted where it is nested: steps=20 tuning.trials=8 'tuning.seeds=[10, 11]'",
    )

    runs = command(
        "runs",
        "list the runs in a folder",
        "List the runs in a folder: how each stands, how far it is, and what it has found.",
        "print a JSON list",
    )
    runs.add_argument(
        "folder", type=_path, nargs="?", default=Path("pareto_runs"), metavar="DIR",
        help="the folder that holds run folders (default: pareto_runs)",
    )  # fmt: skip

    watch = command(
        "watch",
        "follow a run from outside",
        "Show how a run stands until it ends, from its folder alone: the run is not disturbed, and goes on after "
        "Ctrl-C. On a terminal the screen is drawn anew, in a pipe there is a line for each change. With --page a page "
        "in a browser of this machine follows it, until Ctrl-C.",
        "print one JSON object for each change, one a line; with --page the page's address",
    )
    watch.add_argument("run", type=_path, metavar="RUN", help="the run folder; one that is not there yet is waited for")
    watch.add_argument("--once", action="store_true", help="show how it stands now, and end")
    watch.add_argument(
        "--page",
        action="store_true",
        help="serve a page that chooses a member of the front as it stands; to this machine alone",
    )
    watch.add_argument("--port", type=_port, metavar="PORT", help="with --page: where (default: any that is free)")
    watch.add_argument("--every", type=_seconds, default=1.0, metavar="SECONDS", help="how often to look (default 1)")

    compare = command(
        "compare",
        "compare two fronts in one frame",
        "Compare two fronts on the same objectives in one frame: hypervolumes, their difference with an interval "
        "(paired where both were measured on the same prompts), and how many members of each the other beats.",
        "print one JSON object",
    )
    for which in ("first", "second"):
        compare.add_argument(which, type=_path, metavar="RUN", help="a run folder, or the front folder in it")
    compare.add_argument("--out", type=_path, metavar="FILE", help="also draw both to this PNG, SVG or PDF file")
    compare.add_argument("--style", choices=_STYLES, default="light", help="with --out (default: light)")

    data = command(
        "data",
        "look at comparisons before anything is trained",
        "Look at comparisons before anything is trained: what is labelled, how objectives agree, whether the longer "
        "answer wins, and the front that the labels allow. No model is needed; with --model also how hard they are for "
        "that model.",
        "print one JSON object",
    )
    _add_comparisons(data)
    data.add_argument(
        "--model", metavar="MODEL", help="also how hard they are for this model: hub id, folder, pypi:<distribution>"
    )
    data.add_argument("--beta", type=float, default=0.1, help="with --model: DPO's (default 0.1)")

    rewards = command(
        "rewards",
        "learn rewards from comparisons",
        "Learn rewards from comparisons on the states of a frozen model, or with adapters of their own, calibrated on "
        "held-out prompts, and write them to a folder. A config names one of them as `reward: "
        "pareto_align:learned_reward`.",
        "print one JSON object",
    )
    _add_comparisons(rewards)
    rewards.add_argument("--model", required=True, metavar="MODEL", help="hub id, folder or pypi:<distribution>")
    rewards.add_argument("--out", required=True, type=_path, metavar="DIR", help="a folder that is not there yet")
    rewards.add_argument("--kind", choices=REWARDS, default="bt", help="what is learned (default: bt)")
    rewards.add_argument("--objective", metavar="COLUMN", help="the one column to learn (default: all of them)")
    rewards.add_argument("--groups", type=int, metavar="N", help="with mixture or pal: how many")
    rewards.add_argument(
        "--lora", action="store_true", help="with bt or regression: train an adapter for each objective beside its head"
    )
    rewards.add_argument("--passes", type=int, default=3, metavar="N", help="with --lora: over the file (default 3)")
    rewards.add_argument("--seed", type=int, default=0, help="of what is held out (default 0)")

    front = command("front", "print the table of a front", "Print the table of a front.", "print one JSON object")
    _add_run(front)
    front.add_argument("--all", action="store_true", help="also what was measured and did not stay, and why")

    select = command(
        "select",
        "choose the adapter that serves a preference",
        "Choose the adapter that serves a preference, and say how sure that is. Five to twenty comparisons can stand "
        "in the place of a preference: --like loads the model, and takes the adapter that agrees with them best.",
        "print one JSON object",
    )
    _add_run(select)
    _add_preference(select)
    _add_limits(select)
    select.add_argument("--like", type=_path, metavar="FILE", help="comparisons that say what is wanted")
    select.add_argument(
        "--column", metavar="COLUMN", help="with --like: the labels that count, where there are several"
    )

    blend = command(
        "blend",
        "make what serves a preference that no member was trained for",
        "Mix the members around a preference: what they say (logits) or their weights (soup), or take the family's own "
        "adapter (map), or let a gate choose the member for each prompt (routed). Prints who takes part and what is "
        "predicted.",
        "print one JSON object",
    )
    _add_run(blend)
    blend.add_argument(
        "--prefer", nargs="+", action=_Pairs, type=_pair, metavar="NAME=WEIGHT", required=True,
        help="how much each objective matters, scaled to sum 1; what is left out counts nothing",
    )  # fmt: skip
    blend.add_argument(
        "--by", choices=(*_WAYS, "routed"), default="auto", help="how (default: map with a family, else logits)"
    )
    blend.add_argument("--gate", type=_path, metavar="FILE", help="for routed: what `front.gate(...).save` wrote")
    blend.add_argument("--out", type=_path, metavar="DIR", help="write it to this new folder")
    blend.add_argument("--prompt", metavar="TEXT", help="answer this")

    elicit = command(
        "elicit",
        "find your member by saying which of two answers you like better",
        "Find the member for somebody who does not know his weights. Two members' answers to one prompt are shown; "
        "reply 1, 2 or =, and q to end.",
        "print the questions and the choice as JSON objects, one a line",
    )
    _add_run(elicit)
    elicit.add_argument("--questions", type=_count, metavar="N", help="most questions (default 6)")
    elicit.add_argument(
        "--show", choices=("answers", "values", "both"),
        help="what is compared: answers, measured values, or both (default: answers)",
    )  # fmt: skip
    elicit.add_argument("--seed", type=int, help="seeds what is drawn (default 0)")
    elicit.add_argument(
        "--session", type=_path, metavar="FILE", help="go on with the session in this JSON file, and keep it there"
    )
    _add_limits(elicit, preference=False)

    plot = command(
        "plot",
        "draw figures of a front",
        "Draw figures of a front as PNG, SVG or PDF files, with the numbers beside them if they are wanted.",
        "print a JSON object, kind to file",
    )
    _add_run(plot)
    plot.add_argument("--kind", choices=(*KINDS, "all"), default="front", help="which figure (default: front)")
    plot.add_argument("--out", type=_path, metavar="DIR", help="folder for the figures (default: RUN)")
    plot.add_argument("--format", choices=IMAGES, default="png", help="of the files (default: png)")
    plot.add_argument("--data", action="store_true", help="also a CSV file with what each figure shows")
    plot.add_argument("--style", choices=_STYLES, default="light", help="dark is for dark backgrounds (default: light)")
    plot.add_argument("--gain", metavar="NAME", help="with tradeoff: the objective that is bought")
    plot.add_argument("--cost", metavar="NAME", help="with tradeoff: the objective that pays")
    plot.add_argument(
        "--highlight", nargs="+", metavar="ID", help="with front, four objectives or more: members in colour"
    )

    page = command(
        "page",
        "write the page on which a member is chosen without Python",
        "Write one HTML file: sliders for a preference, limits, the front, the members' answers side by side, and the "
        "command that gets the chosen adapter. It needs no network.",
        "print a JSON object with the file",
    )
    _add_run(page)
    page.add_argument("--out", type=_path, metavar="FILE", help="the file (default: front.html in RUN)")

    chat = command(
        "chat",
        "talk to a member of a front",
        "Talk to the member that serves a preference, or to one by name.\n"
        "Each line is a prompt of its own, as in training, unless --remember is given.",
        "print a JSON object for each answer, one a line",
    )
    _add_run(chat)
    _add_preference(chat)
    _add_limits(chat)
    chat.add_argument(
        "--by", choices=_WAYS, help="answer with a mixture of the members around the preference, see `blend`"
    )
    chat.add_argument("--member", metavar="ID", help="the member with this name, instead of a preference")
    chat.add_argument("--prompt", metavar="TEXT", help="answer this and end, instead of asking for prompts")
    chat.add_argument(
        "--system", metavar="TEXT", help="system message (default: the one all prompts of the run had, if any)"
    )
    chat.add_argument("--remember", action="store_true", help="send the conversation so far along with each line")
    chat.add_argument("--max-new-tokens", type=_count, metavar="T", help="longest answer (default: the run's)")
    chat.add_argument(
        "--temperature", type=_temperature, help="0 takes the likeliest token each time (default: the run's)"
    )
    chat.add_argument("--seed", type=int, help="seeds the sampling (default 0)")
    chat.add_argument(
        "--server", metavar="URL", help="ask a server that has the members, such as one of vLLM; no model is loaded"
    )
    chat.add_argument(
        "--api-key-env", default="OPENAI_API_KEY", metavar="NAME",
        help="with --server: the environment variable with its key (default OPENAI_API_KEY)",
    )  # fmt: skip

    export = command(
        "export",
        "copy the adapters for use elsewhere",
        "Copy the adapters to a new folder, as PEFT or vLLM take them, each with a README and the sampling it was "
        "measured under; or merge them into copies of the base model.",
        "print the folder and those of the members as JSON",
    )
    _add_run(export)
    export.add_argument("--out", type=_path, metavar="DIR", required=True, help="the new folder")
    export.add_argument(
        "--format", choices=_FORMATS, default="peft", help="vllm adds a script that starts vLLM (default: peft)"
    )
    export.add_argument("--member", nargs="+", metavar="ID", help="these members only (default: all)")
    export.add_argument(
        "--merge", action="store_true", help="whole models that plain transformers loads, each as large as the base"
    )
    export.add_argument("--dtype", metavar="DTYPE", help="with --merge: of the models (default: the run's)")

    push = command(
        "push",
        "put a front on the Hugging Face Hub",
        "Put a front into one repository on the Hugging Face Hub, with a card that has the measured means, and print "
        "the address. Stock PEFT loads a member of it by subfolder=.",
        "print a JSON object with the address",
    )
    _add_run(push)
    push.add_argument("repo", metavar="REPO", help="owner/name; made if need be")
    push.add_argument("--private", action="store_true", default=None, help="make it private")
    push.add_argument("--license", metavar="LICENSE", help="of the adapters, as the Hub calls it")
    push.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    push.add_argument("--journal", action="store_true", help="the run's journal goes along")

    bench = command(
        "bench",
        "measure what a population costs on this machine",
        "Measure how fast populations of several sizes sample and train on this model and machine, recommend the size "
        "and the micro-batch, and record the latter for later fits.",
        None,  # the tables are for a person to look at in any case; --json takes a file beside them
    )
    bench.add_argument("model", metavar="MODEL", help="hub id, folder, GGUF file or pypi:<distribution>")
    for option, letter, default, meaning in (
        ("--population", "K", [1, 2, 4, 8], "sizes to compare"),
        ("--prompts", "N", 2, "prompts of a step"),
        ("--group-size", "G", 8, "completions of each prompt and policy"),
        ("--prompt-tokens", "P", 128, "length of a prompt"),
        ("--max-new-tokens", "T", 64, "length of a completion; none ends early"),
        ("--budgets", "TOKENS", [1024, 2048, 4096, 8192], "micro-batch budgets to compare, at the largest K"),
        ("--repeats", "R", 3, "timed rounds, of which the medians are shown"),
        ("--r", "R", 8, "LoRA rank"),
    ):
        several = isinstance(default, list)
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        bench.add_argument(
            option,
            nargs="+" if several else None,
            type=_count,
            default=default,
            metavar=letter,
            help=f"{meaning} (default {shown})",
        )
    bench.add_argument(
        "--targets", nargs="+", metavar="NAME", help="layers to adapt, or all-linear (default: attention projections)"
    )
    bench.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 or mps")
    bench.add_argument("--dtype", default="auto", help="auto (default), float32, bfloat16 or float16")
    bench.add_argument("--quantization", choices=("4bit", "8bit"), help="keep the frozen base in that many bits")
    bench.add_argument(
        "--json", type=_path, metavar="FILE", help="also write everything measured to this file, as JSON"
    )

    config = command(
        "config",
        "print a config with every default, or the schema of configs",
        "Print a config with overrides applied and every setting's default written out, checked, but without looking "
        "at the model, the prompts or the code that it names. With --schema: the JSON Schema of configs, for editors.",
        "print the config as one JSON object instead of YAML",
    )
    config.add_argument("config", type=_path, nargs="?", metavar="CONFIG", help="the YAML file")
    config.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="sets a key, as for fit")
    config.add_argument("--print", action="store_true", help="print the config (what happens without --schema)")
    config.add_argument("--schema", action="store_true", help="print the JSON Schema of configs instead")

    completion = command(
        "completion",
        "print a script that completes commands in a shell",
        "Print a script that completes this program's commands, options and files in a shell. For bash: "
        'eval "$(pareto-align completion bash)".',
        "print a JSON object with the script",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which shell")

    command("env", "say what this machine can do", "Print versions, device, dtype and cache folder.", "print as JSON")
    return parser


def _add_comparisons(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=_path, metavar="FILE", help="a .jsonl, .jsonl.gz, .json, .csv or .parquet file")
    parser.add_argument(
        "--format", choices=SOURCES, default="auto", help="what the columns mean (default: by their names)"
    )
    parser.add_argument(
        "--labels", nargs="+", metavar="COLUMN", help="the columns that hold labels (default: all that can)"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        action=_Pairs,
        type=_kind,
        metavar="COLUMN=KIND",
        help=f"how a column of labels is read, where it is not plain: {', '.join(LABEL_KINDS)}",
    )
    parser.add_argument(
        "--pairs", choices=PAIRS, default="auto", help="which pairs are made of ratings (default: auto)"
    )
    parser.add_argument("--user", metavar="COLUMN", help="the column that says who judged")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=_path, metavar="RUN", help="a run folder, or the front folder in it")


def _add_preference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefer",
        nargs="+",
        action=_Pairs,
        type=_pair,
        metavar="NAME=WEIGHT",
        help="how much each objective matters, scaled to sum 1; what is left out counts nothing (default: all equal)",
    )
    parser.add_argument("--rule", choices=_RULES, help="what a preference means (default: what it meant to the run)")
    parser.add_argument(
        "--criterion", choices=("ser", "esr"),
        help="apply the rule to the means (ser, default), or to each prompt and take the mean (esr)",
    )  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser, *, preference: bool = True) -> None:
    for option, side in (("--at-least", "lower limits of maximized"), ("--at-most", "upper limits of minimized")):
        parser.add_argument(
            option,
            nargs="+",
            action=_Pairs,
            type=_pair,
            metavar="NAME=VALUE",
            help=f"{side} objectives, in your own units{'; come before the preference' if preference else ''}",
        )


def _config_keys() -> str:
    """Every key of a config, each with its default and meaning."""
    from pareto_align.config import OBJECTIVE_KEYS, SECTIONS, settings_rows

    settings = [(name, f"{meaning} (default {default})") for name, default, meaning in settings_rows()]
    return "\n\n".join(
        [
            _listing("sections of CONFIG:", list(SECTIONS.items())),
            _listing("keys of an objective:", list(OBJECTIVE_KEYS.items())),
            _listing("settings, at the top level of CONFIG:", settings),
        ]
    )


def _tuning_keys() -> str:
    """The keys of the section `tuning`, and the settings that its space may name."""
    from pareto_align.config import TUNING_KEYS
    from pareto_align.tuning.space import TUNABLE

    listed = _listing("keys of the section tuning of CONFIG:", list(TUNING_KEYS.items()))
    return f"{listed}\n\n{textwrap.fill('settings that a space may name: ' + ', '.join(TUNABLE), _width())}"


def _width() -> int:
    """Columns of a help text, as argparse counts them."""
    return max(shutil.get_terminal_size().columns - 2, 20)


def _listing(title: str, rows: Sequence[tuple[str, str]]) -> str:
    margin = 2 + max(len(name) for name, _ in rows) + 2
    width = max(_width(), margin + 20)
    lines = [title]
    for name, meaning in rows:
        head = f"  {name}".ljust(margin)
        lines += textwrap.wrap(meaning, width, initial_indent=head, subsequent_indent=" " * margin)
    return "\n".join(lines)
