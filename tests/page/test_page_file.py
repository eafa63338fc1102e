"""The page as a file: what is in it, what can never be in it, and who writes it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
import shutil
import subprocess
import warnings
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from page_fronts import front_record, journal, on_disk

from pareto_align import ConfigError, FrontFileError, ParetoFront
from pareto_align.cli import main
from pareto_align.front import Estimate
from pareto_align.report.page import content, page_html
from pareto_align.report.page.document import SCRIPTS
from pareto_align.report.page.noise import LARGEST, noise_content

FIXTURE = Path(__file__).parents[1] / "fixtures" / "front-v1"
PARTS = files("pareto_align.report.page")


def data_of(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_one_command_writes_one_file_and_says_where(tmp_path, capsys):
    on_disk(front_record(5, 2), tmp_path / "my_front", journal())
    assert main(["page", str(tmp_path / "my_front")]) == 0
    file = tmp_path / "my_front" / "front.html"
    assert str(file) in capsys.readouterr().out
    assert main(["page", str(tmp_path / "my_front"), "--out", str(tmp_path / "other.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(tmp_path / "other.html")}
    assert file.read_bytes() == (tmp_path / "other.html").read_bytes()
    assert {path.name for path in (tmp_path / "my_front").iterdir()} == {"front", "front.html", "journal.jsonl"}


def test_what_cannot_be_written_is_said_before_and_leaves_nothing(tmp_path, capsys):
    front = on_disk(front_record(2, 2), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"is a folder. Name a file in it, such as .*front\.html"):
        front.page(tmp_path)
    with pytest.raises(FrontFileError, match="Cannot write the page"):
        front.page(tmp_path / "none" / "front.html")
    with pytest.raises(ConfigError, match="`path` must be a path"):
        front.page(3)
    with pytest.raises(ConfigError, match=r"`height` must be a whole number of pixels, at least 100\. Found 2\.5"):
        front.show(2.5)
    assert main(["page", str(tmp_path / "none")]) == 2
    assert "There is no front.json" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_equal_fronts_give_equal_bytes_and_no_path_of_the_machine(tmp_path):
    record = front_record(6, 3, constraint=True)
    pages = [on_disk(record, tmp_path / where / "my_front", journal()).page() for where in ("here", "there")]
    assert pages[0] == pages[1]
    assert str(tmp_path) not in pages[0]
    assert ParetoFront.load(tmp_path / "here" / "my_front" / "front").page() != ""


def test_a_model_from_a_folder_is_called_by_the_folders_own_name(tmp_path):
    record = front_record(2, 2)
    record = replace(record, base={**record.base, "name": str(tmp_path / "secret" / "tuned-1b")})
    page = on_disk(record, tmp_path / "my_front", journal()).page()
    assert " for tuned-1b: " in page
    assert "secret" not in page
    assert str(tmp_path) not in page
    record = replace(record, base={**record.base, "name": "owner/tuned-1b"})
    assert " for owner/tuned-1b: " in on_disk(record, tmp_path / "hub", journal()).page()


def test_a_few_equal_measurements_are_no_evidence(tmp_path):
    record = front_record(1, 2)
    few = [Estimate.from_samples(np.full((4, 2), value), tuple(range(4))) for value in (0.4, 0.6)]
    unbounded = [replace(objective, bounds=None) for objective in record.objectives]
    member = replace(record.members[0], estimate=few[1])
    record = replace(record, objectives=unbounded, members=[member], reference_policy=few[0])
    assert content._against(record, 0) == [None, None]


def test_what_a_notebook_shows_is_the_page_in_a_frame_that_reaches_nothing(tmp_path):
    front = on_disk(front_record(3, 2), tmp_path / "run")
    fragment = front.show(height=700)._repr_html_()
    attributes = 'title="Pareto front" width="100%" height="700" sandbox="allow-scripts"'
    found = re.fullmatch(rf'<iframe srcdoc="([^"]*)" {attributes} [^<>]*></iframe>', fragment)
    assert found is not None
    assert html.unescape(found[1]) == front.page()


def test_only_its_own_script_and_style_are_let_in(tmp_path):
    page = on_disk(front_record(3, 2), tmp_path / "run").page()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = {part: base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (script, style)}
    assert policy.split("; ") == [
        "default-src 'none'", f"script-src 'sha256-{digest[script]}'", f"style-src 'sha256-{digest[style]}'",
        "img-src data:", "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip


def test_the_scripts_have_no_way_to_make_text_into_anything_else():
    source = "".join((PARTS / name).read_text() for name in SCRIPTS)
    ways = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|createContextualFragment|DOMParser"
    ways += r"|setHTML|\.src\b|href|fetch|XMLHttp|import\("
    assert re.findall(ways, source) == []
    template = (PARTS / "page.html").read_text()
    assert re.findall(r"\bon\w+=|style=|https?://", template) == []


def test_the_parts_travel_with_the_package():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["pareto_align"]
    folder = Path(str(PARTS))
    for file in folder.iterdir():
        if file.suffix in (".html", ".css", ".js"):
            assert any(file.relative_to(folder.parents[1]).match(pattern) for pattern in patterns), file.name


HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--", "-->", "<!--<script>", "]]>",
    "&lt;b&gt;", "<svg onload=alert(1)>", "javascript:alert(1)", '"><b>bold</b>', "' onclick='alert(1)", "\u202e evil",
    "\u2028\u2029", "@SCRIPT@", "@DATA@", "${alert(1)}", "`;alert(1)//", "\\u003cscript\\u003e", "\x1b[31mred\x07",
    "\x00nul", "<iframe srcdoc=x>", '<a href="javascript:alert(1)">x</a>', "<style>*{display:none}</style>",
    "__proto__", "constructor", "$(rm -rf ~)",
]  # fmt: skip


def hostile_record():
    """Every string of the corpus as a name, a reason, a prompt and a completion."""
    made = front_record(len(HOSTILE), 2, names=[HOSTILE[0], HOSTILE[1]], fallen=0)
    members = [
        replace(
            member,
            id=f"{k} {text}",
            sample=[{"prompt": other, "completion": text, "rewards": [0.5, 1.0]} for other in HOSTILE],
        )
        for k, (member, text) in enumerate(zip(made.members, HOSTILE, strict=True))
    ]
    fallen = [
        {"id": text, "values": [0.3, 30.0], "stderr": [0.1, 1.0], "reason": text, "split": "report"} for text in HOSTILE
    ]
    said = members[0].sample
    return replace(made, members=members, fallen=fallen, base={"name": "".join(HOSTILE)}, reference_sample=said)


def test_hostile_text_is_data_byte_for_byte(tmp_path):
    from pareto_align.printable import printable

    page = on_disk(hostile_record(), tmp_path / "run").page()
    assert len(HOSTILE) >= 20
    assert page.lower().count("<script") == page.lower().count("</script") == 2
    assert "<!--" not in page
    assert not re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028\u2029]", page)
    data = data_of(page)
    assert [prompt["text"] for prompt in data["prompts"]] == [printable(text) for text in HOSTILE]
    for member, text in zip(data["members"], HOSTILE, strict=True):
        assert {answer["text"] for answer in member["answers"].values()} == {printable(text)}


@pytest.mark.parametrize("name", [*HOSTILE, "plain", "two words", "a=b", "it's", "naïve 長", "a\tb\\c"])
def test_the_command_names_objectives_as_a_shell_reads_them(name):
    if "\x00" in name:
        pytest.skip("no argument of a program holds it")
    word = content._word(name)
    said = subprocess.run(
        ["bash", "-c", f"printf %s {word}=50"], capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True
    )
    assert said.stdout.decode() == f"{name}=50"
    if re.fullmatch(r"[\w=]+", name, re.ASCII):
        assert shlex.split(word) == [name]


def test_a_front_of_the_first_release_has_a_page(tmp_path):
    shutil.copytree(FIXTURE / "front", tmp_path / "moved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = data_of(ParetoFront.load(FIXTURE).page())
        alone = data_of(ParetoFront.load(tmp_path / "moved").page())
    assert [member["id"] for member in data["members"]] == ["m0002", "m0000", "m0001", "m0003"]
    assert data["untrained"]["answers"] == {}
    assert len(data["prompts"]) == 2
    assert data["history"]["steps"] == [3, 6]
    assert alone["history"] is None
    assert alone["members"][0]["adapter"] == "'moved/members/m0002'"
    assert data["rule"] == "chebyshev"


def test_forty_members_and_five_objectives_take_less_than_400_kilobytes(tmp_path):
    record = front_record(40, 5, prompts=210, words=200, fallen=100)
    longer = [
        [{**row, "prompt": f"{row['prompt']} {turn}"} for turn in range(3) for row in m.sample][:8]
        for m in record.members
    ]
    record = replace(record, members=[replace(m, sample=s) for m, s in zip(record.members, longer, strict=True)])
    assert sum(len(row["completion"]) for member in record.members for row in member.sample) > 380_000
    page = on_disk(record, tmp_path / "run", journal()).page()
    assert len(page.encode()) <= 400_000
    assert "(cut; the whole of it is in front.json)" in page


def test_a_prompt_is_named_for_its_last_turn(tmp_path):
    made = front_record(2, 2)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tea\nor  rain?"}]
    page = page_html(replace(made, reference_sample=[{"prompt": turns, "completion": "Tea."}]), [], tmp_path)
    assert data_of(page)["prompts"][-1] == {"name": "Tea or rain?", "text": "system: Be brief.\nuser: Tea\nor  rain?"}
    assert data_of(page)["untrained"]["answers"] == {"3": {"text": "Tea.", "rewards": None}}


def test_texts_are_cut_to_what_room_there_is_and_short_ones_stay_whole():
    assert content._share([10, 20, 30], 60) == 30
    assert content._share([10, 20, 30], 59) == 29
    assert content._share([10, 100, 100], 110) == 50
    assert content._share([], 100) == 0


@pytest.mark.parametrize(("n", "m", "prompts"), [(4, 2, 30), (9, 3, 12), (5, 2, None)])
def test_the_noise_that_travels_is_that_of_the_measurements(n, m, prompts):
    """The factor gives the covariance of all the members' means, and their own standard errors."""
    record = front_record(n, m, prompts=prompts)
    told = noise_content(record)
    stderr = np.array([member.estimate.stderr for member in record.members])
    if prompts is None:
        np.testing.assert_allclose(told["stderr"], stderr)
        return
    factor = np.zeros((told["rows"], n * m))
    numbers = np.frombuffer(base64.b64decode(told["factor"]), dtype="<i2")
    factor[np.triu_indices(told["rows"], m=n * m)] = numbers
    factor *= told["scale"]
    covariance = factor.T @ factor
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)).reshape(n, m), stderr, rtol=3e-4)
    samples = np.stack([member.estimate.samples for member in record.members])
    flat = samples.transpose(1, 0, 2).reshape(prompts, n * m)
    expected = np.cov(flat.T) / prompts
    unit = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs((covariance - expected) / unit).max() < 20 / LARGEST
    assert told["freedom"] == prompts - 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.2], "One measurement says nothing of convergence."),
        ([0.2, 0.4], "The last measurement still moved it"),
        ([0.2, 0.4, 0.41], "within its 95 % interval for the last measurement."),
        ([0.2, 0.4, 0.41, 0.39, 0.4], "for the last 3 measurements."),
    ],
)
def test_convergence_is_said_as_the_run_judges_it(values, said):
    from pareto_align.runs.budget import PlateauMonitor

    low, high = np.array(values) - 0.05, np.array(values) + 0.05
    assert said in content._movement(np.array(values), low, high)
    monitor = PlateauMonitor(None)
    for row in zip(values, low, high, strict=True):
        monitor.note(*row)
    assert (monitor.still == 0) == ("last 3" not in said and "for the last measurement" not in said)


def test_what_took_no_training_says_nothing_of_convergence():
    def event(kind, step, value):
        return {"event": kind, "step": step, "hypervolume": value, "hypervolume_low": value - 0.01,
                "hypervolume_high": value + 0.01, "members": 2}  # fmt: skip

    events = [event("evaluation", 4, 0.2), event("further", 4, 0.3), event("further", 4, 0.35)]
    told = content._history(events)
    assert told["value"].tolist() == [0.2, 0.35]
    assert "One measurement says nothing of convergence." in told["said"]
    assert told["said"].endswith("With the family's further preferences it came to 0.350.")


def test_an_empty_front_has_a_page(tmp_path):
    record = replace(front_record(2, 2), members=[])
    data = data_of(page_html(record, [], tmp_path))
    assert data["members"] == []
    assert data["noise"] is None
    assert len(data["fallen"]) == 3
