"""Tiny runs in processes of their own, killed where they are told to be: what test_resume talks to.

`killed_run.py FOLDER` makes one run in FOLDER, so that torch and all that a run uses first is there, and then reads
requests from standard input, one a line. Each is a forked process that ends as one started by itself would; its exit
status is the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
from aligner_runs import PROBLEM, make

import pareto_align
from pareto_align.discovery.explorers import Explorer, Mixture, Task
from pareto_align.errors import ParetoAlignWarning
from pareto_align.runs.checkpoint import CheckpointWriter
from pareto_align.runs.journal import read_journal


class Restless(Explorer):
    """Moves a slot and measures a mixture after every measurement; remembers how often."""

    name = "restless"

    def preferences(self, names, population, seed):
        self.rounds = 0
        return np.linspace([1, 0], [0, 1], population)

    def propose(self, state):
        self.rounds += 1
        draw = np.random.default_rng(state.seed).dirichlet([1, 1])
        slot = self.rounds % len(state.preferences)
        tasks = [None] * len(state.preferences)
        tasks[slot] = Task(draw, "roam", parent=state.alive()[0].id, floors=np.array([np.nan, 0.1 * self.rounds]))
        return tasks

    def mixtures(self, state):
        parents = [entry.id for entry in state.alive()][:2]
        return [Mixture(parents, [0.5, 0.5], "half and half")] if len(parents) == 2 else []

    def state_dict(self):
        return {"rounds": self.rounds}

    def load_state_dict(self, state):
        self.rounds = state["rounds"]


def aligner(run, callbacks, **settings):
    usual = {"steps": 6, "eval_every": 2, "resolution": 0.0, "population": 3}
    return make(output_dir=run, explorer=Restless(), callbacks=callbacks, **(usual | settings))


class After:
    """Sends a signal to this process once so many events are on disk."""

    def __init__(self, count, number):
        self.left, self.number = count, number

    def __call__(self, event):
        if event["event"] == "stage":  # before and after what the journal holds
            return
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def fit(run, callbacks=(), **settings):
    aligner(run, callbacks, **settings).fit(list(PROBLEM.prompts))


def resume(run, callbacks=(), **settings):
    aligner(run, callbacks, **settings).resume(run)


def in_a_child(work):
    """Run `work` in a forked process; the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status > 0:
        raise SystemExit("the child failed")
    return -status


def kill_all(folder, count):
    for number in range(count):
        run = folder / str(number)
        ended_by = in_a_child(lambda run=run, n=number: fit(run, [After(n + 1, signal.SIGKILL)]))
        found = {"signal": ended_by, "events": len(read_journal(run / "journal.jsonl"))}
        (folder / f"{number}.json").write_text(json.dumps(found))
        in_a_child(lambda run=run: resume(run))


SHORT = {"steps": 4}  # the second checkpoint, within which the kills are, is followed by two steps and a measurement


def kind_of(who, name, what):
    """What tells a call apart: who makes it, where from, and on which file, whichever member it is of."""
    path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.fspath(what)
    path = re.sub("m[0-9]{4}|[0-9a-f]{64}", "one of several", "/".join(Path(path).parts[-2:]))
    package = os.path.dirname(pareto_align.__file__)
    lines = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_stack() if f.filename.startswith(package)]
    return " ".join([who, name, path, *lines[-4:]])


def chosen(kinds):
    """One call of each kind, as numbers: of several an earlier one, then a later one, so that each member is hit."""
    numbers = {kind: [number for number, other in enumerate(kinds) if other == kind] for kind in kinds}
    turn = count()
    return sorted(same[next(turn) % len(same)] if len(same) > 1 else same[0] for same in numbers.values())


def kill_writes(folder, every):
    """Kill before calls that make something last, within the second checkpoint and the front written with it.

    The loop and the checkpoint's thread make their calls side by side, so each counts its own: whose call comes first
    differs from run to run, and the promise holds for every order. What is written for each member in turn is cut short
    for one of them, unless every call is asked for.
    """

    def traced(run, stop_at, log):
        counts, on = Counter(), {"loop": False, "checkpoint": False}

        def before(name, original):
            def call(*args, **kwargs):
                who = "checkpoint" if threading.current_thread().name.startswith("checkpoint") else "loop"
                if on[who]:
                    if (who, counts[who]) == stop_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    if log is not None:
                        log.append((who, counts[who], name, kind_of(who, name, args[0])))
                    counts[who] += 1
                return original(*args, **kwargs)

            return call

        for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, before(name, getattr(os, name)))

        write, states = CheckpointWriter._write, count(1)

        def write_state(*what):
            on["checkpoint"] = next(states) == 2
            write(*what)

        CheckpointWriter._write = write_state

        def switch(event):
            # from the end of the second step until the next one is under way: front, journal and checkpoint
            on["loop"] = event["event"] in ("step", "evaluation", "task", "mixtures") and 2 <= event["step"] < 3

        fit(run, [switch], **SHORT)
        if log is not None:
            (folder / "calls.json").write_text(json.dumps(log))

    in_a_child(lambda: traced(folder / "all", None, []))
    calls = json.loads((folder / "calls.json").read_text())
    numbers = range(len(calls)) if every else chosen([kind for *_, kind in calls])
    for number in numbers:
        (who, nth, name, _), run = calls[number], folder / str(number)
        if in_a_child(lambda run=run, at=(who, nth): traced(run, at, None)) != signal.SIGKILL:
            raise SystemExit(f"{name} {nth} of the {who} was not reached")
        in_a_child(lambda run=run: resume(run, **SHORT))
    (folder / "kills.json").write_text(json.dumps(list(numbers)))


def work_on(words):
    """Do what a request says, in a process made for it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["fit", "resume", "kill-all", "kill-writes"])
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int)
    parser.add_argument("--every", action="store_true")
    parser.add_argument("--kill-after", type=int)
    parser.add_argument("--signal-after", type=int)
    parser.add_argument("--signal", type=int)
    arguments = parser.parse_args(words)
    if arguments.mode == "kill-all":
        kill_all(arguments.run, arguments.count)
        return
    if arguments.mode == "kill-writes":
        kill_writes(arguments.run, arguments.every)
        return
    callbacks = []
    if arguments.kill_after:
        callbacks.append(After(arguments.kill_after, signal.SIGKILL))
    if arguments.signal_after:
        callbacks.append(After(arguments.signal_after, arguments.signal))
    try:
        (fit if arguments.mode == "fit" else resume)(arguments.run, callbacks)
    except KeyboardInterrupt:
        sys.exit(130)


def main():
    warnings.simplefilter("ignore", ParetoAlignWarning)
    fit(Path(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        errors, *words = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
            work_on(words)
            return
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
