"""Decoding in shapes that stay: the eager sampler's tokens, the same memory for the same shape, few compilations."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager

import pytest
import torch
from aligner_runs import fit, make
from pretended_device import DEVICE, pretended
from tiny_models import FAMILIES, RAGGED, SYMBOLS, lora, random_population, tiny_base, tiny_model
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pareto_align.errors import ConfigError, ParetoAlignWarning
from pareto_align.policies import PolicyPopulation, SamplingParams, load_base, sample
from pareto_align.policies.graphs import CAPACITY, Graphs, Workspace
from pareto_align.policies.static import LADDER, StaticLayer, StaticSampler, rung
from pareto_align.runs.folder import read_run_record
from pareto_align.testing.tiny import symbol_tokenizer

K, G = 3, 8
TURN = {"alora_invocation_tokens": [SYMBOLS + 1]}  # the token that begins every text


def population_of(family="llama", size=K, *, activated=False, **overrides):
    windows = {"sliding_window": 64} if family in ("mistral", "gemma2") else {}
    base = tiny_base(family, dtype=torch.float32, **windows, **overrides)
    return random_population(base, size, config=lora(**(TURN if activated else {})))


def both(population, length=24, **params):
    """What the eager and the static sampler say."""
    ids = [population.base.encode(prompt) for prompt in RAGGED]
    found = []
    for population.sampler in ("eager", "graphs"):
        found.append(sample(population, ids, G, SamplingParams(length, **params), range(K)))
    assert population.drivable
    return found


@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_what_the_eager_sampler_says(family, activated):
    """Rows leave on the way, at other times; the keys that are there are hidden until they are filled."""
    population = population_of(family, activated=activated)
    eager, static = both(population)
    assert population.static is not None
    assert eager.lengths.min() < 12 < 24 == eager.lengths.max()
    assert torch.equal(static.tokens, eager.tokens)
    assert torch.equal(static.mask, eager.mask)
    assert torch.allclose(static.logprobs, eager.logprobs, atol=1e-4)


@pytest.mark.parametrize("params", [{"temperature": 0}, {"top_k": 5, "top_p": 0.8, "temperature": 0.7}])
def test_it_draws_as_it_is_told(params):
    eager, static = both(population_of(), **params)
    assert torch.equal(static.tokens, eager.tokens)
    assert torch.equal(static.mask, eager.mask)
    assert torch.allclose(static.logprobs, eager.logprobs, atol=1e-4)


def test_a_model_that_says_something_else_is_left_to_the_eager_sampler(monkeypatch):
    population = population_of()
    monkeypatch.setattr(StaticLayer, "update", lambda self, keys, values, *_, **__: (self.keys, self.values))
    with pytest.warns(ParetoAlignWarning, match="LlamaForCausalLM says something else"):
        eager, found = both(population)
    assert population.sampler == "eager"
    assert torch.equal(found.tokens, eager.tokens)


def test_one_token_and_the_reference_policy():
    population = population_of()
    eager, static = both(population, length=1)
    assert torch.equal(static.tokens, eager.tokens)
    ids = [population.base.encode(prompt) for prompt in RAGGED]
    found = []
    for population.sampler in ("eager", "graphs"):
        found.append(sample(population, ids, 2, SamplingParams(9), [4], policies=population.parameters[:0]))
    assert torch.equal(found[0].tokens, found[1].tokens)


def test_the_setting_decides_which_sampler_runs(tmp_path, monkeypatch):
    seen, decode = [], StaticSampler.decode
    monkeypatch.setattr(StaticSampler, "decode", lambda *given: seen.append(1) or decode(*given))
    for sampler, static in (("auto", False), ("eager", False), ("graphs", True)):
        seen.clear()
        fit(tmp_path / sampler, sampler=sampler, steps=1)
        assert bool(seen) == static
        assert read_run_record(tmp_path / sampler)["config"]["sampler"] == sampler
    with pytest.raises(ConfigError, match="sampler was 'graphs', is 'eager'"):
        make(sampler="eager", steps=1).resume(tmp_path / "graphs")


def test_a_run_that_did_not_take_the_sampler_down_goes_on(tmp_path):
    fit(tmp_path / "run", steps=1)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    for name in ("sampler", "deterministic"):
        del record["config"][name]
    path.write_text(json.dumps(record))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParetoAlignWarning)
        assert len(make(sampler="graphs", steps=1).resume(tmp_path / "run")) > 0


def test_rows_leave_down_to_a_few_widths_only():
    assert [rung(living, 16) for living in (16, 15, 14, 13, 12, 11, 8, 7, 6, 5, 4, 1)] == [
        16, 16, 14, 14, 12, 12, 8, 8, 6, 6, 4, 4,
    ]  # fmt: skip
    assert [rung(living, 3) for living in (3, 2, 1)] == [3, 2, 1]
    assert len({rung(living, 100) for living in range(1, 101)}) == len(LADDER) + 1


def test_the_host_waits_once_here_too():
    with pretended() as device:
        base = load_base(tiny_model(), tokenizer=symbol_tokenizer(SYMBOLS, 4), device=DEVICE)
        population = random_population(base, K, config=lora())
        population.sampler = "graphs"
        ids = [base.encode(prompt) for prompt in RAGGED]
        sample(population, ids, G, SamplingParams(2), range(K))
        before = device.waits
        done = sample(population, ids, G, SamplingParams(40), range(K))
        assert device.waits - before == 1
    assert torch.equal(done.tokens, both(population_of(), length=40)[0].tokens)


# ------------------------------------------------------------------------------------------------ one step


class Outside(TorchDispatchMode):
    """The addresses of what is read and was there before."""

    def __init__(self):
        super().__init__()
        self.addresses, self.made, self.inside = [], [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        outside = [x for x in given if x.untyped_storage().data_ptr() not in self.inside]
        self.addresses += [(x.data_ptr(), tuple(x.shape), x.stride()) for x in outside]
        found = func(*args, **(kwargs or {}))
        there = {x.untyped_storage().data_ptr() for x in outside}
        made = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        self.made += made  # kept, so that no address is given out twice
        self.inside |= {x.untyped_storage().data_ptr() for x in made} - there
        return found


class Addresses:
    """In the place of CUDA graphs: whether a step that would be replayed reads the memory that it was captured with."""

    working = True

    def __init__(self):
        self.steps, self.repeated = {}, 0

    def run(self, shape, generation, step):
        with Outside() as seen:
            step()
        before = self.steps.setdefault((shape, generation), seen.addresses)
        assert before == seen.addresses
        self.repeated += before is not seen.addresses


@pytest.mark.parametrize("activated", [False, True])
def test_a_step_of_one_shape_reads_the_same_memory_at_every_sampling(activated):
    base = tiny_base(dtype=torch.float32)
    population = PolicyPopulation(base, K, lora=lora(**(TURN if activated else {})), onednn=False)
    population.parameters.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    expected = [both(population, length=length)[0].tokens for length in (24, 24, 10)]
    population.static = StaticSampler(population)
    population.static.graphs = addresses = Addresses()
    found = [both(population, length=length)[1].tokens for length in (24, 24, 10)]
    shapes = len(addresses.steps)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    population.parameters.mul_(1.1)  # other adapters, other tokens: the same memory
    repeated = addresses.repeated
    other = both(population)[1].tokens
    assert not torch.equal(other, expected[0])
    assert addresses.repeated - repeated >= 20
    assert shapes <= 2 * (len(LADDER) + 1)


def test_memory_that_has_to_grow_is_a_new_generation():
    workspace = Workspace()
    first = workspace.zeros("keys", (4, 3), torch.float32, torch.device("cpu")).fill_(1.0)
    smaller = workspace.keep("keys", torch.ones(2, 3))
    assert smaller.data_ptr() == first.data_ptr()
    assert workspace.generation == 1
    wider = workspace.keep("keys", torch.ones(2, 3), (1, 4))
    assert wider.tolist() == [[1.0, 1.0, 1.0, 0.0]] * 2
    assert workspace.generation == 1
    workspace.zeros("keys", (5, 3), torch.float32, torch.device("cpu"))
    assert workspace.generation == 2


def test_a_step_is_compiled_twice_and_not_at_every_token():
    torch._dynamo.reset()
    population, counter = population_of(), CompileCounter()
    expected = both(population, length=16)[0]
    population.static = StaticSampler(population, lambda step: torch.compile(step, backend=counter, fullgraph=True))
    found = both(population, length=16)[1]
    assert torch.equal(found.tokens, expected.tokens)
    assert counter.frame_count <= 2  # the whole batch, and the first narrower one
    compiled = counter.frame_count
    both(population, length=16)
    assert counter.frame_count == compiled, "and not at all at the next sampling"


# ------------------------------------------------------------------------------------------------ graphs


class PretendedGraphs:
    """CUDA's graphs as `Graphs` uses them: what is run while one is captured is done by its replays only."""

    def __init__(self, monkeypatch, *, refuse=False):
        outer, self.capturing, self.done, self.replays = self, None, [], 0

        class Graph:
            def replay(self):
                outer.replays += 1
                outer.done.append(self.work)

        @contextmanager
        def graph(made, **options):
            if refuse:
                raise RuntimeError("operation not permitted when stream is capturing\nand more")
            self.capturing = made
            yield
            self.capturing = None

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", graph)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 0)

    def step(self, name):
        def run():
            if self.capturing is None:
                self.done.append(name)
            else:
                self.capturing.work = name

        return run


def test_a_step_is_captured_at_its_second_run_and_then_replayed(monkeypatch):
    cuda, graphs = PretendedGraphs(monkeypatch), Graphs(torch.device("cuda"))
    for _ in range(4):
        graphs.run("wide", 0, cuda.step("wide"))
    assert (cuda.done, cuda.replays) == (["wide"] * 4, 3)
    graphs.run("narrow", 0, cuda.step("narrow"))
    assert (cuda.done[-1], cuda.replays) == ("narrow", 3)
    graphs.run("wide", 1, cuda.step("moved"))
    assert (cuda.done[-1], cuda.replays) == ("moved", 3), "what was captured reads memory that is gone"
    graphs.run("wide", 1, cuda.step("moved"))
    assert (cuda.done[-1], cuda.replays) == ("moved", 4)


def test_the_graphs_used_longest_ago_are_let_go(monkeypatch):
    cuda, graphs = PretendedGraphs(monkeypatch), Graphs(torch.device("cuda"))
    for number in (*range(CAPACITY), 0, CAPACITY):
        for _ in range(2):
            graphs.run(number, 0, cuda.step(number))
    assert len(graphs._graphs) == CAPACITY
    assert 0 in graphs._graphs
    assert 1 not in graphs._graphs


def test_what_cannot_be_captured_is_run_as_it_is(monkeypatch):
    cuda, graphs = PretendedGraphs(monkeypatch, refuse=True), Graphs(torch.device("cuda"))
    graphs.run("step", 0, cuda.step("step"))
    with pytest.warns(
        ParetoAlignWarning, match="captured as a CUDA graph \\(operation not permitted when stream is capt"
    ):
        graphs.run("step", 0, cuda.step("step"))
    graphs.run("step", 0, cuda.step("step"))
    assert (cuda.done, cuda.replays, graphs.working) == (["step"] * 3, 0, False)


def test_only_cuda_has_graphs():
    assert not Graphs(torch.device("cpu")).working
