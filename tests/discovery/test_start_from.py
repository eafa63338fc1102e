"""Runs that begin as something: an adapter, what another front holds, a family that was trained before."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from aligner_runs import PROBLEM, contents, events, fit, lora, make
from symbol_family import Symbols, passing_lines

from pareto_align import ConfigError, FrontFileError, Objective, ParetoAlignWarning, ParetoFront
from pareto_align.config import load_config
from pareto_align.policies.population import PolicyPopulation

SHORT = {"steps": 2, "eval_every": 1}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("family") / "run", family="gates", **SHORT)[0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("alone") / "run", **SHORT)[0]


def begun(start, **settings):
    """The loop of a run before its first step, with its population and family."""
    settings = {"family": None, "lora": None, **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        return make(start_from=start, **settings).by_hand(list(PROBLEM.prompts))


def test_a_slot_begins_as_the_member_that_serves_its_preference(alone):
    with begun(alone) as loop:
        assert loop.family is None
        for slot, (a, b) in enumerate(loop.grid):
            wanted = loop.population.read_adapter(alone.select({"r1": a, "r2": b}).adapter_path)
            torch.testing.assert_close(loop.population.parameters[slot], wanted, rtol=0, atol=0)
        assert loop.population.lora.r == 2  # the front's, of what nothing was said


def test_independent_policies_begin_as_a_familys_rows(family):
    with begun(family, family="independent") as loop:
        assert loop.population.lora.r == 2 * (1 + len(loop.grid[0]))
        for slot, preference in enumerate(loop.grid):
            wanted = loop.population.read_adapter(family.at(preference).adapter_path)
            torch.testing.assert_close(loop.population.parameters[slot], wanted, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["gates", "pblora"])
def test_a_family_goes_on_where_it_was(kind, family, tmp_path):
    front = family if kind == "gates" else fit(tmp_path / "run", family=kind, **SHORT)[0]
    with begun(front) as loop:
        assert loop.family.name == kind
        asked = [0.3, 0.7]
        wanted = loop.population.read_adapter(front.at(asked).adapter_path)
        torch.testing.assert_close(loop.family.rows([asked])[0], wanted, rtol=0, atol=1e-7)
        torch.testing.assert_close(loop.population.parameters, loop.family.rows(loop.slots.preferences))
        assert loop.slots.recovery.good.shape == loop.family.parameters.shape
        torch.testing.assert_close(loop.slots.recovery.good, loop.family.parameters)


def test_ranks_of_its_own_are_not_taken_for_those_of_a_block(tmp_path):
    kind = {"name": "gates", "shared": 1, "each": 3}
    front, _ = fit(tmp_path / "run", family=kind, lora=lora(r=4, lora_alpha=8), **SHORT)
    with begun(front) as loop:
        assert loop.family.ranks == (1, 3)
        wanted = loop.population.read_adapter(front.at([1, 0]).adapter_path)
        torch.testing.assert_close(loop.family.rows([[1.0, 0.0]])[0], wanted, rtol=0, atol=1e-7)


def test_a_family_that_shares_no_ranks_goes_on(tmp_path):
    """`r` carries nothing but the scale there, and 0 of it would be none."""
    front, _ = fit(tmp_path / "run", family={"name": "gates", "shared": 0, "each": 2}, **SHORT)
    with begun(front) as loop:
        assert loop.family.ranks == (0, 2)
        wanted = loop.population.read_adapter(front.at([0.2, 0.8]).adapter_path)
        torch.testing.assert_close(loop.family.rows([[0.2, 0.8]])[0], wanted, rtol=0, atol=1e-7)


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_measured(alone, monkeypatch):
    from pareto_align.evaluation.answers import Evaluator

    monkeypatch.setattr(Evaluator, "measure_reference", lambda *args, **kw: pytest.fail("measured"))
    with pytest.raises(FrontFileError, match="Take LoraConfig"), begun(alone, lora=lora(r=1, lora_alpha=2)):
        pass


def test_all_begin_as_one_adapter(alone):
    with begun(str(alone[0].adapter_path)) as loop:
        wanted = loop.population.read_adapter(alone[0].adapter_path)
        for policy in loop.population.parameters:
            torch.testing.assert_close(policy, wanted, rtol=0, atol=0)


def test_further_ranks_say_nothing_yet_and_learn(alone):
    """A of theirs is random and B zero, so the update of every layer is the adapter's own."""
    with begun(alone[0].adapter_path, lora=lora(r=5, lora_alpha=10)) as loop:
        population: PolicyPopulation = loop.population
        wanted = population.read_adapter(alone[0].adapter_path)
        for block in population.blocks:
            (a, b), (a0, b0) = block.split(population.parameters[0]), block.split(wanted)
            torch.testing.assert_close(b @ a, b0 @ a0)
            assert (a[2:].abs().sum(-1) > 0).all()
            assert not b[:, 2:].any()


def test_what_a_run_began_as_is_measured_first_and_stays_on_the_front(family, tmp_path):
    """One step at a rate that ruins every policy: what was there before is what the front has."""
    warmed, _ = fit(tmp_path / "warm", family="gates", lora=lora(r=4, lora_alpha=8), steps=30, eval_every=10)
    front, _ = fit(
        tmp_path / "run", start_from=warmed, lora=None, family="independent", steps=1, eval_every=1, learning_rate=50.0,
        max_grad_norm=None,
    )  # fmt: skip
    first, second = events(tmp_path / "run", "evaluation")
    assert (first["step"], second["step"]) == (0, 1)
    assert len(first["values"]) == 3
    assert front.record.members
    assert 0 in {member.provenance["step"] for member in front.record.members}
    assert front.hypervolume() > 0.5 * warmed.hypervolume() > 0


@pytest.mark.parametrize(
    ("start", "kind", "told"),
    [
        (lambda family, alone: family.path, "family", "the family of another front"),
        (lambda family, alone: alone, "members", "members of another front"),
        (lambda family, alone: alone[0].adapter_path, "adapter", "another adapter"),
    ],
)
def test_a_front_says_what_its_run_began_as_and_not_where_that_lay(start, kind, told, family, alone, tmp_path):
    settings = {"family": "independent"} if kind == "adapter" else {"family": None}
    front, _ = fit(tmp_path / "run", start_from=start(family, alone), lora=None, **settings, **SHORT)
    known = json.loads((tmp_path / "run" / "run.json").read_text())["start"]
    assert front.record.config["start_from"] == {"kind": kind, "digest": known["digest"]}
    written = (front.folder / "front.json").read_text()
    assert known["folder"] not in written
    sentence = f"Training began from {told} (digest `{known['digest']}`), not from the untrained model."
    cards = [front.card(), *((member.adapter_path / "README.md").read_text() for member in front)]
    if kind == "family":
        cards.append((front.at([0.5, 0.5]).save(tmp_path / "at") / "README.md").read_text())
    assert len(cards) >= 2
    assert all(sentence in card for card in cards)
    assert "Training began" not in family.card()


@pytest.mark.parametrize("place", [("start", None), ("evaluation", 0), ("step", 1)])
@pytest.mark.parametrize("kind", ["independent", "gates"])
def test_killed_before_its_first_step_or_after_it_resumes_to_the_same_front(kind, place, family, tmp_path):
    settings = {"start_from": family.path, "family": kind, "lora": None, **SHORT}
    whole, run = tmp_path / "whole", tmp_path / "run"

    def stop(event):
        if (event["event"], event.get("step")) == place:
            raise RuntimeError("enough")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        make(output_dir=whole, **settings).fit(list(PROBLEM.prompts))
        with pytest.raises(RuntimeError, match="enough"):
            make(output_dir=run, callbacks=[stop], **settings).fit(list(PROBLEM.prompts))
        alone = {**settings, "start_from": None, "lora": make(**settings)._plan().lora}
        if place[0] == "start":  # its policies have still to begin as something
            with pytest.raises(ConfigError, match=r"start_from was '[0-9a-f]{16}', is None"):
                make(**alone).resume(run)
        make(**(settings if place[0] == "start" else alone)).resume(run)
    assert contents(run) == contents(whole)


def test_a_front_that_was_moved_is_the_same_and_another_is_not(alone, family, tmp_path):
    shutil.copytree(alone.folder, tmp_path / "moved")
    run = tmp_path / "run"

    def stop(event):
        if event["event"] == "start":
            raise RuntimeError("enough")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        with pytest.raises(RuntimeError, match="enough"):
            make(output_dir=run, callbacks=[stop], start_from=alone, lora=None, **SHORT).fit(list(PROBLEM.prompts))
        with pytest.raises(ConfigError, match="start_from was"):
            make(start_from=family, family="independent", lora=lora(), **SHORT).resume(run)
        make(start_from=tmp_path / "moved", lora=None, **SHORT).resume(run)
    record = json.loads((run / "run.json").read_text())
    assert record["start"]["folder"] == str(alone.folder.absolute())


def test_a_config_names_it_relative_to_where_one_is(base_folder, adapter_folders, tmp_path, monkeypatch):
    (tmp_path / "fit.yaml").write_text(
        f"model: {base_folder}\nprompts: [hello]\nobjectives: [{{name: r1, reward: pareto_align.objectives.brevity}}]\n"
        "start_from: adapters/a\n"
    )
    (tmp_path / "adapters").mkdir()
    shutil.copytree(adapter_folders["a"], tmp_path / "adapters" / "a")
    monkeypatch.chdir(tmp_path)
    config = load_config(tmp_path / "fit.yaml")
    assert config.aligner.start.folder == tmp_path / "adapters" / "a"
    assert config.aligner.origin["config"]["start_from"] == str(tmp_path / "adapters" / "a")
    assert f"start_from='{tmp_path}/adapters/a'" in repr(config.aligner)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"start_from": "nowhere"}, "There is no .*nowhere"),
        ({"start_from": 3}, "`start_from` must be a path"),
        ({"family": "gates"}, "holds independent policies. Leave `family` out"),
    ],
)
def test_what_cannot_be_begun_from_is_refused_before_anything_is_loaded(settings, told, alone, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=told):
        make(**{"start_from": alone, "lora": None, **SHORT, **settings})._plan()


def test_another_family_other_ranks_or_other_objectives_are_refused(family, alone):
    for settings, told in (
        ({"family": "blocks"}, "Found 'blocks'"),
        ({"family": None, "lora": lora(r=3)}, r"Found 'gates' .* and \(3, 3\)"),
    ):
        with pytest.raises(ConfigError, match=told):
            make(**{"start_from": family, "lora": None, **settings})._plan()
    other = [Objective("kind", lambda completions: [0.0] * len(completions)), PROBLEM.objectives()[0]]
    with pytest.raises(ConfigError, match="It trades r1, r2; the run, kind, r1"):
        make(other, start_from=alone, lora=None)._plan()


def test_an_empty_folder_or_front_is_no_beginning(alone, tmp_path):
    with pytest.raises(FrontFileError):
        make(start_from=tmp_path)
    empty = ParetoFront.load(alone.folder)
    empty.record.members.clear()
    with pytest.raises(ConfigError, match="no member"):
        make(start_from=ParetoFront(empty.record, alone.folder))


def test_policies_that_are_told_their_preference_are_no_beginning_for_those_that_are_not(tmp_path):
    tokenizer = passing_lines(PROBLEM.tokenizer())
    front, _ = fit(tmp_path / "run", family=Symbols(), tokenizer=tokenizer, lora=lora(), **SHORT)
    with pytest.raises(ConfigError, match="told their preference in the prompt"):
        make(start_from=front, family="independent", lora=None)._plan()


def test_a_larger_adapter_than_the_run_has_room_for_says_which_rank(alone):
    with pytest.raises(FrontFileError, match=r"Take LoraConfig\(r=2\)"), begun(alone, lora=lora(r=1, lora_alpha=2)):
        pass


def test_a_budget_that_the_first_measuring_uses_up_pays_for_no_step(family, tmp_path):
    settings = {"family": None, "lora": None, "steps": 4, "eval_every": 2, "max_tokens": 40, "eval_group_size": 32}
    fit(tmp_path / "run", start_from=family, **settings)
    assert not events(tmp_path / "run", "step")
    assert [event["step"] for event in events(tmp_path / "run", "evaluation")] == [0]


def test_by_hand_it_is_measured_first_as_well(alone):
    with begun(alone) as loop:
        loop.tell(loop.ask())
        assert [entry.origin.step for entry in loop.keeper.archive.entries.values()][:3] == [0, 0, 0]


def test_what_is_damaged_is_no_beginning(family, tmp_path):
    """Without its family the folder would be taken for one of independent policies."""
    shutil.copytree(family.folder, tmp_path / "front")
    next((tmp_path / "front" / "family").glob("*/family.safetensors")).unlink()
    with pytest.warns(ParetoAlignWarning), pytest.raises(FrontFileError, match="The family was left out"):
        make(start_from=tmp_path / "front", lora=None)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no adapter_model\.safetensors beside it"):
        make(start_from=tmp_path / "adapter")


def test_an_objective_that_was_turned_round_is_another_one(alone):
    first, second = PROBLEM.objectives()
    turned = Objective(first.name, first.reward, bounds=first.bounds, maximize=False)
    with pytest.raises(ConfigError, match=r"It trades r1, r2; the run, r1 \(less is better\), r2"):
        make([turned, second], start_from=alone, lora=None)._plan()


def test_held_out_prompts_that_were_trained_on_before_are_said(alone, tmp_path):
    many = [f"{PROBLEM.prompts[0]}{'abcdef'[n % 6]}{'abcdef'[n // 6]}" for n in range(18)]
    rewards = [
        Objective("r1", lambda completions: [float("a" in text) for text in completions], bounds=(0, 1)),
        Objective("r2", lambda completions: [float("b" in text) for text in completions], bounds=(0, 1)),
    ]
    settings = {"objectives": rewards, "eval_prompts": 4, **SHORT}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        before = make(output_dir=tmp_path / "before", **settings).fit(many)
    aligner = make(output_dir=tmp_path / "other", start_from=before, lora=None, seed=1, **settings)
    with pytest.warns(ParetoAlignWarning, match="held-out prompts were training prompts of the run that is begun from"):
        aligner.fit(many)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        make(output_dir=tmp_path / "same", start_from=before, lora=None, **settings).fit(many)
    assert not [one for one in told if "training prompts of the run" in str(one.message)]


def test_adapters_of_another_model_are_said(adapter_folders, base_folder):
    with pytest.warns(ParetoAlignWarning, match="was trained on"):
        make(model="some/other", tokenizer=str(base_folder), start_from=adapter_folders["a"], lora=None)._plan()
