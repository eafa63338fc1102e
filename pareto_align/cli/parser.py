"""The arguments of every command. Nothing heavy is imported here, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pareto_align
from pareto_align.cli import kinds
from pareto_align.cli.kinds import Pairs, count, label_kind, pair, path, port, seconds, temperature

__all__ = ["build_parser"]


class _Parser(argparse.ArgumentParser):
    """A parser whose epilog may be made when help is asked for."""

    epilog_maker: Callable[[], str] | None = None

    def format_help(self) -> str:
        if self.epilog_maker is not None:
            self.epilog = self.epilog_maker()
        return super().format_help()


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

    for add in _COMMANDS:
        add(command)
    return parser


_Maker = Callable[[str, str, str, str | None], _Parser]
"""Makes a command's parser from its name, what it does in a line and at length, and what --json does, if anything."""


def _demo(command: _Maker) -> None:
    parser = command(
        "demo",
        "fit a front on a small real model",
        "Fit a front between a positive tone and brevity on SmolLM2-135M-Instruct: about 12 minutes on 2 cores.",
        "print one JSON object instead of text",
    )
    parser.add_argument("--seed", type=int, default=0, help="seeds everything (default 0)")
    parser.add_argument("--output-dir", type=path, metavar="DIR", help="the run folder (default: new in pareto_runs/)")
    parser.add_argument("--steps", type=count, metavar="N", help="training steps, fewer for a quick look")
    parser.add_argument("--population", type=count, metavar="K", help="policies trained side by side")


def _fit(command: _Maker) -> None:
    parser = command(
        "fit",
        "fit a front as a YAML file describes it",
        "Fit a front as a YAML file describes it. Any key can be overridden.",
        "print the front as one JSON object instead of a table",
    )
    parser.epilog_maker = _config_keys
    parser.add_argument("config", type=path, metavar="CONFIG", help="the YAML file")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="sets a key, dotted where it is nested: steps=20 lora.r=16 'objectives.0.bounds=[0, 1]'",
    )


def _resume(command: _Maker) -> None:
    parser = command(
        "resume",
        "go on with a run that was stopped or killed",
        "Go on with a run that was stopped or killed, from its last checkpoint. On the same machine the front is the "
        "one that the run would have found undisturbed.",
        "print the front as one JSON object instead of a table",
    )
    parser.add_argument("run", type=path, metavar="RUN", help="the run folder")
    parser.add_argument(
        "--config",
        type=path,
        metavar="CONFIG",
        help="the YAML file the run was begun with; needed where it names code of your own, which is never imported on "
        "the word of a run folder",
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="with --config: the keys that were set for fit"
    )


def _tune(command: _Maker) -> None:
    parser = command(
        "tune",
        "find the learning rate, KL price and temperature that lead to the best fronts",
        "Tune the settings that a YAML file describes by the hypervolume of the fronts they lead to, and compare the "
        "best with the file's own on other seeds. Any key can be overridden. With the output_dir of a sweep that was "
        "stopped, it goes on.",
        "print the sweep as one JSON object instead of a table",
    )
    parser.epilog_maker = _tuning_keys
    parser.add_argument(
        "config", type=path, metavar="CONFIG", help="the YAML file, as for fit; its output_dir is the sweep's"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="sets a key, dotted where it is nested: steps=20 tuning.trials=8 'tuning.seeds=[10, 11]'",
    )


def _runs(command: _Maker) -> None:
    parser = command(
        "runs",
        "list the runs in a folder",
        "List the runs in a folder: how each stands, how far it is, and what it has found.",
        "print a JSON list",
    )
    parser.add_argument(
        "folder", type=path, nargs="?", default=Path("pareto_runs"), metavar="DIR",
        help="the folder that holds run folders (default: pareto_runs)",
    )  # fmt: skip


def _watch(command: _Maker) -> None:
    parser = command(
        "watch",
        "follow a run from outside",
        "Show how a run stands until it ends, from its folder alone: the run is not disturbed, and goes on after "
        "Ctrl-C. On a terminal the screen is drawn anew, in a pipe there is a line for each change. With --page a page "
        "in a browser of this machine follows it, until Ctrl-C.",
        "print one JSON object for each change, one a line; with --page the page's address",
    )
    parser.add_argument("run", type=path, metavar="RUN", help="the run folder; one that is not there yet is waited for")
    parser.add_argument("--once", action="store_true", help="show how it stands now, and end")
    parser.add_argument(
        "--page",
        action="store_true",
        help="serve a page that chooses a member of the front as it stands; to this machine alone",
    )
    parser.add_argument("--port", type=port, metavar="PORT", help="with --page: where (default: any that is free)")
    parser.add_argument("--every", type=seconds, default=1.0, metavar="SECONDS", help="how often to look (default 1)")


def _compare(command: _Maker) -> None:
    parser = command(
        "compare",
        "compare two fronts in one frame",
        "Compare two fronts on the same objectives in one frame: hypervolumes, their difference with an interval "
        "(paired where both were measured on the same prompts), and how many members of each the other beats.",
        "print one JSON object",
    )
    for which in ("first", "second"):
        parser.add_argument(which, type=path, metavar="RUN", help="a run folder, or the front folder in it")
    parser.add_argument("--out", type=path, metavar="FILE", help="also draw both to this PNG, SVG or PDF file")
    parser.add_argument("--style", choices=kinds.STYLES, default="light", help="with --out (default: light)")


def _data(command: _Maker) -> None:
    parser = command(
        "data",
        "look at comparisons before anything is trained",
        "Look at comparisons before anything is trained: what is labelled, how objectives agree, whether the longer "
        "answer wins, and the front that the labels allow. No model is needed; with --model also how hard they are for "
        "that model.",
        "print one JSON object",
    )
    _add_comparisons(parser)
    parser.add_argument(
        "--model", metavar="MODEL", help="also how hard they are for this model: hub id, folder, pypi:<distribution>"
    )
    parser.add_argument("--beta", type=float, default=0.1, help="with --model: DPO's (default 0.1)")


def _rewards(command: _Maker) -> None:
    parser = command(
        "rewards",
        "learn rewards from comparisons",
        "Learn rewards from comparisons on the states of a frozen model, or with adapters of their own, calibrated on "
        "held-out prompts, and write them to a folder. A config names one of them as `reward: "
        "pareto_align:learned_reward`.",
        "print one JSON object",
    )
    _add_comparisons(parser)
    parser.add_argument("--model", required=True, metavar="MODEL", help="hub id, folder or pypi:<distribution>")
    parser.add_argument("--out", required=True, type=path, metavar="DIR", help="a folder that is not there yet")
    parser.add_argument("--kind", choices=kinds.REWARDS, default="bt", help="what is learned (default: bt)")
    parser.add_argument("--objective", metavar="COLUMN", help="the one column to learn (default: all of them)")
    parser.add_argument("--groups", type=int, metavar="N", help="with mixture or pal: how many")
    parser.add_argument(
        "--lora", action="store_true", help="with bt or regression: train an adapter for each objective beside its head"
    )
    parser.add_argument("--passes", type=count, metavar="N", help="with --lora: over the file (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="of what is held out (default 0)")


def _front(command: _Maker) -> None:
    parser = command("front", "print the table of a front", "Print the table of a front.", "print one JSON object")
    _add_run(parser)
    parser.add_argument("--all", action="store_true", help="also what was measured and did not stay, and why")


def _select(command: _Maker) -> None:
    parser = command(
        "select",
        "choose the adapter that serves a preference",
        "Choose the adapter that serves a preference, and say how sure that is. Five to twenty comparisons can stand "
        "in the place of a preference: --like loads the model, and takes the adapter that agrees with them best.",
        "print one JSON object",
    )
    _add_run(parser)
    _add_preference(parser)
    _add_limits(parser)
    parser.add_argument("--like", type=path, metavar="FILE", help="comparisons that say what is wanted")
    parser.add_argument(
        "--column", metavar="COLUMN", help="with --like: the labels that count, where there are several"
    )


def _blend(command: _Maker) -> None:
    parser = command(
        "blend",
        "make what serves a preference that no member was trained for",
        "Mix the members around a preference: what they say (logits) or their weights (soup), or take the family's own "
        "adapter (map), or let a gate choose the member for each prompt (routed). Prints who takes part and what is "
        "predicted.",
        "print one JSON object",
    )
    _add_run(parser)
    parser.add_argument(
        "--prefer", nargs="+", action=Pairs, type=pair, metavar="NAME=WEIGHT", required=True,
        help="how much each objective matters, scaled to sum 1; what is left out counts nothing",
    )  # fmt: skip
    parser.add_argument(
        "--by", choices=(*kinds.WAYS, "routed"), default="auto", help="how (default: map with a family, else logits)"
    )
    parser.add_argument("--gate", type=path, metavar="FILE", help="for routed: what `front.gate(...).save` wrote")
    parser.add_argument("--out", type=path, metavar="DIR", help="write it to this new folder")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this")


def _elicit(command: _Maker) -> None:
    parser = command(
        "elicit",
        "find your member by saying which of two answers you like better",
        "Find the member for somebody who does not know his weights. Two members' answers to one prompt are shown; "
        "reply 1, 2 or =, and q to end.",
        "print the questions and the choice as JSON objects, one a line",
    )
    _add_run(parser)
    parser.add_argument("--questions", type=count, metavar="N", help="most questions (default 6)")
    parser.add_argument(
        "--show", choices=("answers", "values", "both"),
        help="what is compared: answers, measured values, or both (default: answers)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="seeds what is drawn (default 0)")
    parser.add_argument(
        "--session", type=path, metavar="FILE", help="go on with the session in this JSON file, and keep it there"
    )
    _add_limits(parser, preference=False)


def _plot(command: _Maker) -> None:
    parser = command(
        "plot",
        "draw figures of a front",
        "Draw figures of a front as PNG, SVG or PDF files, with the numbers beside them if they are wanted.",
        "print a JSON object, kind to file",
    )
    _add_run(parser)
    parser.add_argument("--kind", choices=(*kinds.KINDS, "all"), default="front", help="which figure (default: front)")
    parser.add_argument("--out", type=path, metavar="DIR", help="folder for the figures (default: RUN)")
    parser.add_argument("--format", choices=kinds.IMAGES, default="png", help="of the files (default: png)")
    parser.add_argument("--data", action="store_true", help="also a CSV file with what each figure shows")
    parser.add_argument(
        "--style", choices=kinds.STYLES, default="light", help="dark is for dark backgrounds (default: light)"
    )
    parser.add_argument("--gain", metavar="NAME", help="with tradeoff: the objective that is bought")
    parser.add_argument("--cost", metavar="NAME", help="with tradeoff: the objective that pays")
    parser.add_argument(
        "--highlight", nargs="+", metavar="ID", help="with front, four objectives or more: members in colour"
    )


def _page(command: _Maker) -> None:
    parser = command(
        "page",
        "write the page on which a member is chosen without Python",
        "Write one HTML file: sliders for a preference, limits, the front, the members' answers side by side, and the "
        "command that gets the chosen adapter. It needs no network.",
        "print a JSON object with the file",
    )
    _add_run(parser)
    parser.add_argument("--out", type=path, metavar="FILE", help="the file (default: front.html in RUN)")


def _chat(command: _Maker) -> None:
    parser = command(
        "chat",
        "talk to a member of a front",
        "Talk to the member that serves a preference, or to one by name.\n"
        "Each line is a prompt of its own, as in training, unless --remember is given.",
        "print a JSON object for each answer, one a line",
    )
    _add_run(parser)
    _add_preference(parser)
    _add_limits(parser)
    parser.add_argument(
        "--by", choices=kinds.WAYS, help="answer with a mixture of the members around the preference, see `blend`"
    )
    parser.add_argument("--member", metavar="ID", help="the member with this name, instead of a preference")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and end, instead of asking for prompts")
    parser.add_argument(
        "--system", metavar="TEXT", help="system message (default: the one all prompts of the run had, if any)"
    )
    parser.add_argument("--remember", action="store_true", help="send the conversation so far along with each line")
    parser.add_argument("--max-new-tokens", type=count, metavar="T", help="longest answer (default: the run's)")
    parser.add_argument(
        "--temperature", type=temperature, help="0 takes the likeliest token each time (default: the run's)"
    )
    parser.add_argument("--seed", type=int, help="seeds the sampling (default 0)")
    parser.add_argument(
        "--server", metavar="URL", help="ask a server that has the members, such as one of vLLM; no model is loaded"
    )
    parser.add_argument(
        "--api-key-env", default="OPENAI_API_KEY", metavar="NAME",
        help="with --server: the environment variable with its key (default OPENAI_API_KEY)",
    )  # fmt: skip


def _export(command: _Maker) -> None:
    parser = command(
        "export",
        "copy the adapters for use elsewhere",
        "Copy the adapters to a new folder, as PEFT or vLLM take them, each with a README and the sampling it was "
        "measured under; or merge them into copies of the base model.",
        "print the folder and those of the members as JSON",
    )
    _add_run(parser)
    parser.add_argument("--out", type=path, metavar="DIR", required=True, help="the new folder")
    parser.add_argument(
        "--format", choices=kinds.FORMATS, default="peft", help="vllm adds a script that starts vLLM (default: peft)"
    )
    parser.add_argument("--member", nargs="+", metavar="ID", help="these members only (default: all)")
    parser.add_argument(
        "--merge", action="store_true", help="whole models that plain transformers loads, each as large as the base"
    )
    parser.add_argument("--dtype", metavar="DTYPE", help="with --merge: of the models (default: the run's)")


def _push(command: _Maker) -> None:
    parser = command(
        "push",
        "put a front on the Hugging Face Hub",
        "Put a front into one repository on the Hugging Face Hub, with a card that has the measured means, and print "
        "the address. Stock PEFT loads a member of it by subfolder=.",
        "print a JSON object with the address",
    )
    _add_run(parser)
    parser.add_argument("repo", metavar="REPO", help="owner/name; made if need be")
    parser.add_argument("--private", action="store_true", default=None, help="make it private")
    parser.add_argument("--license", metavar="LICENSE", help="of the adapters, as the Hub calls it")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--journal", action="store_true", help="the run's journal goes along")


def _bench(command: _Maker) -> None:
    parser = command(
        "bench",
        "measure what a population costs on this machine",
        "Measure how fast populations of several sizes sample and train on this model and machine, recommend the size "
        "and the micro-batch, and record the latter for later fits.",
        None,  # the tables are for a person to look at in any case; --json takes a file beside them
    )
    parser.add_argument("model", metavar="MODEL", help="hub id, folder, GGUF file or pypi:<distribution>")
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
        parser.add_argument(
            option,
            nargs="+" if several else None,
            type=count,
            default=default,
            metavar=letter,
            help=f"{meaning} (default {shown})",
        )
    parser.add_argument(
        "--targets", nargs="+", metavar="NAME", help="layers to adapt, or all-linear (default: attention projections)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 or mps")
    parser.add_argument("--dtype", default="auto", help="auto (default), float32, bfloat16 or float16")
    parser.add_argument("--quantization", choices=("4bit", "8bit"), help="keep the frozen base in that many bits")
    parser.add_argument(
        "--json", type=path, metavar="FILE", help="also write everything measured to this file, as JSON"
    )


def _config(command: _Maker) -> None:
    parser = command(
        "config",
        "print a config with every default, or the schema of configs",
        "Print a config with overrides applied and every setting's default written out, checked, but without looking "
        "at the model, the prompts or the code that it names. With --schema: the JSON Schema of configs, for editors.",
        "print the config as one JSON object instead of YAML",
    )
    parser.add_argument("config", type=path, nargs="?", metavar="CONFIG", help="the YAML file")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="sets a key, as for fit")
    parser.add_argument("--print", action="store_true", help="print the config (what happens without --schema)")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of configs instead")


def _completion(command: _Maker) -> None:
    parser = command(
        "completion",
        "print a script that completes commands in a shell",
        "Print a script that completes this program's commands, options and files in a shell. For bash: "
        'eval "$(pareto-align completion bash)".',
        "print a JSON object with the script",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which shell")


def _env(command: _Maker) -> None:
    command("env", "say what this machine can do", "Print versions, device, dtype and cache folder.", "print as JSON")


_COMMANDS = (
    _demo,
    _fit,
    _resume,
    _tune,
    _runs,
    _watch,
    _compare,
    _data,
    _rewards,
    _front,
    _select,
    _blend,
    _elicit,
    _plot,
    _page,
    _chat,
    _export,
    _push,
    _bench,
    _config,
    _completion,
    _env,
)


def _add_comparisons(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=path, metavar="FILE", help="a .jsonl, .jsonl.gz, .json, .csv or .parquet file")
    parser.add_argument(
        "--format", choices=kinds.SOURCES, default="auto", help="what the columns mean (default: by their names)"
    )
    parser.add_argument(
        "--labels", nargs="+", metavar="COLUMN", help="the columns that hold labels (default: all that can)"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        action=Pairs,
        type=label_kind,
        metavar="COLUMN=KIND",
        help=f"how a column of labels is read, where it is not plain: {', '.join(kinds.LABEL_KINDS)}",
    )
    parser.add_argument(
        "--pairs", choices=kinds.PAIRS, default="auto", help="which pairs are made of ratings (default: auto)"
    )
    parser.add_argument("--user", metavar="COLUMN", help="the column that says who judged")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=path, metavar="RUN", help="a run folder, or the front folder in it")


def _add_preference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefer",
        nargs="+",
        action=Pairs,
        type=pair,
        metavar="NAME=WEIGHT",
        help="how much each objective matters, scaled to sum 1; what is left out counts nothing (default: all equal)",
    )
    parser.add_argument(
        "--rule", choices=kinds.RULES, help="what a preference means (default: what it meant to the run)"
    )
    parser.add_argument(
        "--criterion", choices=("ser", "esr"),
        help="apply the rule to the means (ser, default), or to each prompt and take the mean (esr)",
    )  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser, *, preference: bool = True) -> None:
    for option, side in (("--at-least", "lower limits of maximized"), ("--at-most", "upper limits of minimized")):
        parser.add_argument(
            option,
            nargs="+",
            action=Pairs,
            type=pair,
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
