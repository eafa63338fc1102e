"""Families: one set of parameters for all preferences, served as stock LoRA policies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, RAGGED, lora, relative_error, tiny_base, tiny_model

from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.policies import PolicyPopulation
from pareto_align.policies.families import (
    EXTRAS_FILE,
    Blocks,
    Family,
    Gates,
    Panacea,
    PBLoRA,
    available_families,
    fold,
    make_family,
    register_family,
    write_policy,
)
from pareto_align.policies.mixing import mix
from pareto_align.testing.family import NAMES, FamilyContract

KINDS = {
    "blocks": Blocks,
    "panacea": Panacea,
    "pblora": PBLoRA,
    "linear": lambda: Gates(),
    "quadratic": lambda: Gates(features="quadratic", each=2),
    "thermometer": lambda: Gates(features="thermometer", bins=3, each=1),
}


class TestBlocks(FamilyContract):
    def make(self):
        return Blocks()


class TestPanacea(FamilyContract):
    def make(self):
        return Panacea()


class TestPBLoRA(FamilyContract):
    def make(self):
        return PBLoRA()


class TestCentredGates(FamilyContract):
    def make(self):
        return Gates(features="centred")


class TestQuadraticGates(FamilyContract):
    def make(self):
        return Gates(features="quadratic", each=2)


class TestThermometerGates(FamilyContract):
    def make(self):
        return Gates(features="thermometer", bins=3, shared=1, each=2)


@register_family("turning")
class Turning(Family):
    """A stranger's: two ranks turned by an angle that the first weight decides and each layer scales."""

    def rank(self, m):
        return 2

    def extras(self, m):
        return 1

    def initial_extras(self, m, generator):
        return torch.ones(1)

    def cores(self, preferences, extras):
        angle = preferences[:, :1] * extras[:, 0]  # [k, L]
        rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
        return rows.unflatten(-1, (2, 2))


class TestAStrangersFamily(FamilyContract):
    def make(self):
        return Turning()


def ready(kind, m=2, family="llama", r=3):
    made = KINDS[kind]()
    base = tiny_base(family)
    population = PolicyPopulation(base, 3, lora=made.lora(lora(r), NAMES[:m]))
    made.setup(population, m, 0)
    generator = torch.Generator().manual_seed(1)
    made.parameters += 0.2 * torch.randn(made.parameters.shape, generator=generator)
    return made, population


def test_names_and_what_they_mean():
    ours = {"blocks", "directions", "gates", "independent", "panacea", "pblora", "rewards", "weights"}
    assert available_families() == sorted(available_families())
    assert set(available_families()) - {"symbols", "letters", "spelled"} == ours | {"turning"}  # tests, studies
    assert make_family(None) is make_family("independent") is make_family({"name": "independent"}) is None
    assert isinstance(make_family("blocks"), Blocks)
    found = make_family({"name": "gates", "features": "quadratic", "shared": 0})
    assert (found.features, found.shared, found.each) == ("quadratic", 0, None)
    given = Blocks()
    assert make_family(given) is given


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("block", "Did you mean 'blocks'"),
        ({"shared": 2}, "needs `name`"),
        ({"name": "blocks", "rank": 2}, "no setting 'rank'"),
        ({"name": "blocks", "each": 0}, "^Family 'blocks': `each` must be a whole number from 1 to 4096. Found 0"),
        ({"name": "blocks", "shared": -1}, "`shared` must be a whole number from 0"),
        ({"name": "blocks", "shared": 1.5}, "`shared` must be a whole number"),
        ({"name": "blocks", "shared": True}, "`shared` must be a whole number"),
        ({"name": "gates", "features": "cubic"}, "one of linear, centred, quadratic, thermometer"),
        ({"name": "gates", "bins": 0}, "`bins`"),
        ({"name": "gates", "bins": 1 << 40}, "`bins` must be a whole number from 1 to 4096"),
        ({"name": "blocks", "each": 1 << 20}, "`each` must be a whole number from 1 to 4096"),
        (3, "a name, a mapping"),
    ],
)
def test_what_is_no_family_is_refused(family, words):
    with pytest.raises(ConfigError, match=words.replace("`", ".")):
        make_family(family)


@pytest.mark.parametrize(
    ("kind", "m", "rank"),
    [
        ("blocks", 2, 9),
        ("blocks", 5, 18),
        ("panacea", 3, 6),
        ("pblora", 4, 6),
        ("quadratic", 3, 15),
        ("thermometer", 2, 9),
    ],
)
def test_ranks(kind, m, rank):
    """With r = 3: shared + a block a feature; of panacea one rank an objective; of pblora one block for all."""
    assert KINDS[kind]().lora(LoraConfig(r=3, lora_alpha=6), NAMES[:m]).r == rank


def test_a_family_can_be_fitted_twice_with_other_ranks():
    made = Blocks()
    assert made.lora(LoraConfig(r=2, lora_alpha=4), NAMES[:2]).r == 6
    assert made.lora(LoraConfig(r=4, lora_alpha=4), NAMES[:2]).r == 12


@pytest.mark.parametrize("architecture", [name for name in FAMILIES if name != "llama-tied"])
@pytest.mark.parametrize("kind", ["blocks", "pblora"])
def test_the_folder_of_any_preference_is_the_policy_under_stock_peft(kind, architecture, tmp_path):
    made, population = ready(kind, family=architecture)
    preferences = np.array([[1.0, 0.0], [0.3, 0.7], [0.55, 0.45]])
    made.save(tmp_path / "family")
    base = population.base
    ids = [base.encode(text) for text in RAGGED]
    with torch.no_grad(), population.serving(made.rows(preferences)):
        served = [base.model(torch.tensor([row] * 3)).logits for row in ids]
    population.close()
    for k, preference in enumerate(preferences):
        write_policy(made, tmp_path / "family", preference, tmp_path / f"{k}")
        stock = PeftModel.from_pretrained(tiny_model(architecture), str(tmp_path / f"{k}")).eval()
        for row, logits in zip(ids, served, strict=True):
            with torch.no_grad():
                found = stock(torch.tensor([row])).logits[0]
            assert relative_error(logits[k], found) < 1e-5


def test_blocks_without_shared_ranks_are_the_soup_of_two_adapters():
    """B-blocks of two adapters at w: the same update as `mix(..., w)` before the cut in rank."""
    made = Blocks(shared=0)
    population = PolicyPopulation(tiny_base(), 2, lora=made.lora(lora(2), NAMES[:2]))
    made.setup(population, 2, 0)
    generator = torch.Generator().manual_seed(2)
    row = torch.randn(population.parameter_count, generator=generator)
    made.parameters[0] = row
    halves = torch.zeros(2, population.parameter_count)
    for block in population.blocks:
        a, b = block.split(row[None])
        for i in range(2):  # expert i: the ranks of its block, zeros elsewhere
            into_a, into_b = block.split(halves[i : i + 1])
            into_a[0, 2 * i : 2 * i + 2] = a[0, 2 * i : 2 * i + 2]
            into_b[0, :, 2 * i : 2 * i + 2] = b[0, :, 2 * i : 2 * i + 2]
    mixed, lost = mix(population, halves, [0.3, 0.7])
    assert lost < 1e-6
    policy = made.rows(np.array([[0.3, 0.7]]))[0]
    for block in population.blocks:
        (a, b), (c, d) = block.split(policy[None]), block.split(mixed[None])
        torch.testing.assert_close(b[0] @ a[0], d[0] @ c[0], rtol=1e-5, atol=1e-5)
    population.close()


def test_the_pull_of_blocks_is_what_the_formula_says():
    """gA = mean of gA_k; gB = mean of gB_k C_k, with C_k the diagonal of ones and weights."""
    made, population = ready("blocks", r=2)
    preferences = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])
    grad = torch.randn(3, population.parameter_count, generator=torch.Generator().manual_seed(5))
    found = made.pull(preferences, grad)
    core = torch.tensor([[1, 1, w[0], w[0], w[1], w[1]] for w in preferences], dtype=torch.float32)
    for block in population.blocks:
        (ga, gb), (fa, fb) = block.split(grad), block.split(found)
        torch.testing.assert_close(fa[0], ga.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(fb[0], (gb * core[:, None, :]).mean(0), rtol=1e-5, atol=1e-6)
    population.close()


def test_thermometers_fill_up():
    made = Gates(features="thermometer", bins=4, shared=0, each=1)
    found = made.featured(torch.tensor([[0.0, 1.0], [0.25, 0.75], [0.6, 0.4]]))
    expected = [[0, 0, 0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 1, 1, 1, 0], [1, 1, 0.4, 0, 1, 0.6, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_centred_features_are_zero_at_equal_weights():
    found = Gates(features="centred").featured(torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 0.0], [2.0, -1.0, -1.0]]))


def test_quadratic_features_are_the_weights_and_their_products():
    found = Gates(features="quadratic").featured(torch.tensor([[0.2, 0.3, 0.5]]))
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.3, 0.5, 0.06, 0.10, 0.15]]))


def test_folding_in_a_whole_core_and_a_diagonal():
    b = torch.arange(6.0).view(1, 3, 2)
    torch.testing.assert_close(fold(b, torch.tensor([[2.0, 3.0]])), b * torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(fold(b, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])), b.flip(-1))


def test_a_folder_that_is_no_family_is_an_error_of_ours(tmp_path):
    made, population = ready("panacea")
    population.save_adapter(made.rows(np.array([[0.5, 0.5]]))[0], tmp_path / "bare")
    population.close()
    with pytest.raises(FrontFileError, match="cannot be read"):
        write_policy(made, tmp_path / "bare", [0.5, 0.5], tmp_path / "out")


@pytest.mark.parametrize("kind", ["blocks", "panacea", "pblora"])
def test_a_layer_without_its_further_numbers_is_not_left_open(kind, tmp_path):
    """Its B would stand with all blocks at full weight, which is no policy of the family."""
    made, population = ready(kind)
    made.save(tmp_path / "family")
    population.close()
    extras = load_file(tmp_path / "family" / EXTRAS_FILE)
    extras.pop(next(iter(extras)))
    save_file(extras, tmp_path / "family" / EXTRAS_FILE)
    with pytest.raises(FrontFileError, match="cannot be read: KeyError"):
        write_policy(made, tmp_path / "family", [0.5, 0.5], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["blocks", "panacea", "pblora"])
@pytest.mark.parametrize("ranks", [(1 << 20, 1 << 20), (0, 1)])
def test_ranks_that_are_not_those_of_the_file_are_refused_before_cores_are_made(kind, ranks, tmp_path):
    made, population = ready(kind)
    made.save(tmp_path / "family")
    population.close()
    made.ranks = ranks
    made.cores = lambda *a: pytest.fail("cores were made")
    with pytest.raises(FrontFileError, match="is not of the rank"):
        write_policy(made, tmp_path / "family", [0.5, 0.5], tmp_path / "out")


def test_an_adapter_that_cannot_be_written_is_an_error_of_ours(tmp_path):
    made, population = ready("blocks")
    made.save(tmp_path / "family")
    population.close()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FrontFileError, match="cannot be written"):
        write_policy(made, tmp_path / "family", [0.5, 0.5], tmp_path / "file" / "out")
    folder = tmp_path / "out"
    (folder / "adapter_model.safetensors").mkdir(parents=True)  # safetensors has an error of its own for it
    with pytest.raises(FrontFileError, match="cannot be written"):
        write_policy(made, tmp_path / "family", [0.5, 0.5], folder)
