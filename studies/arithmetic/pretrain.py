"""Pre-trains the small model: `python studies/arithmetic/pretrain.py` writes weights.safetensors.

About 4 minutes on one free core. The texts are problems of the split "pretrain" with their right answers in one of the
three forms; the loss is that of the answers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from task import FORMS, WEIGHTS, adding_llama, adding_tokenizer, answer, problems, prompt

STEPS, BATCH, RATE, WARM = 800, 64, 3e-3, 50
"""Steps, texts of each form in a step, peak learning rate, steps of warming up."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Pre-train and keep the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args(arguments)
    pretrain(options.steps, options.out)
    return 0


def pretrain(steps: int, out: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(1)
    model, tokenizer = adding_llama().train(), adding_tokenizer()
    seen = problems("pretrain")
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM, 1.0) * 0.5 * (1 + np.cos(np.pi * step / steps))
    )
    started = time.monotonic()
    losses = dict.fromkeys(FORMS, 0.0)
    right = dict.fromkeys(FORMS, 0.0)
    for step in range(steps):
        optimizer.zero_grad()
        for form in FORMS:  # texts of one form have one length, so that nothing is padded
            chosen = seen[rng.integers(len(seen), size=BATCH)].tolist()
            ids = tokenizer([prompt(n) + answer(n, form) + "<eos>" for n in chosen], return_tensors="pt").input_ids
            start = len(tokenizer(prompt(chosen[0])).input_ids)
            logits = model(input_ids=ids).logits[:, start - 1 : -1]
            loss = cross_entropy(logits.flatten(0, 1), ids[:, start:].flatten(), reduction="sum") / (len(FORMS) * BATCH)
            loss.backward()
            losses[form] = 0.9 * losses[form] + 0.1 * loss.item() * len(FORMS)
            ok = (logits.argmax(-1) == ids[:, start:])[:, 1:].all(1).float().mean()
            right[form] = 0.9 * right[form] + 0.1 * float(ok)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            told = ", ".join(f"{form} {losses[form]:.2f} ({right[form]:.2f})" for form in FORMS)
            print(f"step {step + 1}, {time.monotonic() - started:.0f} s: {told}", flush=True)
    save_file({name: value.half() for name, value in model.state_dict().items()}, out)


if __name__ == "__main__":
    raise SystemExit(main())
