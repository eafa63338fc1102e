"""Rewards with adapters of their own: the gradient is PEFT's, the scores are PEFT's with a head, and what no head on
the frozen model can express is learned."""

from __future__ import annotations

import gc
import warnings
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from tiny_models import SYMBOLS, as_peft, lora, random_population, relative_error, tiny_base, tiny_model

from pareto_align import ParetoAligner, ParetoAlignWarning
from pareto_align.data.comparison_rows import encode_comparisons
from pareto_align.data.comparisons import Comparisons
from pareto_align.errors import ConfigError, FrontFileError, ModelError
from pareto_align.learning import reward_models
from pareto_align.learning.rewards import fit_rewards, judged_rows, load_rewards
from pareto_align.objectives.learned import bradley_terry, fit_scores
from pareto_align.policies.engine import Engine
from pareto_align.policies.readers import Readers
from pareto_align.policies.states import end_states

LETTERS = "abcdefghijkl"[:SYMBOLS]
SMALL = {"lora": lora(), "passes": 2, "learning_rate": 5e-3}
ASKED, SAID = ["<0>ab", "<1>c", "<1>c"], ["abl", "a", "kkb"]


def late(answer):
    """How late in the alphabet the letters are, 0 to 1."""
    return float(np.mean([LETTERS.index(letter) for letter in answer])) / (SYMBOLS - 1)


def pairs(count=600, seed=0):
    """What is wanted turns with the prompt's number, which "late" does not look at: it is a product of what the prompt
    says and what the answer says, and all prompts alike, a linear head sees their sum."""
    rng, rows = np.random.default_rng(seed), []
    for n in range(count):
        prompt = f"<{n % 4}>" + "".join(rng.choice(list(LETTERS), 3))
        first, second = ("".join(rng.choice(list(LETTERS), 3)) for _ in range(2))
        later = late(second) - late(first)
        if later:
            turned = later if n % 2 else -later
            rows.append({"prompt": prompt, "response_0": first, "response_1": second, "turns": int(turned > 0),
                         "late": int(later > 0)})  # fmt: skip
    return Comparisons.from_rows(rows, labels=["turns", "late"])


def rated(count=12):
    """Ratings of three answers a prompt; some of the second aspect are missing."""
    rng = np.random.default_rng(3)
    said = [["".join(rng.choice(list(LETTERS), 1 + (n + g) % 4)) for g in range(3)] for n in range(count)]
    ratings = [[5 * late(one) for one in group] for group in said]
    lengths = [
        [float(len(one)) if (n + g) % 3 else None for g, one in enumerate(group)] for n, group in enumerate(said)
    ]
    prompts = [f"<{n % 4}>" + "".join(rng.choice(list(LETTERS), 1 + n % 6)) for n in range(count)]
    return Comparisons.from_ratings(prompts, said, {"late": ratings, "long": lengths})


def changed(rewards):
    """The same with adapters that change what is read, whether training has kept any or not."""
    parameters = rewards.readers.population.parameters
    parameters.copy_(0.2 * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(2)))
    return rewards


# ---- what is learned -------------------------------------------------------------------------------------------------


def test_an_adapter_learns_what_no_head_on_the_frozen_model_can():
    base, data = tiny_base(), pairs()
    judged = judged_rows(base, encode_comparisons(data, base)[0], data.names)
    first, second = judged.sides()
    x = (first - second) / judged.features.std(0)
    fitted = x @ bradley_terry(x, judged.labels[:, 0], penalty=1e-6) > 0  # even to what it is tested on
    assert np.mean(fitted == judged.labels[:, 0]) < 0.62

    heads = fit_rewards(base, data)
    adapted = fit_rewards(base, data, lora=lora(), passes=6, learning_rate=1e-2, prompts_per_step=8)
    assert heads.report[0].accuracy < 0.6
    assert adapted.report[0].accuracy > 0.78
    assert adapted.report[0].cross_entropy < heads.report[0].cross_entropy - 0.2
    assert adapted.report[0].error < 0.15  # calibrated
    assert adapted.report[1].accuracy > heads.report[1].accuracy + 0.1  # both were learned in one run
    assert adapted.report[0].n == heads.report[0].n  # on the same prompts
    found = np.array(adapted["turns"](prompts=["<1>ab", "<1>ab", "<2>ab", "<2>ab"], completions=["aab", "lkl"] * 2))
    assert found[1] > found[0]
    assert found[2] > found[3]


def test_where_labels_are_noise_the_heads_stay_as_they_were():
    """What is learned of noise explains nothing on other prompts, and is not kept."""
    base, rng = tiny_base(), np.random.default_rng(1)
    rows = [
        {"prompt": f"<{n % 4}>{LETTERS[n % 11]}{LETTERS[n % 7]}", "response_0": LETTERS[n % 5] + "a",
         "response_1": LETTERS[n % 12] + "bc", "noise": int(rng.integers(2))}
        for n in range(300)
    ]  # fmt: skip
    data = Comparisons.from_rows(rows, labels=["noise"])
    heads = fit_rewards(base, data)
    adapted = fit_rewards(base, data, lora=lora(), passes=3, learning_rate=2e-2)
    assert adapted.report[0].cross_entropy == pytest.approx(heads.report[0].cross_entropy, abs=1e-5)
    np.testing.assert_allclose(adapted.judge(ASKED, SAID), heads.judge(ASKED, SAID), atol=1e-4)


def test_ratings_are_learned_in_their_own_unit():
    base, data = tiny_base(), rated(160)
    heads = fit_rewards(base, data, kind="regression")
    adapted = fit_rewards(base, data, kind="regression", lora=lora(), passes=6, learning_rate=1e-2)
    for ours, theirs in zip(adapted.report, heads.report, strict=True):
        assert ours.accuracy > theirs.accuracy + 0.1  # R squared
        assert np.isnan(ours.error)


# ---- the numbers are PEFT's ------------------------------------------------------------------------------------------


def peft_states(model, prompts, completions):
    """States at the last tokens, each row by itself."""
    found = []
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.tensor([[*prompt, *completion]])
        found.append(model.base_model.model.model(input_ids=ids).last_hidden_state[0, -1])
    return torch.stack(found)


def test_scores_are_those_of_stock_peft_with_a_linear_head(tmp_path):
    base = tiny_base()
    rewards = changed(fit_rewards(base, pairs(120), **SMALL))
    found = rewards.judge(ASKED, SAID)
    rewards.save(tmp_path)
    stop = base.tokenizer.eos_token_id
    prompts = [base.encode(text) for text in ASKED]
    said = [[*base.tokenizer.encode(text, add_special_tokens=False), stop] for text in SAID]
    for place in range(2):
        model = PeftModel.from_pretrained(tiny_model(), str(tmp_path / f"adapter-{place + 1}"))
        with torch.no_grad():
            states = peft_states(model, prompts, said).double().numpy()
        scores, heads = rewards.scores, rewards.scores.model
        theirs = (states - scores.center) / scores.scale @ heads.weights[place] + heads.bias[place]
        np.testing.assert_allclose(found[:, place], theirs, rtol=1e-5, atol=1e-5)
    assert found[1, 0] != pytest.approx(found[2, 0])


@pytest.mark.parametrize("kind", ["bt", "regression"])
@pytest.mark.parametrize("layout", ["packed", "dense"])
def test_the_gradient_is_that_of_autograd_through_peft(kind, layout, tmp_path):
    """Of every slot's own objective and of its head, with labels missing; however small the pieces are."""
    base, data = tiny_base(), rated(6)
    rows, _ = encode_comparisons(data, base)
    scores = fit_scores(judged_rows(base, rows, data.names), kind)
    width = len(scores.center) + 1
    readers = Readers(base, 2, lora=lora(), notes=width)
    generator = torch.Generator().manual_seed(1)
    population = readers.population
    population.parameters.copy_(0.2 * torch.randn(population.parameters.shape, generator=generator))
    found = []
    for tokens in (4096, 1):
        engine = Engine(population, layout=layout, micro_batch_tokens=tokens, gradient_checkpointing=tokens == 1)
        reward_models._learn(engine, rows, scores)
        found.append(population.grad.clone())
    assert relative_error(found[1], found[0]) < 1e-5
    center, scale = (torch.from_numpy(x).float() for x in (scores.center, scores.scale))
    for slot in range(2):
        model = as_peft(population, population.parameters[slot], tmp_path / f"{slot}", tiny_model(), is_trainable=True)
        head = population.parameters[slot, -width:].clone().requires_grad_()
        losses, count, left_out = [], 0, 0
        for row in rows:
            states = (peft_states(model, [row.ids] * len(row.tokens), row.tokens) - center) / scale
            own = states @ head[:-1] + head[-1]
            if kind == "regression":
                target = torch.tensor(row.comparison.scores[:, slot]).float()
                told = target.isfinite()
                losses.append((own - target)[told].square().sum())
            else:
                a, b = torch.from_numpy(row.comparison.labels.pairs.T.copy())
                label = torch.tensor(row.comparison.labels.values[:, slot]).float()
                told = label.isfinite()
                gap = (own[a] - own[b])[told]
                losses.append(-(label[told] * gap.sigmoid().log() + (1 - label[told]) * (-gap).sigmoid().log()).sum())
            count, left_out = count + int(told.sum()), left_out + int((~told).sum())
        assert (left_out > 0) == (slot == 1)
        (sum(losses) / count).backward()
        adapters = population.adapter_tensors(found[0][slot])
        theirs = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if "lora_" in name}
        assert adapters.keys() == theirs.keys()
        for name, ours in adapters.items():
            assert relative_error(ours, theirs[name]) < 1e-5, name
        assert relative_error(found[0][slot, -width:], head.grad) < 1e-5


def test_half_precision_gives_the_same_direction():
    data, found = rated(6), []
    for dtype in ("float32", "float16"):
        base = tiny_base(dtype=dtype)
        rows, _ = encode_comparisons(data, base)
        scores = fit_scores(judged_rows(base, rows, data.names))
        readers = Readers(base, 2, lora=lora(), notes=len(scores.center) + 1)
        readers.population.parameters[:, -33:] = 1e-6  # gradients below what float16 can tell from 0
        reward_models._learn(Engine(readers.population), rows, scores)
        found.append(readers.population.grad[:, :-33].clone())
    assert relative_error(found[1], found[0]) < 3e-2


# ---- kept, lent, served ----------------------------------------------------------------------------------------------


def test_a_folder_gives_the_rewards_back_to_the_bit(tmp_path):
    base = tiny_base()
    rewards = fit_rewards(base, pairs(120), **SMALL)
    np.testing.assert_array_equal(fit_rewards(base, pairs(120), **SMALL).judge(ASKED, SAID), rewards.judge(ASKED, SAID))
    rewards._known = None
    found = changed(rewards).judge(ASKED, SAID)
    folder = rewards.save(tmp_path / "one")
    again = load_rewards(folder, base=base)
    np.testing.assert_array_equal(again.judge(ASKED, SAID), found)
    assert again.report == rewards.report
    assert [again[name](prompts=ASKED, completions=SAID) for name in again.names] == found.T.tolist()
    copied = again.save(tmp_path / "two")
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    assert len(files) == 6
    for file in files:
        assert (copied / file).read_bytes() == (folder / file).read_bytes(), file


def test_a_saved_model_is_loaded_when_it_is_needed(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_base().tokenizer.save_pretrained(tmp_path / "model")
    rewards = fit_rewards(str(tmp_path / "model"), pairs(60), **SMALL)
    folder = rewards.save(tmp_path / "rewards")
    again = load_rewards(folder, device="cpu")
    assert again._base is None
    np.testing.assert_array_equal(again.judge(ASKED, SAID), rewards.judge(ASKED, SAID))


def test_adapters_read_on_the_weights_of_the_base_and_leave_it_alone():
    base = tiny_base()
    prompts, said = [base.encode(text) for text in ASKED], [[3], [4, 5], [6]]
    before = end_states(base, prompts, said)
    rewards = fit_rewards(base, pairs(60), **SMALL)
    np.testing.assert_array_equal(end_states(base, prompts, said), before)
    ours = {id(tensor) for tensor in base.model.parameters()}
    layers = [block.layer.linear for block in rewards.readers.population.blocks]
    assert layers
    assert all(id(layer.weight) in ours for layer in layers)
    found = rewards.judge(ASKED, SAID)
    with closing(random_population(base)) as others, others.serving():  # a run has its policies on the model
        rewards._known = None
        np.testing.assert_array_equal(rewards.judge(ASKED, SAID), found)


def test_a_run_that_uses_them_is_resumed_to_the_same_bytes(tmp_path):
    """As rewards of the policies on the same model, in a run that is stopped and goes on with what the folder holds."""
    base = tiny_base()
    folder = changed(fit_rewards(base, pairs(120), **SMALL)).save(tmp_path / "rewards")

    def aligner(run, callbacks=()):
        objectives = load_rewards(folder, base=base).objectives()
        return ParetoAligner(
            base, objectives, family="independent", weighting="fixed", explorer="grid", population=2, steps=6,
            prompts_per_step=2, group_size=4, max_new_tokens=3, eval_every=2, eval_group_size=4, learning_rate=1e-2,
            lora=lora(r=2), progress=False, callbacks=list(callbacks), output_dir=tmp_path / run,
        )  # fmt: skip

    class Stop(Exception):
        pass

    def stop(event):
        if event["event"] == "step" and event["step"] == 3:
            raise Stop

    prompts = [f"<{n % 4}>{letter}" for n, letter in enumerate(LETTERS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        front = aligner("whole").fit(prompts)
        with pytest.raises(Stop):
            aligner("cut", [stop]).fit(prompts)
        again = aligner("cut").resume(tmp_path / "cut")
    assert np.isfinite(front.values).all()
    np.testing.assert_array_equal(again.values, front.values)
    for file in (tmp_path / "whole" / "front").rglob("*"):
        if file.is_file():
            assert (tmp_path / "cut" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes(), file


# ---- what is refused -------------------------------------------------------------------------------------------------


def activated():
    return LoraConfig(r=2, alora_invocation_tokens=[3], target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "mixture"}, "of kind bt or regression. Found 'mixture'"),
        ({"kind": "regression"}, "these comparisons have none: use kind='bt'"),
        ({"passes": 0}, "`passes` must be a whole number of at least 1. Found 0"),
        ({"prompts_per_step": 2.5}, "`prompts_per_step` must be"),
        ({"learning_rate": 0}, "`learning_rate` must be above 0"),
        ({"lora": activated()}, "leave `alora_invocation_tokens` out"),
        ({"lora": lora(use_dora=True)}, "use_dora"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        fit_rewards(tiny_base(), pairs(40), **{"lora": True, **settings})


def test_a_model_that_is_taken_is_refused(tmp_path):
    base = tiny_base()
    folder = fit_rewards(base, pairs(40), **SMALL).save(tmp_path)
    with closing(random_population(base)):
        with pytest.raises(ModelError, match="A population is being trained"):
            fit_rewards(base, pairs(40), lora=True)
        with pytest.raises(ModelError, match="A population is being trained"):
            load_rewards(folder, base=base)


def test_adapters_of_another_model_and_damaged_ones_are_refused(tmp_path):
    folder = fit_rewards(tiny_base(), pairs(40), **SMALL).save(tmp_path)
    with pytest.raises(FrontFileError, match="another base model"):
        load_rewards(folder, base=tiny_base(intermediate_size=64))
    weights = folder / "adapter-2" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(FrontFileError, match="Cannot read the adapter"):
        load_rewards(folder, base=tiny_base())
    (folder / "adapter-1" / "adapter_config.json").unlink()
    with pytest.raises(FrontFileError, match="adapter-1"):
        load_rewards(folder)  # before any model is loaded


def test_the_users_model_takes_gradients_again_once_the_adapters_are_gone():
    model = tiny_model("llama").requires_grad_(True)
    base = replace(tiny_base(), model=model)
    readers = Readers(base, 2, lora=lora(2))
    assert not any(weight.requires_grad for weight in readers.population.base.model.parameters())
    del readers
    gc.collect()
    assert all(weight.requires_grad for weight in model.parameters())
