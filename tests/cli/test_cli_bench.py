"""The `bench` command on a model of a few thousand parameters: what it prints, records and refuses."""

from __future__ import annotations

import json
import re
import sys

import pytest

from pareto_align.bench.speeds import BudgetSpeed, PopulationSpeed, Throughput, Workload
from pareto_align.cli.benchmarking import _report

SMALL = (
    "--population", 1, 2, "--prompts", 2, "--prompt-tokens", 8, "--group-size", 2, "--max-new-tokens", 4,
    "--budgets", 1, 4096, "--repeats", 1, "--r", 2, "--device", "cpu", "--dtype", "float32",
)  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETO_ALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cells(text, first):
    """The rows of the table whose header begins with `first`, as lists of cells."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.lstrip().startswith(first))
    rows = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        rows.append(re.split(r"\s{2,}", line.strip()))
    return rows


def test_bench_prints_measures_and_records(cli, project, cache, tmp_path):
    found = cli("bench", project / "model", *SMALL, "--json", tmp_path / "bench.json")
    assert found.code == 0, found.err
    assert "warming up" not in found.err, "progress is for a terminal"
    measured = json.loads((tmp_path / "bench.json").read_text())
    assert [row["population"] for row in measured["populations"]] == [1, 2]
    assert [row["tokens"] for row in measured["populations"]] == [2 * 2 * 4, 2 * 2 * 2 * 4]
    assert measured["workload"]["r"] == 2
    rows = cells(found.out, "K  sampling tokens/s  against K=1  training tokens/s (packed)  against K=1  memory")
    assert [row[0] for row in rows] == ["1", "2"]
    assert rows[0][2] == rows[0][4] == "1.00x"
    ratio = measured["populations"][1]["sampling_rate"] / measured["populations"][0]["sampling_rate"]
    assert rows[1][2] == f"{ratio:.2f}x"
    budgets = cells(found.out, "budget  passes")
    assert [row[0] for row in budgets] == ["1", "4096"]
    chosen = measured["recommended"]
    assert re.search(rf"^population: {chosen['population']}\b", found.out, re.MULTILINE)
    assert re.search(rf"^micro_batch_tokens: {chosen['micro_batch_tokens']},", found.out, re.MULTILINE)
    [(key, tokens)] = json.loads((cache / "micro_batch.json").read_text()).items()
    assert tokens == chosen["micro_batch_tokens"]
    assert key.startswith(f"{(project / 'model').resolve()} | float32 | cpu | ")
    assert f"Recorded in {cache / 'micro_batch.json'}: a fit of this model" in found.out


def test_a_fit_takes_what_bench_recorded(cli, project, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cli("bench", project / "model", *SMALL).code == 0
    file = cache / "micro_batch.json"
    [key] = json.loads(file.read_text())
    file.write_text(json.dumps({key: 777}))
    for name, override, expected in (("recorded", "steps=1", 777), ("set", "micro_batch_tokens=55", 55)):
        folder = tmp_path / name
        found = cli("fit", project / "run.yaml", "steps=1", override, f"output_dir={folder}", "eval_every=1")
        assert found.code == 0, found.err
        assert json.loads((folder / "run.json").read_text())["config"]["micro_batch_tokens"] == expected
    sys.modules.pop("rewards", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: MODEL"),
        (("m", "--population", 0), "argument --population: '0' is not a whole number of at least 1"),
        (("m", "--population"), "argument --population: expected at least one argument"),
        (("m", "--budgets", 1024, "many"), "argument --budgets: 'many' is not a whole number"),
        (("m", "--json"), "argument --json: expected one argument"),
    ],
)
def test_wrong_usage(cli, arguments, message):
    found = cli("bench", *arguments)
    assert found.code == 2
    assert message in found.err
    assert found.out == ""


def test_who_waits_for_the_hub_is_told_so(cli, run, monkeypatch):
    def unreachable(*args, **keywords):
        raise OSError("no network")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", unreachable)
    found = cli("bench", "no/such", *SMALL)
    assert found.err.splitlines()[0] == "Loading no/such, which the Hugging Face Hub is asked for ..."
    assert "error: Cannot load the model 'no/such': no network" in found.err
    found = cli("chat", run, "--prompt", "Hi")
    assert found.err.splitlines()[0] == "The base model is acme/tiny-llama, which the Hugging Face Hub is asked for."
    assert "error: Cannot load the model 'acme/tiny-llama': no network" in found.err


def test_what_cannot_be_measured_is_one_line(cli, project, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = project / "model"
    for arguments, said in (
        ((tmp_path / "none", *SMALL), r"error: Cannot load the model '.*none'"),
        (
            (model, *SMALL, "--prompt-tokens", 125),
            r"error: 125 prompt tokens and 4 new ones exceed the model's context",
        ),
        ((model, *SMALL, "--targets", "c_attn"), r"error: LlamaForCausalLM has no nn\.Linear that matches .*c_attn"),
        ((model, *SMALL, "--json", tmp_path), r"error: Cannot write .*: --json takes a file in a folder that exists"),
        ((model, *SMALL, "--json", tmp_path / "no" / "x.json"), r"error: Cannot write .*x\.json: --json takes a file"),
        ((model, *SMALL, "--dtype", "float99"), r"error: Unknown dtype 'float99'"),
        ((model, *SMALL, "--device", "cuda:99"), r"error: This machine, or its torch .*, has no device 'cuda:99'"),
        ((tmp_path / "none", *SMALL), r"error: Cannot load the model '.*none': there is no such folder"),
    ):
        found = cli("bench", *arguments)
        assert found.code == 2
        assert re.search(f"^{said}", found.err, re.MULTILINE), found.err
        assert found.out == ""
    assert not (cache / "micro_batch.json").exists()


def test_progress_is_shown_on_a_terminal_and_wiped_also_after_an_error(cli, project, monkeypatch, cache):
    from pareto_align.bench import throughput
    from pareto_align.learning import OnlineLearner

    monkeypatch.setattr(sys.stderr.__class__, "isatty", lambda self: True, raising=False)
    found = cli("bench", project / "model", *SMALL)
    assert "\r\033[KK = 2: round 1 of 1\r" in found.err
    assert found.err.endswith("\r\033[K")

    def fails(self, *arguments, **options):
        raise throughput.torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(OnlineLearner, "step", fails)
    found = cli("bench", project / "model", *SMALL)
    assert found.code == 2
    assert "\r\033[Kerror: A step of K = 1 does not fit on cpu" in found.err


# ---- the text --------------------------------------------------------------------------------------------------------


def report(seconds, budgets=((1024, 3, 900, 1.0), (4096, 1, 2700, 1.2)), **more):
    populations = tuple(
        PopulationSpeed(k, 16 * k, (s / 2,), (s / 2,), memory)
        for k, s, memory in zip((1, 2, 4), seconds, (None, 3 * 2**20, 5 * 2**29), strict=False)
    )
    budgets = tuple(BudgetSpeed(budget, passes, tokens, 16, (s,)) for budget, passes, tokens, s in budgets)
    values = {"model": "acme/m", "device": "cuda:0", "processor": "Card", "dtype": "bfloat16", "threads": 2}
    values |= {"parameters": 460_800, "layout": "dense", "workload": Workload(), "memory_meaning": "a peak"}
    found = Throughput(populations=populations, budgets=budgets, **{**values, **more})
    return "\n".join(_report(found))


def test_the_recommendation_says_how_it_was_chosen():
    text = report((1.8, 2.8, 5.6))  # prices 1.8, 1.4, 1.4: from 2 on each one more costs as much as the others
    assert "population: 2, the smallest K whose seconds per policy are within 10 % of the least" in text
    assert "a policy costs 0.78 of one at K = 1 there, and each one more costs 1.00 of that." in text
    text = report((1.0, 1.0, 1.0))
    assert "population: 4 or more, as a policy costs 0.25 of one at K = 1" in text
    assert "at the largest K measured; compare larger --population to learn more." in text
    assert "population: 1, the only one measured." in report((1.0,))
    assert "micro_batch_tokens: 1024, the smallest budget within 5 % of the best throughput." in text
    text = report((1.0,), budgets=((512, 2, 900, 1.0), (2048, 1, 1800, 1.0)))
    assert "micro_batch_tokens: 900, the smallest pass possible, which a budget of 512 comes to" in text
    text = report((1.0,), budgets=((512, 2, 900, 1.0), (1024, 2, 900, 1.0)))
    assert "micro_batch_tokens: 900, as all budgets came to the same passes; compare larger --budgets" in text


def test_the_tables_say_what_their_figures_are():
    text = report((1.0, 1.0, 1.0), did_not_fit=("K = 8",))
    assert "acme/m on cuda:0 (Card), bfloat16, 2 threads\n" in text
    assert "460,800 parameters a policy" in text
    rows = cells(text, "K  sampling")
    assert rows == [
        ["1", "32", "1.00x", "32", "1.00x", "?"],
        ["2", "64", "2.00x", "64", "2.00x", "3 MiB"],
        ["4", "128", "4.00x", "128", "4.00x", "2.50 GiB"],
    ]
    assert "training tokens/s (dense)" in text
    assert "Memory: a peak.\n" in text
    assert cells(text, "budget") == [["1024", "3", "900", "16"], ["4096", "1", "2700", "13.3"]]
    assert "K = 8 did not fit on cuda:0.\n" in text
