"""Looking at a finished front: the table, choosing, figures, export."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pareto_align.cli.output import print_json
from pareto_align.result import ParetoFront

# ---- front -----------------------------------------------------------------------------------------------------------


def test_front_prints_the_table_and_where_things_are(cli, run):
    found = cli("front", run)
    assert found.code == 0
    assert found.err == ""
    assert found.out.startswith(str(ParetoFront.load(run)))
    assert "hypervolume 0." in found.out
    assert "95 % interval" in found.out
    assert str(run / "front" / "members") in found.out
    assert str(run / "journal.jsonl") in found.out


def test_front_as_json_is_in_the_users_units(cli, run):
    found = cli("front", run, "--json").json()
    assert [member["id"] for member in found["members"]] == ["a", "b", "c"]
    assert found["members"][0]["values"] == {"tone": 0.8, "length": 60.0, "toxicity": 0.02}
    assert found["members"][0]["preference"] == {"tone": 1.0, "length": 0.0}
    assert found["untrained"]["values"] == {"tone": 0.2, "length": 80.0, "toxicity": 0.1}
    spread = ParetoFront.load(run).record.reference_policy.stderr
    assert list(found["untrained"]["stderr"].values()) == pytest.approx(spread)
    volume = found["hypervolume"]
    assert volume["low"] <= volume["value"] <= volume["high"]
    assert volume["value"] == pytest.approx(ParetoFront.load(run).hypervolume())
    assert found["front"] == str(run / "front")
    assert [o["maximize"] for o in found["objectives"]] == [True, False, False]


def test_the_front_folder_is_as_good_as_the_run(cli, run):
    found, other = cli("front", run / "front", "--json").json(), cli("front", run, "--json").json()
    assert found["members"] == other["members"]


def test_a_damaged_member_is_named_and_the_rest_is_shown(cli, run):
    (run / "front" / "members" / "b" / "adapter_model.safetensors").write_bytes(b"other")
    found = cli("front", run, "--json")
    assert found.code == 0
    assert [member["id"] for member in found.json()["members"]] == ["a", "c"]
    assert len(found.json()["problems"]) == 1
    assert re.fullmatch(r"warning: Member 'b' was left out: .*\n", found.err)


def test_numbers_that_are_not_finite_become_null(capsys):
    print_json({"a": [float("nan"), float("inf"), 1.5], "b": (Path("x"), None)})
    assert json.loads(capsys.readouterr().out) == {"a": [None, None, 1.5], "b": ["x", None]}


# ---- plot: formats, numbers, styles ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_figures_in_every_format_say_what_is_seen_and_have_no_clock(cli, run, tmp_path, kind, begins):
    files = [tmp_path / name / f"front.{kind}" for name in "ab"]
    for file in files:
        assert cli("plot", run, "--out", file.parent, "--format", kind).out == f"{file}\n"
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes().startswith(begins)
    if kind != "pdf":
        assert b"3 adapters on tone / length" in files[0].read_bytes()


def test_the_numbers_of_a_figure_lie_beside_it(cli, run, tmp_path):
    found = cli("plot", run, "--kind", "all", "--out", tmp_path, "--data", "--style", "dark", "--json").json()
    assert set(found) == {"front", "history", "weights", "tradeoff", "data"}
    lines = Path(found["data"]["front"]).read_text().splitlines()
    assert lines[0] == "what,id,objective,mean,low,high,preference,limit"
    assert lines[1].startswith("member,a,tone,0.8,")


def test_a_pair_to_trade_and_options_of_other_figures(cli, run, tmp_path):
    options = ["--kind", "tradeoff", "--gain", "length", "--cost", "tone", "--data", "--out", tmp_path]
    assert cli("plot", run, *options).code == 0
    assert (tmp_path / "tradeoff.csv").read_text().splitlines()[1].startswith("length,tone,")
    found = cli("plot", run, "--gain", "length")
    assert (found.code, "--gain is for --kind tradeoff" in found.err) == (2, True)
    assert "three objectives or more" in cli("plot", run, "--kind", "prices").err
    assert "no history to audit" in cli("plot", run, "--kind", "audit").err
    assert "no member 'z'" in cli("plot", run, "--highlight", "z").err


# ---- select ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "member"),
    [
        (["--prefer", "tone=1"], "a"),
        (["--prefer", "length=1"], "c"),
        (["--prefer", "tone=0.45", "length=0.55", "--rule", "chebyshev"], "b"),
        (["--prefer", "tone=1", "--at-most", "length=40"], "b"),
        (["--prefer", "length=1", "--at-least", "tone=0.7"], "a"),
        (["--prefer", "length=1", "--at-least", "tone=0.5", "--at-most", "toxicity=0.5"], "b"),
        (["--at-most", "length=20"], "c"),
        (["--prefer", "tone=2", "--prefer", "length=0"], "a"),
    ],
)
def test_select_chooses(cli, run, arguments, member):
    found = cli("select", run, *arguments, "--json")
    assert found.code == 0, found.err
    assert found.json()["member"] == member
    assert Path(found.json()["adapter_path"]).is_dir()


def test_select_says_how_sure_it_is(cli, run):
    front = ParetoFront.load(run)
    choice = front.select({"tone": 0.7, "length": 0.3})
    found = cli("select", run, "--prefer", "tone=0.7", "length=0.3", "--json").json()
    assert found["regret"] == pytest.approx(choice.regret)
    assert found["probability_best"] == pytest.approx(choice.probability_best)
    assert found["runner_up"] == choice.runner_up.id
    assert found["reason"] == choice.reason
    assert found["feasible"] is True
    text = cli("select", run, "--prefer", "tone=0.7", "length=0.3").out
    assert choice.reason in text
    assert f"Runner-up:        {choice.runner_up.id}\n" in text
    assert f"Probability best: {choice.probability_best:.2f}\n" in text
    assert f"Regret:           {choice.regret:.4f} " in text
    assert text.endswith(f"Adapter:          {choice.adapter_path}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prefer", "tune=1"], "'tone'"),
        (["--prefer", "tone=0"], "zero"),
        (["--prefer", "tone=-1"], "negative"),
        (["--at-least", "length=1"], "limit it with `at_most`"),
        (["--at-least", "tone=0.99"], "No member keeps tone at least 0.99. The nearest is a"),
        (["--at-least", "tnoe=1"], "Did you mean 'tone'"),
    ],
)
def test_requests_that_cannot_be_served(cli, run, arguments, message):
    found = cli("select", run, *arguments)
    assert found.code == 2
    assert found.out == ""
    assert found.err.startswith("error: ")
    assert message in found.err


# ---- plot ------------------------------------------------------------------------------------------------------------


def pictures(folder):
    return sorted(file.name for file in folder.glob("*.png"))


def test_plot_draws_the_front_into_the_run(cli, run):
    found = cli("plot", run)
    assert found.out == f"{run / 'front.png'}\n"
    assert pictures(run) == ["front.png"]
    assert (run / "front.png").read_bytes().startswith(b"\x89PNG")


def test_plot_draws_all_kinds_where_it_is_told(cli, run, tmp_path):
    out = tmp_path / "figures" / "mine"
    found = cli("plot", run, "--kind", "all", "--out", out, "--json")
    assert found.code == 0, found.err
    assert found.json() == {kind: str(out / f"{kind}.png") for kind in ("front", "history", "weights", "tradeoff")}
    assert pictures(out) == ["front.png", "history.png", "tradeoff.png", "weights.png"]
    assert pictures(run) == []


def test_plot_all_passes_over_what_a_front_without_its_run_cannot_show(cli, run, tmp_path):
    ParetoFront.load(run).save(tmp_path / "alone")
    (tmp_path / "alone" / "journal.jsonl").unlink()
    assert cli("plot", tmp_path / "alone", "--kind", "all", "--json").json().keys() == {"front", "tradeoff"}
    found = cli("plot", tmp_path / "alone", "--kind", "history")
    assert found.code == 2
    assert "no training history" in found.err


def test_plot_into_a_place_that_is_no_folder(cli, run, tmp_path):
    (tmp_path / "file").touch()
    found = cli("plot", run, "--out", tmp_path / "file")
    assert found.code == 2
    assert found.err.startswith("error: Cannot write figures to")


# ---- export ----------------------------------------------------------------------------------------------------------


def test_export_copies_the_adapters(cli, run, tmp_path):
    found = cli("export", run, "--out", tmp_path / "served", "--json").json()
    assert found["folder"] == str(tmp_path / "served")
    assert set(found["adapters"]) == {"a", "b", "c"}
    for member, folder in found["adapters"].items():
        assert (Path(folder) / "adapter_model.safetensors").read_text() == member
    assert not (tmp_path / "served" / "lora_modules.json").exists()


def test_export_for_vllm(cli, run, tmp_path):
    found = cli("export", run, "--out", tmp_path / "served", "--format", "vllm")
    assert found.out.startswith(f"3 adapters in {tmp_path / 'served'}\n")
    modules = json.loads((tmp_path / "served" / "lora_modules.json").read_text())
    assert [module["name"] for module in modules] == ["a", "b", "c"]


def test_export_refuses_a_folder_with_something_in_it(cli, run):
    found = cli("export", run, "--out", run)
    assert found.code == 2
    assert "Export into a new or empty folder" in found.err


def test_all_lists_what_did_not_stay_and_why(cli, run):
    data = json.loads((run / "front" / "front.json").read_text())
    told = "Objective 2 has mean -0.3, below its bound -0.1."
    data["fallen"] = [{"id": "p9", "values": [0.9, 20, 0.3], "status": "infeasible", "reason": told, "split": "report"}]
    del data["sha256"]
    (run / "front" / "front.json").write_text(json.dumps(data))
    text = cli("front", run, "--all").out
    told = "p9  tone 0.900, length 20.0, toxicity 0.300  infeasible: 'toxicity' has mean 0.3, above"
    assert f"Not kept, measured on the report prompts:\n{told}" in text
    (row,) = cli("front", run, "--all", "--json").json()["fallen"]
    assert (row["objective"], row["value"], row["bound"]) == ("toxicity", 0.3, 0.1)
    assert "fallen" not in cli("front", run, "--json").json()
    assert "Not kept" not in cli("front", run).out
