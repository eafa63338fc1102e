"""One step of TRL's own DPOTrainer against one step of the learner "dpo": the same change of the same adapter.

The whole way is TRL's there: columns, tokenizer, collator, reference, loss, autograd over PEFT, `torch.optim.SGD`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import PROMPTS, SYMBOLS, as_peft, lora, peft_row, relative_error, tiny_base, tiny_model

pytest.importorskip("trl")

from pareto_align import Objective
from pareto_align.data.comparison_rows import encode_comparisons
from pareto_align.data.comparisons import Comparisons
from pareto_align.learning import Context, make_learner
from pareto_align.objectives import RewardScale
from pareto_align.policies import PolicyPopulation
from pareto_align.policies.engine import Engine
from pareto_align.policies.optimizer import PopulationAdamW
from pareto_align.testing.tiny import symbol_tokenizer

RATE, BETA = 1e-2, 0.3
PAIRS = [
    {"prompt": "<0>ab", "chosen": "cdefg", "rejected": "ah"},
    {"prompt": "<1>c", "chosen": "b", "rejected": "iijkl"},
    {"prompt": "<2>abcd", "chosen": "gg", "rejected": "gh"},
    {"prompt": "<3>", "chosen": "lkjih", "rejected": "abcde"},
]


class PlainDescent(PopulationAdamW):
    """The optimizer's face, and `theta - rate * gradient` behind it."""

    def step(self, grad, learning_rate):
        self.parameters -= learning_rate * grad
        return grad.norm(dim=1)


def step_of_ours(loss_type):
    """A population's first policy before and after a step, and the population, still open."""
    population = PolicyPopulation(tiny_base(), 2, lora=lora())
    generator = torch.Generator().manual_seed(0)
    population.parameters.copy_(torch.randn(population.parameters.shape, generator=generator) * 0.2)
    before = population.parameters.clone()
    data = Comparisons.from_rows(PAIRS).for_objectives([Objective("liked", prefers="chosen")])
    rows, _ = encode_comparisons(data, population.base)
    learner = make_learner({"name": "dpo", "beta": BETA, "loss_type": loss_type})
    scale = RewardScale(np.zeros(1), np.ones(1), -np.ones(1), np.ones(1))
    engine, optimizer = Engine(population, layout="packed"), PlainDescent(population.parameters)
    learner.setup(Context(engine, scale, [0], optimizer, prompts=rows, prompts_per_step=len(PAIRS)))
    learner.step(learner.collect(0), np.ones((2, 1)), RATE)
    return population, before[0], population.parameters[0] - before[0]


def step_of_trl(model, loss_type, folder):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=str(folder / "out"), loss_type=[loss_type], beta=BETA, learning_rate=RATE, optim="sgd",
        per_device_train_batch_size=len(PAIRS), max_steps=1, lr_scheduler_type="constant", warmup_steps=0,
        max_grad_norm=0.0, weight_decay=0.0, bf16=False, use_cpu=True, gradient_checkpointing=False, report_to=[],
        save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=symbol_tokenizer(SYMBOLS, PROMPTS),
    )
    with torch.no_grad():  # TRL keeps a copy of an adapter as its reference; without B it is the untrained model
        for name, parameter in model.named_parameters():
            if "lora_B.ref" in name:
                parameter.zero_()
    trainer.train()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_a_step_changes_an_adapter_as_trls_trainer_does(loss_type, tmp_path):
    population, before, ours = step_of_ours(loss_type)
    population.close()
    model = as_peft(population, before, tmp_path / "adapter", tiny_model(), is_trainable=True)
    start = peft_row(population, model)
    step_of_trl(model, loss_type, tmp_path)
    theirs = peft_row(population, model) - start
    assert 0 < float(ours.norm()) < math.inf
    assert relative_error(theirs, ours) < 1e-5
