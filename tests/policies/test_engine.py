"""The engine keeps its contract in every layout and with any budget of tokens."""

from __future__ import annotations

from pareto_align.policies.engine import Engine
from pareto_align.testing.engine import EngineContract


class TestPacked(EngineContract):
    def make(self, population):
        return Engine(population, layout="packed")


class TestDense(EngineContract):
    def make(self, population):
        return Engine(population, layout="dense")


class TestOneRowAtATime(EngineContract):
    def make(self, population):
        engine = Engine(population, layout="packed", micro_batch_tokens=1)
        engine.rows.divides_prompts = True
        return engine


class TestLayersRunAgain(EngineContract):
    def make(self, population):
        return Engine(population, layout="packed", gradient_checkpointing=True)
