"""A Pareto front of LoRA policies by hand: the core of pareto_align, on a problem that can be read in one go.

A model has one prompt and says one of 24 tokens. Eight tokens lie on a quarter circle between two rewards, the others
are poor. K policies, each a LoRA adapter of its own on the one frozen model, learn side by side: each holds a
preference, and at every step the weights of its rewards say what it lacks most. What nobody beats is kept, and a user
chooses.

    python docs/examples/by_hand.py

Letters, here and in the package: K policies, G completions of a prompt, V tokens, m rewards, r ranks.
tests/docs/test_by_hand.py holds each function to the one of the package that it explains.
"""

import numpy as np
import torch

K, G, V, STEPS, RATE = 8, 32, 24, 200, 2e-3
HIDDEN, R, SCALING = 64, 8, 2.0


def rewards():
    """What each token is worth, [V, m]: the first eight on a quarter circle, the rest below .3 in both."""
    angle = np.linspace(0, np.pi / 2, 8)
    poor = np.random.default_rng(0).uniform(0, 0.3, (V - 8, 2))
    return np.concatenate([np.stack([np.cos(angle), np.sin(angle)], 1), poor])


def frozen_model(seed):
    """The prompt's vector [h], a layer [h, h] and a head [V, h]. Nothing ever changes them."""
    draw = torch.Generator().manual_seed(seed)
    prompt, layer, head = (torch.randn(shape, generator=draw) for shape in ((HIDDEN,), (HIDDEN, HIDDEN), (V, HIDDEN)))
    return prompt, layer / HIDDEN**0.5, head / HIDDEN**0.5


def fresh_adapters(seed):
    """For both matrices A [K, r, in] random and B [K, out, r] zero: every policy starts as the frozen model."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for out in (HIDDEN, V):
        found += [torch.randn(K, R, HIDDEN, generator=draw) / HIDDEN**0.5, torch.zeros(K, out, R)]
    return [matrix.requires_grad_() for matrix in found]


def log_probabilities(model, adapters):
    """Of every token under every policy, [K, V]: the frozen product, and what the adapter B A adds to it."""
    prompt, layer, head = model
    a1, b1, a2, b2 = adapters
    hidden = torch.tanh(layer @ prompt + SCALING * torch.einsum("kor,kri,i->ko", b1, a1, prompt))
    logits = hidden @ head.T + SCALING * torch.einsum("kvr,kri,ki->kv", b2, a2, hidden)
    return logits.log_softmax(-1)


def advantages(sampled):
    """Rewards [K, G, m] of completions less the mean of their group: better or worse than usual?"""
    return sampled - sampled.mean(1, keepdims=True)


def grid():
    """K preferences [K, m], from all weight on the first reward to all on the second."""
    first = np.linspace(1, 0, K)
    return np.stack([first, 1 - first], 1)


def chebyshev_weights(preferences, values, ideal, span, mu=0.05, rho=0.01):
    """Weights [K, m] of the rewards, rows of sum 1: most on what a policy lacks most, by its own preference.

    Values [K, m] are running means. How far a policy falls short is counted as a share of what the population spans.
    A preference is a place: (.8, .2) is held where the second reward falls four times as short as the first. With
    a small `mu` the largest lack alone counts; `rho` lets the others count a little all the same.
    """
    short = (ideal - values) / span
    m = preferences.shape[1]
    pressure = np.exp(m * preferences * short / mu - (m * preferences * short / mu).max(1, keepdims=True))
    slope = preferences * (pressure / pressure.sum(1, keepdims=True) + rho) / span
    return slope / slope.sum(1, keepdims=True)


def loss_of(logprobs, tokens, advantage, weights):
    """REINFORCE: its gradient makes likelier what was better than usual, by each policy's weights; summed over K."""
    worth = torch.as_tensor((advantage * weights[:, None]).sum(-1), dtype=torch.float32)  # [K, G]
    return -(worth * logprobs.gather(1, tokens)).mean(1).sum()


def not_dominated(values):
    """Which rows of values [n, m] no other row beats: at least as good in everything, better in something."""
    no_worse = (values[:, None] >= values[None]).all(-1)
    better = (values[:, None] > values[None]).any(-1)
    return ~(no_worse & better).any(0)


def hypervolume(values, reference=(0.0, 0.0)):
    """The area that points [n, 2] dominate above a reference point: from the right, each adds what it is higher."""
    area, height = 0.0, reference[1]
    for x, y in sorted(map(tuple, values), reverse=True):
        if x > reference[0] and y > height:
            area, height = area + (x - reference[0]) * (y - height), y
    return area


def choose(values, preference, place=False):
    """The row for a user: the best by an exchange rate, or by a place (the smallest weighted lack to the best)."""
    if place:
        span = np.maximum(np.ptp(values, axis=0), 1e-9)
        return int((preference * (values.max(0) - values) / span).max(1).argmin())
    return int((values @ preference).argmax())


def fit(table, seed=0):
    """Train K policies; the values [n, m] that were measured along the way, and the preferences [n, m] behind them."""
    model, adapters, draw = frozen_model(seed), fresh_adapters(seed + 1), torch.Generator().manual_seed(seed + 2)
    optimizer = torch.optim.AdamW(adapters, lr=RATE, weight_decay=0.0)
    preferences = np.clip(grid(), 1e-3, None)  # a weight of exactly 0 would leave that reward to drift
    running, seen, archive = None, np.zeros((2, 2)), []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        logprobs = log_probabilities(model, adapters)
        tokens = torch.multinomial(logprobs.detach().exp(), G, replacement=True, generator=draw)  # [K, G]
        sampled = table[tokens.numpy()]  # [K, G, m]
        running = sampled.mean(1) if running is None else 0.5 * running + 0.5 * sampled.mean(1)
        for i in range(2):  # row i: both rewards of whoever was best at reward i when he was best
            best = running[running[:, i].argmax()]
            seen[i] = best if best[i] > seen[i, i] else seen[i]
        ideal = seen.diagonal()
        span = np.maximum(ideal - seen.min(0), 0.1)  # at first the range is mostly noise
        weights = chebyshev_weights(preferences, running, ideal, span)
        optimizer.zero_grad()
        loss_of(logprobs, tokens, advantages(sampled), weights).backward()
        optimizer.step()
        if (step + 1) % 20 == 0:  # measured exactly here; on a real model, on held-out prompts and with their noise
            archive.append(log_probabilities(model, adapters).detach().exp().double().numpy() @ table)
    return np.concatenate(archive), np.tile(grid(), (len(archive), 1))


if __name__ == "__main__":
    values, preferences = fit(rewards())
    kept = not_dominated(values.round(2))  # a hundredth more is no other policy
    front = np.unique(values[kept].round(2), axis=0)
    print(f"{len(values)} measured, {len(front)} on the front, hypervolume {hypervolume(front):.3f} (the circle: .785)")
    for point in front:
        print(f"  {point[0]:.2f}  {point[1]:.2f}")
    for wish in ((0.8, 0.2), (0.5, 0.5)):
        print(f"a user who wants {wish} gets {front[choose(front, np.array(wish), place=True)]}")
