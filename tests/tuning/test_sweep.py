"""Whole sweeps over pretended fits: the best is found, the comparison fair, a kill costs nothing, errors are told."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from pretended import BEST, Pretended, quadratic, seeds_of
from scipy import stats

from pareto_align import ConfigError, FrontFileError, ObjectiveError, TrainingError, tune
from pareto_align.discovery import Settings
from pareto_align.tuning import Comparison, Run
from pareto_align.tuning import search as searching

PROMPTS = ["one", "two"]
LEARNING_RATE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}


@pytest.fixture(params=["optuna", "sobol"])
def engine(request):
    return request.param


def sweep(folder, aligner=None, **options):
    aligner = Pretended() if aligner is None else aligner
    return tune(aligner, PROMPTS, output_dir=folder, **options)


def worth(settings):
    return quadratic(Settings(**settings))


# ---- what it finds ---------------------------------------------------------------------------------------------------


def test_it_finds_better_settings_and_shows_it_on_other_seeds(engine, tmp_path):
    aligner = Pretended()
    result = sweep(tmp_path, aligner, engine=engine, trials=14 if engine == "optuna" else 32, prune=False)
    assert worth(result.best.settings) > worth(result.default.settings) + 0.03
    if engine == "optuna":
        assert worth(result.best.settings) > 0.65  # of 0.7
        assert abs(math.log10(result.best.settings["learning_rate"] / BEST["learning_rate"])) < 0.4
    assert result.engine == engine
    assert result.comparison.verdict == "better"
    truth = worth(result.best.settings) - worth(result.default.settings)
    assert result.comparison.low < truth < result.comparison.high
    assert aligner.settings == Pretended().settings, "the aligner is not changed"
    assert result.default.settings == {"learning_rate": 2e-4, "kl_coef": 0.0, "temperature": 1.0}


def test_every_trial_has_the_tuning_seeds_and_the_comparison_others(tmp_path):
    aligner = Pretended()
    result = sweep(
        tmp_path, aligner, space=LEARNING_RATE, trials=4, seeds=(10, 11), confirm_seeds=(0, 1, 2), engine="sobol"
    )
    assert seeds_of(aligner) == [10, 11] * 4 + [0, 1, 2] * 2
    assert all([run.seed for run in trial.runs] == [10, 11] for trial in result.trials)
    best, default = aligner.fitted[8:11], aligner.fitted[11:]
    assert {s.learning_rate for s, _ in best} == {result.best.settings["learning_rate"]}
    assert {s.learning_rate for s, _ in default} == {2e-4}
    assert result.comparison.seeds == (0, 1, 2)
    assert result.cost == {"runs": 14, "train_tokens": 1400, "eval_tokens": 140, "rollouts": 280, "reward_calls": 840}


def test_a_sweep_in_a_pipe_says_how_far_it_is_on_stderr_only(tmp_path, capsys):
    result = sweep(tmp_path / "told", trials=2, engine="sobol")
    out, err = capsys.readouterr()
    assert out == ""
    best = max(trial.score for trial in result.trials)
    assert err.splitlines()[1] == f"pareto-align: trial 2 of 2: finished, best score {best:.4f}"
    assert len(err.splitlines()) == 2
    sweep(tmp_path / "silent", trials=2, engine="sobol", progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_score_is_the_mean_over_the_seeds_and_the_best_has_the_largest(tmp_path):
    result = sweep(tmp_path, trials=5, engine="sobol")
    for trial in result.trials:
        assert trial.score == pytest.approx(np.mean([run.hypervolume for run in trial.runs]))
    assert result.best is max(result.trials, key=lambda trial: trial.score)


def test_the_interval_is_that_of_the_paired_t_test(tmp_path):
    found = sweep(tmp_path, space=LEARNING_RATE, trials=4, engine="sobol", confirm_seeds=(0, 1, 2, 3)).comparison
    interval = stats.ttest_rel(found.tuned, found.default).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.difference == pytest.approx(np.mean(found.tuned) - np.mean(found.default))
    # what a seed does to both is taken out: the interval is narrower than that of two samples
    apart = stats.ttest_ind(found.tuned, found.default, equal_var=False).confidence_interval(0.95)
    assert found.high - found.low < apart.high - apart.low


def test_noise_alone_is_no_gain(tmp_path):
    """Settings that do nothing: the winner looks better on its own seeds, and hardly ever on others."""
    flattery, better = [], 0
    for number in range(24):
        seeds = range(100 * number + 10, 100 * number + 12)
        result = sweep(
            tmp_path / str(number), Pretended(response=lambda settings: 0.5), engine="sobol", trials=5, seeds=seeds,
            confirm_seeds=range(100 * number, 100 * number + 3), search_seed=number,
        )  # fmt: skip
        flattery.append(result.best.score - result.default.score)
        better += result.comparison is not None and result.comparison.better
    assert np.mean(flattery) > 0.003
    assert better <= 3  # 2.5 % are expected, and 4 of 24 or more have probability 0.003


def test_without_a_gain_the_default_is_kept_and_nothing_is_confirmed(tmp_path):
    aligner = Pretended(learning_rate=1e-3, temperature=0.9)
    result = sweep(tmp_path, aligner, engine="sobol", trials=4)
    assert result.best is result.default
    assert result.comparison is None
    assert set(seeds_of(aligner)) == {10, 11, 12}
    assert "keep those" in result.summary()


def test_best_settings_at_an_end_of_their_range_are_told(tmp_path):
    space = {"learning_rate": {"low": 1e-4, "high": 3e-4, "log": True}, "kl_coef": {"choices": [0.0, 0.1]}}
    result = sweep(tmp_path / "a", space=space, trials=8, engine="optuna", prune=False)
    assert result.at_end == ("learning_rate",)
    assert "At an end of the range, beyond which there may be better: learning_rate" in result.summary()
    result = sweep(tmp_path / "b", space=LEARNING_RATE, trials=8, engine="optuna")
    assert result.at_end == ()
    assert "At an end" not in result.summary()


def test_without_optuna_the_result_says_that_the_search_was_random(monkeypatch, tmp_path):
    monkeypatch.setattr(searching, "find_spec", lambda name: None)
    result = sweep(tmp_path, trials=2)
    assert result.engine == "sobol"
    assert "random search" in result.summary()
    assert "hpo" in result.summary()


# ---- one frame -------------------------------------------------------------------------------------------------------


def test_all_fronts_are_valued_in_the_frame_of_the_first_fit(tmp_path):
    """The frame of an unbounded objective moves with the seed; the score must not move with it."""
    aligner = Pretended(noise=0.0)
    aligner.frame = lambda seed: {10: (0.0, 1.0), 11: (-5.0, 1.0), 12: (0.2, 0.3)}.get(seed, (-1.0, 9.0))
    result = sweep(tmp_path, aligner, trials=2, engine="sobol")
    assert result.frame == {"first": (0.0, 1.0), "second": (0.0, 1.0)}
    for trial in result.trials:
        assert [run.hypervolume for run in trial.runs] == pytest.approx([worth(trial.settings)] * 3)


def test_the_frame_is_known_also_where_the_first_fit_failed(tmp_path):
    aligner = Pretended(noise=0.0, fails=lambda settings: settings.learning_rate == 2e-4)
    aligner.frame = lambda seed: (0.0, 0.5) if seed == 10 else (0.0, 7.0)
    result = sweep(tmp_path, aligner, trials=2, engine="sobol")
    assert result.default.status == "failed"
    assert result.frame["first"] == (0.0, 0.5)
    assert result.best.score == pytest.approx(worth(result.best.settings) * 4)  # half a unit on either axis is 1
    assert result.comparison.verdict == "not shown to be better"
    assert [text[:24] for text in result.comparison.failed] == [f"default settings, seed {s}" for s in (0, 1, 2)]


# ---- trouble ---------------------------------------------------------------------------------------------------------


def test_a_trial_that_fails_says_why_and_the_sweep_goes_on(engine, tmp_path):
    aligner = Pretended(fails=lambda settings: settings.learning_rate > 1.5e-3)
    result = sweep(tmp_path, aligner, space=LEARNING_RATE, trials=8, engine=engine)
    failed = [trial for trial in result.trials if trial.status == "failed"]
    assert failed
    assert all(trial.settings["learning_rate"] > 1.5e-3 and trial.score is None for trial in failed)
    assert all(len(trial.runs) == 1 for trial in failed), "its other seeds are not tried"
    assert failed[0].reason.startswith("seed 10: TrainingError: At step 3")
    assert failed[0].reason in result.summary()
    assert result.best.settings["learning_rate"] <= 1.5e-3
    assert result.comparison.better


def test_tuned_settings_that_fail_on_a_confirm_seed_are_not_better(tmp_path):
    aligner = Pretended(fails=lambda settings: settings.learning_rate != 2e-4 and settings.seed == 1)
    result = sweep(tmp_path, aligner, trials=6, engine="sobol", confirm_seeds=(0, 1, 2, 3))
    assert result.comparison.seeds == (0, 2, 3)
    assert result.comparison.low > 0
    assert result.comparison.verdict == "not shown to be better"
    assert "tuned settings, seed 1: TrainingError" in result.summary()


def test_where_all_trials_fail_the_first_reason_is_told(tmp_path):
    with pytest.raises(TrainingError, match=r"All 3 trials failed\. The first: seed 10: TrainingError"):
        sweep(tmp_path, Pretended(fails=lambda settings: True), trials=3)


def test_what_fails_before_training_is_no_fault_of_the_settings(tmp_path):
    class Broken(Pretended):
        def fit(self, prompts, **more):
            raise ObjectiveError("Objective 'first' returned 3 rewards for 4 completions.")

    with pytest.raises(ObjectiveError, match="3 rewards"):
        sweep(tmp_path, Broken(), trials=3)


def test_a_hopeless_trial_is_stopped_early(tmp_path):
    options = {"space": LEARNING_RATE, "trials": 10, "engine": "optuna"}
    result = sweep(tmp_path / "a", Pretended(), **options)
    pruned = [trial for trial in result.trials if trial.status == "pruned"]
    assert pruned
    assert all(len(trial.runs) < 3 and "below the median" in trial.reason for trial in pruned)
    assert result.best.status == "finished"
    result = sweep(tmp_path / "b", Pretended(), prune=False, **options)
    assert {trial.status for trial in result.trials} == {"finished"}


# ---- going on --------------------------------------------------------------------------------------------------------


def plain(result):
    return {key: value for key, value in result.to_dict().items() if key != "folder"}


def test_a_sweep_that_is_killed_anywhere_goes_on_to_the_same_end(engine, tmp_path):
    options = {"space": LEARNING_RATE, "trials": 4, "seeds": (10, 11), "confirm_seeds": (0, 1), "engine": engine}
    whole = Pretended()
    undisturbed = sweep(tmp_path / "whole", whole, **options)
    for stop in range(len(whole.fitted)):
        aligner = Pretended(stop=stop)
        with pytest.raises(KeyboardInterrupt) as error:
            sweep(tmp_path / str(stop), aligner, **options)
        assert "goes on" in error.value.__notes__[-1]
        rest = Pretended()
        assert plain(sweep(tmp_path / str(stop), rest, **options)) == plain(undisturbed)
        assert aligner.fitted + rest.fitted == whole.fitted, "nothing is fitted twice"


def test_a_sweep_that_has_ended_is_read(engine, tmp_path):
    first = sweep(tmp_path, trials=3, engine=engine)
    again = Pretended(stop=0)
    assert plain(sweep(tmp_path, again, trials=3, engine=engine)) == plain(first)
    assert json.loads((tmp_path / "result.json").read_text()) == first.to_dict()


def test_a_sweep_can_grow_with_new_confirm_seeds_only(engine, tmp_path):
    options = {"space": LEARNING_RATE, "engine": engine}
    sweep(tmp_path / "one", trials=4, **options)
    with pytest.raises(ConfigError, match="looked at on the seeds 0, 1, 2"):
        sweep(tmp_path / "one", trials=6, **options)
    with pytest.raises(ConfigError, match="looked at on the seeds 2"):
        sweep(tmp_path / "one", trials=4, confirm_seeds=(2, 3), **options)
    aligner = Pretended()
    grown = sweep(tmp_path / "one", aligner, trials=6, confirm_seeds=(3, 4), **options)
    assert plain(grown) == plain(sweep(tmp_path / "new", trials=6, confirm_seeds=(3, 4), **options))
    assert seeds_of(aligner)[-4:] == [3, 4, 3, 4]
    assert not {0, 1, 2} & set(seeds_of(aligner))
    with pytest.raises(ConfigError, match="holds a sweep of 6 trials"):
        sweep(tmp_path / "one", trials=5, confirm_seeds=(3, 4), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": (10,)}, r"seeds was \[10, 11, 12\], is \[10\]"),
        ({"space": LEARNING_RATE}, "space was"),
        ({"engine": "optuna"}, "engine was 'sobol', is 'optuna'"),
        ({"search_seed": 1}, "search_seed was 0, is 1"),
        ({"aligner": Pretended(steps=7)}, "settings was"),
        ({"aligner": Pretended(weighting="fixed")}, "weighting was 'steady-chebyshev', is 'fixed'"),
        ({"eval_prompts": ["three", "four"]}, "prompts was"),
    ],
)
def test_another_sweep_in_the_folder_is_refused(tmp_path, change, message):
    sweep(tmp_path, trials=2, engine="sobol")
    with pytest.raises(ConfigError, match=message):
        sweep(tmp_path, **{"trials": 2, "engine": "sobol", **change})
    assert sweep(tmp_path, Pretended(seed=5), trials=2, engine="sobol"), "the aligner's own seed is not used"


def test_a_sweep_goes_on_with_the_engine_it_had(monkeypatch, tmp_path):
    with monkeypatch.context() as without:
        without.setattr(searching, "find_spec", lambda name: None)
        assert sweep(tmp_path, trials=2).engine == "sobol"
    assert sweep(tmp_path, trials=2).engine == "sobol"


def test_a_damaged_file_and_a_folder_of_a_run_are_refused_by_name(tmp_path):
    sweep(tmp_path / "sweep", trials=2)
    file = tmp_path / "sweep" / "trials" / "001" / "trial.json"
    for text in ("{", "[]", "{}"):
        file.write_text(text)
        with pytest.raises(FrontFileError, match=r"trial\.json"):
            sweep(tmp_path / "sweep", trials=2)
    with pytest.raises(FrontFileError, match="holds a run, no sweep"):
        sweep(tmp_path / "sweep" / "trials" / "000" / "seed_10", trials=2)
    (tmp_path / "file").write_text("")
    with pytest.raises(FrontFileError, match="cannot be made"):
        sweep(tmp_path / "file", trials=2)


def test_two_processes_do_not_tune_in_one_folder(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(FrontFileError, match="Another process"):
        sweep(tmp_path, trials=2)


# ---- wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 1}, "at least 2"),
        ({"trials": 2.0}, "at least 2"),
        ({"seeds": ()}, "`seeds` must be one or more"),
        ({"seeds": (10, 10)}, "`seeds` must be one or more different"),
        ({"seeds": 10}, "`seeds` must be"),
        ({"seeds": "10"}, "`seeds` must be"),
        ({"seeds": [True]}, "`seeds` must be"),
        ({"confirm_seeds": []}, "`confirm_seeds` must be"),
        ({"confirm_seeds": (0, 11, 12)}, "none in common: .* Found 11, 12 in both"),
        ({"engine": "hyperband"}, "`engine` must be one of"),
        ({"prune": "no"}, "`prune` must be"),
        ({"search_seed": -1}, "`search_seed` must be"),
        ({"space": {}}, "at least one setting"),
        ({"space": {"steps": {"low": 1, "high": 9}}}, "'steps' cannot be tuned"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, options, message):
    aligner = Pretended()
    with pytest.raises(ConfigError, match=message):
        sweep(tmp_path / "sweep", aligner, **options)
    assert aligner.fitted == []
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_has_a_folder_of_its_own_where_none_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = [tune(Pretended(), PROMPTS, trials=2).folder.as_posix() for _ in range(2)]
    assert places == ["pareto_sweeps/001", "pareto_sweeps/002"]
    assert tune(Pretended(output_dir="mine"), PROMPTS, trials=2).folder.as_posix() == "mine"


# ---- the comparison by itself ----------------------------------------------------------------------------------------


def runs(*values):
    return [Run(seed, value, error=None if value is not None else "it broke") for seed, value in enumerate(values)]


def test_the_verdicts():
    assert Comparison.of(runs(0.6, 0.7, 0.8), runs(0.5, 0.6, 0.71)).verdict == "better"
    assert Comparison.of(runs(0.5, 0.6, 0.71), runs(0.6, 0.7, 0.8)).verdict == "worse"
    assert Comparison.of(runs(0.6, 0.4, 0.8), runs(0.5, 0.6, 0.7)).verdict == "not shown to be better"


def test_one_pair_has_no_interval_and_none_no_difference():
    one = Comparison.of(runs(0.9), runs(0.1))
    assert (one.difference, one.low, one.high, one.better) == (pytest.approx(0.8), None, None, False)
    assert "says nothing of the noise" in str(one)
    none = Comparison.of(runs(None), runs(0.1))
    assert none.difference is None
    assert none.failed == ("tuned settings, seed 0: it broke",)
    json.dumps(none.to_dict(), allow_nan=False)


def test_pairs_without_any_noise_have_an_interval_of_one_point():
    same = Comparison.of(runs(0.75, 0.75), runs(0.5, 0.5))
    assert (same.low, same.high, same.verdict) == (0.25, 0.25, "better")
    assert Comparison.of(runs(0.5, 0.5), runs(0.5, 0.5)).verdict == "not shown to be better"
