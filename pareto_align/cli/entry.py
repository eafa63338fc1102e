"""From arguments to an exit status: which command runs, what is said on stderr, and what becomes of errors.

Exit status 0: done; 2: a usage error, or one of ours, said in one line; 130: interrupted; 143: told to end (SIGTERM).
Results go to stdout and nothing else does, so that `--json` can be piped.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pareto_align.cli.parser import build_parser
from pareto_align.cli.streams import say
from pareto_align.errors import ParetoAlignError, ParetoAlignWarning

__all__ = ["main"]

_HOMES = {
    "demo": "training",
    "fit": "training",
    "resume": "training",
    "tune": "training",
    "runs": "following",
    "watch": "following",
    "compare": "fronts",
    "data": "data",
    "rewards": "data",
    "front": "fronts",
    "select": "fronts",
    "plot": "fronts",
    "page": "fronts",
    "export": "fronts",
    "push": "fronts",
    "blend": "blending",
    "elicit": "eliciting",
    "chat": "chatting",
    "bench": "benchmarking",
    "config": "configuring",
    "completion": "configuring",
    "env": "environment",
}
"""Which module holds a command; it is imported when the command runs, so that `--help` costs nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit status.
    """
    arguments = _parse(argv)
    try:
        with _quiet(arguments.debug):
            _command(arguments.command)(arguments)
            sys.stdout.flush()
    except KeyboardInterrupt as error:
        say("\n".join(["interrupted", *_notes(error)]), to=sys.stderr)
        return 130
    except SystemExit as error:
        say("\n".join(["ended", *_notes(error)]), to=sys.stderr)
        raise
    except BrokenPipeError:
        # the reader, such as `head`, has seen enough; Python would complain once more when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ParetoAlignError, OSError) as error:
        if arguments.debug:
            raise
        say("\n".join([f"error: {error}", *_notes(error)]), to=sys.stderr)
        return 2
    return 0


def _notes(error: BaseException) -> list[str]:
    """What was added to an error on its way up, such as where the front of a stopped run is."""
    return list(getattr(error, "__notes__", ()))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if (
        rest
        and arguments.command in ("fit", "resume", "tune", "config")
        and not any(text.startswith("-") for text in rest)
    ):
        # argparse gives all positional arguments to their first group: `fit run.yaml --json steps=20`
        arguments.overrides += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    module: Any = importlib.import_module(f"pareto_align.cli.{_HOMES[name]}")
    command: Callable[[argparse.Namespace], None] = getattr(module, name)
    return command


@contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Our warnings in one line each; those of other libraries, and their progress bars, only for a person."""
    with warnings.catch_warnings():
        if not debug:
            if not sys.stderr.isatty():
                os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
                os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
                warnings.simplefilter("ignore")
            warnings.simplefilter("default", ParetoAlignWarning)
            show = warnings.showwarning

            def one_line(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
                if issubclass(category, ParetoAlignWarning):
                    say(f"warning: {message}", to=sys.stderr)
                else:
                    show(message, category, *where, **more)

            warnings.showwarning = one_line
        yield
