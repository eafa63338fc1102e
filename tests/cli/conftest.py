"""Fronts on disk to run commands on: one written by hand, one fitted by the `fit` command itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # the builders that tests/report has, too

from front_records import estimate, tone_and_length

from pareto_align.cli import main
from pareto_align.front.storage import write_front

REWARDS = """
from pareto_align.objectives import completion_text


def friendly(completions, **columns):
    return [min(1.0, len(completion_text(c).split()) / 8) for c in completions]


def short(completions, **columns):
    return [max(0.0, 1 - len(completion_text(c).split()) / 8) for c in completions]
"""

CONFIG = """
model: ./model
prompts: prompts.jsonl
objectives:
  - {name: friendly, reward: "rewards:friendly", bounds: [0, 1]}
  - {name: short, reward: "rewards:short", bounds: [0, 1]}
lora: {r: 2, target_modules: all-linear}
population: 3
steps: 60
prompts_per_step: 2
group_size: 16
max_new_tokens: 8
eval_every: 15
resolution: 0
learning_rate: 2e-2
eval_group_size: 32
family: independent
weighting: fixed
learner: centred
device: cpu
dtype: float32
"""


@pytest.fixture
def cli(capsys):
    """Run a command in this process: its exit status, stdout, stderr, and stdout read as JSON."""

    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, json=lambda: json.loads(out))

    return run


@pytest.fixture
def run(tmp_path):
    """A run folder with three members and a journal: (tone, length) at (0.8, 60), (0.6, 30), (0.3, 10)."""

    def write_adapter(name, folder):
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16}))
        (folder / "adapter_model.safetensors").write_bytes(name.encode())

    front = tone_and_length(reference_policy=estimate([0.2, -80.0, -0.1]))
    write_front(tmp_path / "run" / "front", front, write_adapter)
    events = [
        {"event": "start", "preferences": [[1.0, 0.0]]},
        {"event": "step", "step": 1, "values": [[0.1, 70.0, 0.0]], "weights": [[0.5, 0.5]]},
    ]
    (tmp_path / "run" / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return tmp_path / "run"


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A folder with a tiny chat model, prompts, rewards, and the config that puts them together."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = "<unk> <pad> <bos> <eos> glad love I you we like rain tea cats snow the a is it to do not very and or"
    vocabulary = {word: number for number, word in enumerate(words.split())}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ '<bos> ' + message['content'] + ' ' }}{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, pad_token_id=1, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("project")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    system = {"role": "system", "content": "you like tea"}
    prompts = [
        [system, {"role": "user", "content": f"do you like {thing}"}] for thing in ("tea", "rain", "cats", "snow")
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts * 2))
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "run.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="session")
def fitted(project, tmp_path_factory):
    """The run folder of a front that `pareto-align fit` made."""
    folder = tmp_path_factory.mktemp("fitted") / "run"
    path = list(sys.path)
    try:
        assert main(["fit", str(project / "run.yaml"), f"output_dir={folder}"]) == 0
    finally:
        sys.path[:] = path
        sys.modules.pop("rewards", None)
    return folder
