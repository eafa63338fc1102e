"""The documentation is true: names exist, links lead somewhere, the API page is fresh, and the examples run."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pareto_align
from pareto_align.cli.parser import build_parser
from pareto_align.objectives import Objective, ObjectiveSet
from pareto_align.testing.weighting import WeightingContract
from pareto_align.weighting import available, make

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("studies/*/README.md"))]
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHARED_PAGE = {
    "hypervolume-paper": "hypervolume",
    **dict.fromkeys(["mgda", "pcgrad", "cagrad", "aligned-mtl", "imtl-g", "upgrad", "nash-mtl"], "aggregators"),
    **dict.fromkeys(["epo", "pareto-mtl"], "rays"),
    **dict.fromkeys(["augmented-tchebycheff", "stch", "softmin", "hypervolume-scalarization", "psa"], "tchebycheff"),
    **dict.fromkeys(["lagrangian-sigmoid", "lagrangian-equality", "lagrangian-all"], "lagrangian"),
    **dict.fromkeys(["safe-rlhf", "barrier"], "lagrangian"),
}


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its code: neither fenced blocks nor code spans hold links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(`[^`\n]*`)(?!\])", "", text)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)}


def load_build_api() -> Any:
    spec = importlib.util.spec_from_file_location("build_api", DOCS / "build_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------ the API page


def test_everything_public_is_in_the_api_page():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    missing = [name for name in pareto_align.__all__ if f"### `pareto_align.{name}`\n" not in text]
    assert not missing


@pytest.mark.parametrize(
    "name", ["front", "objectives", "weighting", "learning", "policies", "runs", "discovery", "tuning"]
)
def test_every_name_of_a_subpackage_is_listed(name):
    module = importlib.import_module(f"pareto_align.{name}")
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    section = text.split(f"\n## `pareto_align.{name}`\n")[1].split("\n## ")[0]
    assert [n for n in module.__all__ if f"- [`{n}`](#" not in section] == []


def test_every_public_name_has_a_docstring_of_its_own():
    build_api = load_build_api()
    bare = []
    for module in build_api._modules(pareto_align):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isroutine(thing):
                doc = thing.__doc__ or ""
                if not doc.strip() or doc.startswith(f"{name}("):  # a dataclass without one gets its signature
                    bare.append(f"{module.__name__}.{name}")
            elif not build_api._constant_doc(module, name):
                bare.append(f"{module.__name__}.{name}")
    assert bare == []


def test_the_api_page_is_up_to_date():
    assert (DOCS / "api.md").read_text(encoding="utf-8") == load_build_api().build(), "run `make docs`"


def test_check_finds_a_stale_page(tmp_path, monkeypatch, capsys):
    build_api = load_build_api()
    monkeypatch.setattr(build_api, "TARGET", tmp_path / "api.md")
    monkeypatch.setattr("sys.argv", ["build_api.py"])
    assert build_api.main() == 0
    monkeypatch.setattr("sys.argv", ["build_api.py", "--check"])
    assert build_api.main() == 0
    (tmp_path / "api.md").write_text("old")
    assert build_api.main() == 1
    assert "stale" in capsys.readouterr().err
    assert (tmp_path / "api.md").read_text() == "old"


# ------------------------------------------------------------------------------------------------ links and names


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_resolve(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_row_of_a_table_has_the_cells_of_its_head(page):
    """A bar in a cell that is not escaped begins another one, and what stands behind the last is dropped."""
    wrong, cells = [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        if found is not None and cells is not None and found != cells:
            wrong.append(line)
        cells = found if cells is None or found is None else cells
    assert wrong == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=page_id)
def test_dotted_names_import(page):
    names = set(re.findall(r"\bpareto_align(?:\.[A-Za-z_]\w*)+", page.read_text(encoding="utf-8")))
    assert [name for name in sorted(names) if not exists(name)] == []


def exists(dotted: str) -> bool:
    thing: Any = importlib.import_module("pareto_align")
    path = "pareto_align"
    for part in dotted.split(".")[1:]:
        path += f".{part}"
        if not hasattr(thing, part):
            try:
                thing = importlib.import_module(path)
            except ImportError:
                return False
        else:
            thing = getattr(thing, part)
    return True


def test_every_shipped_weighting_has_its_page():
    shipped = [name for name in available() if type(make(name)).__module__.startswith("pareto_align.")]
    assert {"chebyshev", "fixed", "hypervolume", "hypervolume-paper"} <= set(shipped)
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for name in shipped:
        page = DOCS / "weightings" / f"{SHARED_PAGE.get(name, name)}.md"
        assert page.exists(), f"{name} has no page"
        assert name in page.read_text(encoding="utf-8").lower()
        assert f"`{name}`" in index


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page.name != "index.md"]
    assert [page for page in pages if f"({page})" not in index] == []


def test_documented_defaults_are_the_defaults():
    """The tables of quickstart and rewards name defaults; these are read from the code."""
    from pareto_align.discovery import Settings

    text = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    settings = Settings()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", text, flags=re.MULTILINE)
    checked = 0
    for names, values in rows:
        for name, value in zip(re.findall(r"`(\w+)`", names), values.split(","), strict=True):
            if hasattr(settings, name):
                usual = settings.rate() if name == "learning_rate" else getattr(settings, name)
                assert float(value) == usual, name
                checked += 1
    assert checked >= 8
    import pareto_align.objectives as objectives

    text = (DOCS / "rewards.md").read_text(encoding="utf-8")
    for name, arguments in re.findall(r"`(\w+)\(([^)]*=[^)]*)\)`", text):
        factory = getattr(objectives, name, None)
        if factory is None:
            continue
        for argument in re.split(r", (?=\w+)", arguments):
            key, equals, value = argument.partition("=")
            if equals:
                assert eval(value, {}) == inspect.signature(factory).parameters[key].default, (name, key)


def test_the_front_folder_page_names_what_is_on_disk(tmp_path):
    import json

    from pareto_align.aligner import ParetoAligner
    from pareto_align.testing.problems import get_problem

    problem = get_problem("arc", V=8)
    keys: set[str] = set()
    for family in ("blocks", "independent"):
        run = tmp_path / family
        ParetoAligner(
            problem.model(), problem.objectives(), tokenizer=problem.tokenizer(), max_new_tokens=problem.T,
            family=family, population=2, steps=2, group_size=2, prompts_per_step=1, eval_group_size=4, output_dir=run,
            progress=False,
        ).fit(problem.prompts)  # fmt: skip
        front = json.loads((run / "front/front.json").read_text())
        events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
        keys |= {*front, *front["objectives"][0], *front["base"], *front.get("family", {})}
        for member in front["members"]:
            keys |= {*member, *member["estimate"], *member["provenance"]}
        keys |= {key for event in events for key in event} | {event["event"] for event in events}
        keys |= {key for fallen in front["fallen"] for key in (*fallen, *fallen["provenance"])}
    page = (DOCS / "front-folder.md").read_text(encoding="utf-8")
    keys = {re.sub(r"^(reference_)?hypervolume_(low|high)$", r"_\2", key) for key in keys}
    assert sorted(key for key in keys if f"`{key}`" not in page) == []
    shown = {path.as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    shown = {re.sub(r"m\d{4}", "m0012", path) for path in shown}
    assert {path.rpartition("/")[2] for path in shown} <= set(re.findall(r"[\w.]+", page))
    cost = (DOCS / "concepts.md").read_text(encoding="utf-8")
    assert sorted(key for key in front["cost"] if f"`{key}`" not in cost) == []


# ------------------------------------------------------------------------------------------------ examples


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_block_of_python_is_python(page):
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for _, source in blocks:
        compile(textwrap.dedent(source), str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def examples(page: Path, mark: str = "example") -> str:
    """The Python blocks of a page that are marked so, in order."""
    pattern = rf"<!-- {mark} -->\n```python\n(.*?)^```"
    blocks = re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL | re.M)
    return "\n".join(blocks)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A folder with a tiny random Llama that speaks a few English words, and a tokenizer with a chat template."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = "<unk> <pad> <bos> <eos> glad happy love I you we like rain tea cats snow the a is it to do not very and or"
    vocabulary = {word: number for number, word in enumerate(words.split())}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ '<bos> ' + message['content'] }}{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=1, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("chat-model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run_example(chat_model, tmp_path, monkeypatch):
    """Run a page's example in an empty folder: on the tiny model, in a few steps, otherwise as it stands."""
    from pareto_align.aligner import ParetoAligner

    class Small(ParetoAligner):
        def __init__(self, model: Any, objectives: Any, **settings: Any) -> None:
            limits = {"population": 3, "steps": 2, "max_new_tokens": 8, "group_size": 4, "prompts_per_step": 2}
            defaults = {name: p.default for name, p in inspect.signature(ParetoAligner).parameters.items()}
            small = {name: min(settings.get(name, defaults[name]), limit) for name, limit in limits.items()}
            super().__init__(model, objectives, **{**settings, **small, "progress": False})

    monkeypatch.setattr(pareto_align, "ParetoAligner", Small)
    from pareto_align.learning.preferences.base import preference_losses
    from pareto_align.weighting.base import weightings

    monkeypatch.setattr(weightings, "_classes", dict(weightings._classes))
    monkeypatch.setattr(preference_losses, "_classes", dict(preference_losses._classes))
    monkeypatch.chdir(tmp_path)

    def run(page: Path, mark: str = "example") -> dict[str, Any]:
        source = examples(page, mark)
        assert source, f"{page.name} has no block marked <!-- example -->"
        source = source.replace(f'"{HUB_NAME}"', repr(str(chat_model)))
        namespace: dict[str, Any] = {"__name__": "docs_example"}
        exec(compile(source, str(page), "exec"), namespace)
        return namespace

    return run


def test_the_readme_example_runs(run_example, tmp_path):
    from peft import PeftModel

    found = run_example(README)
    assert len(found["front"]) >= 1
    assert found["front"].record.split == "report"
    assert (tmp_path / "front.png").stat().st_size > 0
    assert isinstance(found["model"], PeftModel)
    assert len(examples(README).splitlines()) <= 30, "the README promises a short example"


def test_the_quickstart_runs(run_example, tmp_path):
    from peft import PeftModel

    found = run_example(DOCS / "quickstart.md")
    assert isinstance(found["model"], PeftModel)
    assert (tmp_path / "history.png").stat().st_size > 0
    assert (tmp_path / "served" / "lora_modules.json").exists()
    assert np.isfinite(found["front"].stderr).all()


def test_the_rewards_page_runs(run_example):
    found = run_example(DOCS / "rewards.md")
    objectives = ObjectiveSet([value for value in found.values() if isinstance(value, Objective)])
    assert objectives.names == ("polite", "right", "judged")
    # what the page says that a policy can exploit
    fooled = {name: [round(value, 2) for value in values] for name, values in found["fooled"].items()}
    assert fooled == {
        "tone": [0.82, 0.86], "brevity": [1.0], "readability": [1.0], "profanity": [0.04, 1.0], "keywords": [1.0],
    }  # fmt: skip
    np.testing.assert_allclose(
        objectives.score(["6 x 7?", "3 + 4?"], ["It is 42.", "Eight"], {"answer": [42, 7]}),
        [[1, 1, 0.09], [0, 0, 0.05]],
    )


def test_the_page_of_the_page_runs(run_example, tmp_path):
    from pareto_align.cli import main

    run_example(README)  # fits my_front
    found = run_example(DOCS / "page.md")
    assert (tmp_path / "front.html").read_text(encoding="utf-8") == found["text"]
    assert "<iframe" in found["shown"]._repr_html_()
    line, _ = command_lines(DOCS / "page.md")  # the other one goes on until Ctrl-C
    assert main(shlex.split(line)[1:]) == 0
    assert (tmp_path / "my_front" / "front.html").read_text(encoding="utf-8") == found["text"]


def test_the_gallery_draws_what_it_shows_and_shows_every_figure(run_example, tmp_path):
    run_example(DOCS / "gallery.md")
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]+\]\(gallery/([^)]+)\)", page)
    assert sorted(shown) == sorted(path.name for path in tmp_path.glob("*.png"))
    assert sorted(shown) == sorted(path.name for path in (DOCS / "gallery").iterdir())
    figures = {name for name in dir(pareto_align.ParetoFront) if re.fullmatch(r"plot(?!_data)(_\w+)?", name)}
    assert figures == set(re.findall(r"^\|.*`front\.(plot\w*)\(", page, re.MULTILINE))


def test_the_tuning_page_runs(run_example, tmp_path):
    found = run_example(DOCS / "tuning.md")
    result = found["result"]
    assert [trial.status for trial in result.trials] == ["finished"] * 2
    assert set(result.best.settings) == {"learning_rate", "temperature"}
    assert found["tuned"].settings.learning_rate == result.best.settings["learning_rate"]
    assert (tmp_path / "my_sweep" / "result.json").exists()


def test_the_tuning_page_names_what_is_on_disk_and_in_the_result(run_example, tmp_path):
    import json

    from pareto_align.tuning.space import DEFAULT_SPACE, TUNABLE

    run_example(DOCS / "tuning.md")
    page = (DOCS / "tuning.md").read_text(encoding="utf-8")
    assert [name for name in TUNABLE if f"`{name}`" not in page] == []
    found = json.loads((tmp_path / "my_sweep" / "result.json").read_text())
    keys = {*found, *found["best"], *found["best"]["runs"][0], *found["cost"]}
    assert sorted(key for key in keys if f"`{key}`" not in page) == []
    for name, limits in DEFAULT_SPACE.items():
        assert f"| `{name}` | {limits['low']:g} to {limits['high']:g}" in page


def test_the_readmes_front_from_comparisons_runs(run_example, tmp_path):
    rows = [
        {
            "prompt": f"do you like {word}",
            "response_0": "yes very",
            "response_1": "not a love",
            "better_response_id": number % 2,
            "safer_response_id": 1,
        }
        for number, word in enumerate(["rain", "tea", "cats", "snow", "we", "I", "it", "the"])
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    front = run_example(README, "pairs")["front"]
    assert front.names == ("helpful", "safe")
    assert len(front) >= 1


def test_the_comparisons_page_runs(run_example, capsys):
    from pareto_align.data.comparison_formats import FORMATS

    found = run_example(DOCS / "comparisons.md")
    assert found["labelled"].names == ("helpful", "safe")
    np.testing.assert_array_equal(found["labelled"].table().values, [[0, 1], [0, 0]])
    assert len(found["rated"][0].labels) == 3
    assert found["first_safe_then_short"].names == ("order",)
    assert "better_response_id / safer_response_id" in capsys.readouterr().out
    assert found["front"].names == ("helpful", "safe")
    assert found["front"].record.config["learner"] == "dpo"
    page = (DOCS / "comparisons.md").read_text(encoding="utf-8")
    assert [name for name in FORMATS if f"| `{name}` |" not in page] == []


def test_the_learned_rewards_page_runs(run_example):
    found = run_example(DOCS / "learned-rewards.md")
    assert [report.accuracy > 0.7 for report in found["heads"].report] == [True, True]
    assert min(found["mixture"].shares) == pytest.approx(0.25, abs=0.05)
    assert found["preference"].sum() == pytest.approx(1)


def test_the_page_of_preference_losses_runs_and_names_them_all(run_example):
    from pareto_align.learning.preferences import available_preferences
    from pareto_align.testing.preferences import PreferenceLossContract

    found = run_example(DOCS / "preference-losses.md")
    assert found["coefficients"].shape == (1, 1, 2, 2)
    contract = found["TestSquaredHinge"]
    assert issubclass(contract, PreferenceLossContract)
    for name in dir(contract):
        if name.startswith("test_"):
            getattr(contract(), name)()
    page = (DOCS / "preference-losses.md").read_text(encoding="utf-8")
    ours = [name for name in available_preferences() if name != "squared_hinge"]
    assert [name for name in ours if f"`{name}`" not in page] == []


def test_the_page_of_questions_runs(run_example):
    found = run_example(DOCS / "eliciting.md")
    assert found["session"].next() is None
    assert found["choice"].member.id in [member.id for member in found["front"]]
    assert sum(found["session"].preference.values()) == pytest.approx(1)


def test_the_page_of_mixtures_runs(run_example, tmp_path):
    found = run_example(DOCS / "mixtures.md")
    assert found["blend"].last["disagreement"] >= 0
    assert found["found"].held.shape == (2,)
    assert (tmp_path / "soup" / "adapter_config.json").exists()
    assert (tmp_path / "mixed" / "mixture.json").exists()
    assert found["routed"].gain.low <= found["routed"].gain.high
    assert sum(found["routed"].last.values()) == 2
    assert (tmp_path / "gate.safetensors").exists()


def test_the_page_of_unseen_preferences_runs(run_example, tmp_path):
    from pareto_align.calibration import Calibration

    found = run_example(DOCS / "unseen-preferences.md")
    assert np.isfinite(found["bounds"].lower)
    assert found["bounds"].upper > found["bounds"].lower - 1e-9 or found["bounds"].upper == np.inf
    kept = Calibration.load(tmp_path / "calibration.json")
    np.testing.assert_allclose(kept.predict([0.6, 0.4])[0], found["values"])
    assert (kept.errors.shape, kept.by) == ((9, 2), "logits")
    np.testing.assert_allclose(kept.halfwidth, np.abs(kept.errors).max(0))
    assert found["headroom"].low <= found["headroom"].high


def test_the_page_of_right_answers_runs(run_example):
    found = run_example(DOCS / "right-answers.md")
    by_sum, by_drpo = found["by_sum"].numpy(), found["by_drpo"].numpy()
    assert by_sum.round(2)[[1, 3]].tolist() == pytest.approx([-0.40, 0.16])
    assert (by_drpo[:2] > 0).all()
    assert (by_drpo[2:] < 0).all()
    assert by_drpo[0] > 100 * by_drpo[1]


def test_the_contributing_page_runs(run_example):
    found = run_example(DOCS / "contributing.md")
    assert len(found["front"]) >= 1
    contract = found["TestCatchUp"]
    assert issubclass(contract, WeightingContract)
    for name in dir(contract):
        if name.startswith("test_"):
            getattr(contract(), name)()


# ------------------------------------------------------------------------------------------------ the command line


def command_lines(page: Path) -> list[str]:
    """The `pareto-align ...` lines of a page's shell blocks, without prompts; a synopsis in brackets is none."""
    blocks = re.findall(
        r"^```(?:bash|sh|console)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ").strip() for line in lines]
    return [line for line in lines if line.startswith("pareto-align ") and "[--" not in line]


COMMANDS = [(page, line) for page in PAGES for line in command_lines(page)]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page_id(p)}: {line}"[:80] for p, line in COMMANDS])
def test_every_command_shown_is_one_the_parser_takes(page, line):
    words = shlex.split(line, comments=True)
    build_parser().parse_args(words[1:])


def test_the_readme_shows_commands_and_make_targets_that_exist():
    assert any(page == README for page, _ in COMMANDS)
    targets = set(re.findall(r"^make (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize(
    ("section", "registries"),
    [
        ("weighting", "weighting.base:weightings"),
        ("learner", "learning.credit:credits learning.learner:learners"),
        ("explorer", "discovery.explorers.base:explorers"),
        ("family", "policies.families:families"),
    ],
)
def test_the_configuration_page_names_all_that_can_be_chosen(section, registries):
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{section}` \|(.*)\|$", text, flags=re.MULTILINE)
    ours = []
    for place in registries.split():
        module, registry = place.split(":")
        classes = getattr(importlib.import_module(f"pareto_align.{module}"), registry)._classes
        ours += [
            name for name, cls in classes.items() if cls.__module__.startswith("pareto_align.")
        ]  # others: of tests
    assert re.findall(r"`([^`]+)`", row.split("Names: ")[1]) == sorted(ours)
