"""What is never done with a file that somebody sent: unpickled, run, imported, followed out of its folder."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pareto_align
from pareto_align.config import load_origin
from pareto_align.errors import ConfigError, FrontFileError, ParetoAlignWarning
from pareto_align.front import Estimate, FrontRecord, MemberRecord, ObjectiveRecord
from pareto_align.report import model_card
from pareto_align.result import ParetoFront

PACKAGE = Path(pareto_align.__file__).parent
FIXTURE = Path(__file__).parents[1] / "fixtures" / "front-v1"
SOURCES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}

# ---- the source ------------------------------------------------------------------------------------------------------

UNPICKLERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "pandas.read_pickle",
}
RANKS = "backends/ranks.py"
"""Processes of a run send each other objects here, through pipes of their own; no file comes into it."""
RUNNERS = {"eval", "exec", "compile", "__import__"}
IMPORTERS = {
    # path of the module -> the argument of import_module, which no file can choose
    "__init__.py": "f'{__name__}.{_HOMES[name]}'",
    "cli/entry.py": "f'pareto_align.cli.{_HOMES[name]}'",
    "config/lookup.py": "module",  # from a config that the user passed
    "config/building.py": "module",  # one of this package, checked just before
}


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Every call in the package: the file, the call and the name of what is called."""
    for file, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield file, node, ast.unparse(node.func)


def imported(tree: ast.AST) -> dict[str, str]:
    """Names in a module -> where they are from."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return found


def test_the_scan_sees_the_package():
    assert len(SOURCES) > 80
    assert {"front/reading.py", "runs/journal.py", "policies/serving.py"} <= set(SOURCES)


def test_nothing_that_unpickles_is_imported():
    for file, tree in SOURCES.items():
        for origin in imported(tree).values():
            known = file == RANKS and origin == "pickle"
            assert known or origin.split(".")[0] not in UNPICKLERS, f"{file} imports {origin}"


def test_what_is_unpickled_comes_from_a_process_of_the_run():
    """One place, which reads a pipe; the file opens nothing, and its pipes are those that a rank is started with."""
    called = [
        (name, [ast.unparse(argument) for argument in node.args]) for file, node, name in calls() if file == RANKS
    ]
    assert [given for name, given in called if name.startswith("pickle.") and name != "pickle.dumps"] == [["message"]]
    (received,) = [
        node for node in ast.walk(SOURCES[RANKS]) if isinstance(node, ast.FunctionDef) and node.name == "_received"
    ]
    assert "message = line.recv_bytes()" in ast.unparse(received)
    assert "pickle.loads(message)" in ast.unparse(received)
    assert {name: given for name, given in called if name in ("Pipe", "Connection")} == {
        "Pipe": [],
        "Connection": ["fileno"],
    }
    opening = re.compile(r"open$|.*\.(open|read_bytes|read_text)$|Listener|Client|socket\.(socket|create)")
    assert not [name for name, _ in called if opening.match(name) and name != "self.open"]


def test_nothing_is_loaded_with_what_unpickles():
    loaders = re.compile(r"(torch|np|numpy|pd|pandas)\.(load|save|read_pickle|to_pickle)$|.*\.(fromfile|memmap)$")
    for file, node, name in calls():
        assert not loaders.match(name), f"{file}:{node.lineno} calls {name}"
        assert "allow_pickle" not in {keyword.arg for keyword in node.keywords}, f"{file}:{node.lineno}"


def test_every_bare_load_and_save_is_of_safetensors():
    seen = 0
    for file, node, name in calls():
        if name in ("load", "save", "load_file", "save_file") and name in imported(SOURCES[file]):
            kinds = [f"safetensors.{kind}.{name}" for kind in ("torch", "numpy")]
            assert imported(SOURCES[file])[name] in kinds, f"{file}:{node.lineno} calls {name}"
            seen += 1
    assert seen >= 2


def test_nothing_is_evaluated():
    for file, node, name in calls():
        assert name not in RUNNERS, f"{file}:{node.lineno} calls {name}"
        if file == RANKS and name == "subprocess.Popen":  # this Python, on a line that is written there
            assert ast.unparse(node.args[0]) == "[sys.executable, '-c', code]"
            assert {keyword.arg for keyword in node.keywords} == {"pass_fds", "env"}, "and no shell"
            continue
        assert not re.match(r"subprocess\.|os\.(system|popen|exec|spawn)", name), f"{file}:{node.lineno} calls {name}"


def test_yaml_is_read_by_a_safe_loader():
    from yaml import SafeLoader

    from pareto_align.config import reading

    found = [(file, ast.unparse(node)) for file, node, name in calls() if "load" in name.lower() and "yaml" in name]
    assert found == []
    assert [(file, ast.unparse(node)) for file, node, name in calls() if name == "_Loader"] == [
        ("config/reading.py", "_Loader(text)")
    ]
    assert issubclass(reading._Loader, SafeLoader)
    made = {str(tag).removeprefix("tag:yaml.org,2002:") for tag in reading._Loader.yaml_constructors}
    assert made == {"map", "seq", "str", "null", "bool", "int", "float", "None"}  # None: every other tag is refused
    assert not reading._Loader.yaml_multi_constructors


def test_modules_are_imported_by_name_in_known_places_only():
    found = {}
    for file, node, name in calls():
        if name.split(".")[-1] == "import_module":
            assert file not in found
            found[file] = ast.unparse(node.args[0])
    assert found == IMPORTERS


def test_code_of_a_model_is_trusted_only_where_the_user_says_so():
    seen = 0
    for file, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = node.args
                defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
                pairs = [*zip(arguments.args, defaults, strict=True)]
                pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
                for argument, default in pairs:
                    if argument.arg == "trust_remote_code" and default is not None:
                        assert ast.unparse(default) == "False", f"{file}:{node.lineno}"
                        seen += 1
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                # passed on from the user under the same name, never a constant
                given = ast.unparse(node.value).removeprefix("self.").removeprefix("loading.")
                assert given == "trust_remote_code", f"{file}:{node.lineno}"
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "trust_remote_code":  # of a dataclass
                assert node.value is None or ast.unparse(node.value) == "False", f"{file}:{node.lineno}"
                seen += 1
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "trust_remote_code":
                        assert ast.unparse(value).removeprefix("self.") in ("trust_remote_code", "False") or isinstance(
                            getattr(value, "value", None), str
                        ) or ast.unparse(value) == "bool", f"{file}:{node.lineno}"  # fmt: skip
    assert seen >= 2


# ---- a folder that somebody sent -------------------------------------------------------------------------------------

EVIL = "open({marker!r}, 'w').close()\ndef reward(completions, **columns):\n    return [1.0] * len(completions)\n"

WATCHED = """
import os, sys, warnings
touched = []
def hook(event, arguments):
    if event in ("pickle.find_class", "exec", "compile", "import", "os.system", "subprocess.Popen"):
        touched.append((event, str(arguments[0])[:300]))
sys.path.insert(0, os.getcwd())  # as `python -m` does
import pareto_align.result, pareto_align.report.history_plot, pareto_align.report.weights_plot
front = pareto_align.result.ParetoFront.load(sys.argv[2])  # whatever is imported at first use
front.summary(), front.card(), front.select(), front.plot_history()
import pareto_align.runs.folder
sys.addaudithook(hook)
front = pareto_align.result.ParetoFront.load(sys.argv[1])
front.summary(), front.card(), front.select(), front[0].to_dict(), front._repr_html_()
pareto_align.runs.folder.read_run_record(__import__("pathlib").Path(sys.argv[1]))
print(len(front), touched, [m for m in sys.modules if "evil" in m])
"""


@pytest.fixture
def sent(tmp_path) -> Path:
    """A run folder with a trap everywhere a careless reader might step."""
    run = tmp_path / "sent"
    shutil.copytree(FIXTURE, run)
    marker = str(tmp_path / "marker")
    code = EVIL.format(marker=marker)
    for folder in (run, run / "front", run / "front" / "members" / "m0000"):
        for name in ("evil.py", "rewards.py", "conftest.py", "__init__.py"):
            (folder / name).write_text(code)

    class Trap:
        def __reduce__(self):
            return open, (marker, "w")

    for name in ("adapter_model.bin", "training_args.bin", "adapter_model.pt", "optimizer.pt"):
        (run / "front" / "members" / "m0000" / name).write_bytes(pickle.dumps(Trap()))
    record = json.loads((run / "run.json").read_text())
    for objective in record["objectives"]:
        objective["reward"] = "evil:reward"
    record["origin"] = {"command": "fit", "config": origin("evil:reward")}
    (run / "run.json").write_text(json.dumps(record))
    return run


def origin(reward: str, **more: object) -> dict:
    return {"model": "m", "prompts": ["p"], "objectives": [{"name": "a", "reward": reward}], **more}


def test_reading_a_run_runs_nothing_of_it(sent):
    """A process whose every import, compilation and unpickling is watched, started in the folder that was sent."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(sent), str(FIXTURE)],
        cwd=sent,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4 [] []\n"
    assert not (sent.parent / "marker").exists()


FOREIGN = [
    "evil:reward",
    "evil.reward",
    "os:system",
    "builtins:eval",
    "pareto_align.objectives:np.load",
    "./evil:reward",
]


@pytest.mark.parametrize("path", FOREIGN)
def test_a_reward_is_not_imported_on_the_word_of_a_run_folder(sent, monkeypatch, path):
    monkeypatch.chdir(sent)
    monkeypatch.syspath_prepend(str(sent))
    with pytest.raises(ConfigError, match="not imported on the word of a run folder"):
        load_origin({"command": "fit", "config": origin(path)}, sent)
    assert "evil" not in sys.modules
    assert not (sent.parent / "marker").exists()


OTHER = [{"weighting": "evil:W"}, {"explorer": {"name": "evil:E"}}, {"trust_remote_code": True}]


@pytest.mark.parametrize("more", OTHER)
def test_nothing_else_is_taken_on_its_word_either(sent, more):
    with pytest.raises(ConfigError, match="--config"):
        load_origin({"command": "fit", "config": origin("pareto_align.objectives:brevity", **more)}, sent)


def test_a_member_with_a_pickle_for_weights_is_left_out(sent):
    folder = sent / "front" / "members" / "m0000"
    (folder / "adapter_model.safetensors").unlink()
    data = json.loads((sent / "front" / "front.json").read_text())
    member = next(m for m in data["members"] if m["id"] == "m0000")
    member["files"]["adapter_model.bin"] = member["files"].pop("adapter_model.safetensors")
    (sent / "front" / "front.json").write_text(json.dumps(data))
    with pytest.warns(ParetoAlignWarning, match="weights of another kind are never read"):
        front = ParetoFront.load(sent, verify=False)
    assert "m0000" not in [m.id for m in front]
    assert not (sent.parent / "marker").exists()


def test_weights_beside_a_pickle_are_the_safetensors(sent):
    from pareto_align.testing.tiny import tiny_llama

    model = ParetoFront.load(sent)["m0000"].load_model(tiny_llama(4, 8, hidden_size=16, layers=1))
    assert any("lora_A" in name for name, _ in model.named_parameters())
    assert not (sent.parent / "marker").exists()


def test_a_journal_that_is_a_link_is_not_published(sent, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (sent / "journal.jsonl").unlink()
    (sent / "journal.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(FrontFileError, match=r"'journal\.jsonl', which leaves the front folder"):
        ParetoFront.load(sent)


# ---- what came from prompts and completions --------------------------------------------------------------------------

ATTACKS = [
    *("<script>alert(1)</script>", "</pre></code><img src=x onerror=alert(1)>", "<!-- ", "&lt;b&gt;", "<http://x>"),
    *("```\n<b>x</b>", "~~~\n# x", "`````\n", "`", "``x``", "\\", "\n---\ntitle: x\n---\n", "    indented"),
    *(
        "[x](javascript:alert(1))",
        "![x](http://x/y.png)",
        "| a | b |",
        "$x$",
        "- item",
        "\t- item",
        "1. item",
        "2) item",
    ),
    *("# x", "> x", "===", "+ x", "* x", "\x1b[31m", "a\r\n# b", "a\u2028b", "\u202egnp"),
]
TEXTS = st.one_of(
    st.sampled_from(ATTACKS),
    st.lists(st.sampled_from(ATTACKS), min_size=2, max_size=4).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
)


def front_saying(text: str, *, sample: str | None = None) -> FrontRecord:
    """A front that has a text in every place that takes one."""
    estimate = Estimate([0.5, 0.5], [[0.01, 0.0], [0.0, 0.01]], 8)
    name = text if text.strip() else "x"
    objectives = [
        ObjectiveRecord(name, "optimize", True, 0.0, 1.0, description=text),
        ObjectiveRecord(f"{name}2", "audit", True, 0.0, 1.0),
    ]
    pair = {"prompt": sample or text, "completion": sample or text}
    chat = {"prompt": [{"role": sample or text, "content": sample or text}], "completion": sample or text}
    members = [MemberRecord(f"{name}{k}", estimate, [1.0], sample=[row]) for k, row in enumerate((pair, chat))]
    return FrontRecord(
        objectives, members, base={"name": text, "revision": text, "dtype": text}, reference=[0.0], cost={text: text}
    )


def tokens_of(card: str):
    """The card as CommonMark with tables reads it."""
    markdown = pytest.importorskip("markdown_it")
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    for token in markdown.MarkdownIt("commonmark").enable("table").parse(body):
        yield token
        yield from token.children or ()


@cache
def harmless_kinds() -> list[str]:
    return [token.type for token in tokens_of(model_card(front_saying("x")))]


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(TEXTS)
def test_a_model_card_shows_text_as_text(text):
    """No text makes a tag, a link, a picture, a heading or a block of its own: the card has those of a harmless one."""
    kinds = [token.type for token in tokens_of(model_card(front_saying(text)))]
    assert not {"html_block", "html_inline", "link_open", "image"} & set(kinds)
    harmless = harmless_kinds()
    blocks = ("heading_open", "fence", "list_item_open", "table_open", "tr_open", "hr", "code_block", "blockquote_open")
    for kind in blocks:
        assert kinds.count(kind) == harmless.count(kind), kind


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(TEXTS)
def test_generated_text_stays_in_its_fence(text):
    card = model_card(front_saying("x", sample=text))
    shown = [token.content for token in tokens_of(card) if token.type == "fence" and token.info == "text"]
    assert len(shown) == 4
    plain = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text.replace("\r\n", "\n"))
    assert [content.removesuffix("\n") for content in shown] == [plain, plain, f"{plain}: {plain}", plain]
    assert not any(c for c in card if not c.isprintable() and c not in "\n\t")


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(TEXTS)
def test_the_header_of_a_card_has_its_own_keys_only(text):
    import yaml

    header = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", model_card(front_saying(text)), flags=re.DOTALL).group(1))
    known = {"library_name", "pipeline_tag", "base_model", "base_model_relation", "tags"}
    assert set(header) <= known
    assert header.get("base_model") in (None, text)


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(TEXTS)
def test_the_notebook_page_has_its_own_tags_only(text):
    from html.parser import HTMLParser

    from pareto_align.report.table import front_table, html_table

    tags = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append((tag, attributes))

    reader = Reader()
    reader.feed(html_table(front_table(front_saying(text)), caption=text))
    assert {tag for tag, _ in tags} <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "br", "small"}
    assert not any(attributes for _, attributes in tags)
