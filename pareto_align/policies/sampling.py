"""Batched decoding of a whole population with a preallocated KV cache.

The prompt is read once per policy (with activated adapters once for all policies), its keys and values are shared by
the G samples; rows that have ended leave the batch in equal numbers per policy, so that rows stay grouped by policy.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from pareto_align.errors import ModelError, ParetoAlignWarning
from pareto_align.policies.base import Base
from pareto_align.policies.decoding import Decoding, Looks, living_first
from pareto_align.policies.determinism import deterministic
from pareto_align.policies.drawing import Completions, Drawn, SamplingParams
from pareto_align.policies.generation import generate
from pareto_align.policies.layers.attention import no_mask
from pareto_align.policies.layers.caching import GrowingCache, SharedPrompt
from pareto_align.policies.layers.packing import Past, right_pad
from pareto_align.policies.population import PolicyPopulation
from pareto_align.policies.static import StaticSampler
from pareto_align.policies.transfers import runs_behind, to_device

__all__ = [
    "Completions",
    "SamplingParams",
    "drives",
    "fits_window",
    "read_contexts",
    "read_prompts",
    "run",
    "sample",
    "uniforms_of",
]

COMPACT_BELOW = 0.75  # rows leave once a quarter of them has ended: copying the cache costs about one step
PREFILL_TOKENS = 16384  # read at once
CHECK_TOKENS, CHECK_STEPS = 64, 2  # of the check that the sampler gives the model's own logits


@torch.no_grad()
def sample(
    population: PolicyPopulation,
    prompt_ids: Sequence[Sequence[int]],
    group_size: int,
    params: SamplingParams,
    seeds: Sequence[int] | Sequence[Sequence[int]],
    *,
    policies: Tensor | None = None,
    prompts_a_seed: int | None = None,
    own: bool = False,
) -> Completions:
    """Draw `group_size` completions of every prompt from every policy.

    A policy's completions depend on its own seed, not on K nor on its neighbours: all random numbers of a policy come
    from its own generator and are drawn before decoding. A model that our own decoding cannot drive is sampled by
    transformers' `generate`, and said so once.

    Args:
        population: The policies.
        prompt_ids: N prompts as token ids, or K*N of them, policy-major.
        group_size: G.
        params: Temperature and length.
        seeds: One seed a policy served; with `prompts_a_seed` several, of which each seeds that many prompts.
        policies: `[K, P]` to run; by default all slots. With none at all (`[0, P]`) the reference policy runs.
        prompts_a_seed: Prompts whose random numbers come from one seed, so that they draw the same numbers in whatever
            batch they stand; by default all N.
        own: Whether each policy has N prompts of its own.

    Returns:
        Completions `[K, N, G, T]`, on the CPU. K is 1 for the reference policy.

    Raises:
        ModelError: The adapters are activated ones and the model is one that only `generate` can sample.
        PromptError: The adapters are activated ones and a prompt does not contain their invocation tokens.
    """
    served = population.parameters if policies is None else policies
    count, length = max(served.shape[0], 1), params.max_new_tokens
    prompts = len(prompt_ids) // (count if own else 1)
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} policies.")
    uniforms = torch.cat([uniforms_of(seed, prompts, group_size, length, prompts_a_seed) for seed in seeds])
    serving = population.serving(served) if served.shape[0] else population.reference()
    drawn = Drawn(population.base, count * prompts * group_size, params, uniforms)
    run(population, prompt_ids, group_size, count, serving, drawn)
    return drawn.completions(prompt_ids, (count, prompts, group_size, length), population.base.stop_ids)


def run(
    population: PolicyPopulation,
    prompt_ids: Sequence[Sequence[int]],
    group: int,
    policies: int,
    serving: AbstractContextManager[None],
    drawn: Drawn,
    *,
    eager: bool = False,
) -> None:
    """Decode all completions, or let transformers do it where our own decoding cannot drive the model.

    Args:
        population: The policies.
        prompt_ids: N prompts, or K * N of them, policy-major, where each policy has its own.
        group: G.
        policies: K being served.
        serving: Lets the population serve them.
        drawn: Where the K * N * G completions go; it draws.
        eager: Whether `drawn` has a way of its own to draw, which fixed shapes do not know.
    """
    if len(prompt_ids) * group < len(drawn.tokens):
        prompt_ids = [*prompt_ids] * policies
    longest = max(map(len, prompt_ids)) + drawn.params.max_new_tokens
    with deterministic(population.deterministic):
        if fits_window(population.base, longest) and drives(population, prompt_ids):
            _decode(population, prompt_ids, group, policies, serving, drawn, eager)
        else:
            with serving:
                generate(population, prompt_ids, group, policies, drawn)


def uniforms_of(seed: int | Sequence[int], prompts: int, group: int, length: int, prompts_a_seed: int | None) -> Tensor:
    """The random numbers `[N * G, T]` of one policy."""
    seeds = [seed] if isinstance(seed, int) else seed
    size = prompts_a_seed or prompts
    if len(seeds) != -(-prompts // size):
        raise ValueError(f"{len(seeds)} seeds a policy for {prompts} prompts, {size} a seed.")
    drawn = []
    for start, one in zip(range(0, prompts, size), seeds, strict=True):
        rows = min(size, prompts - start) * group
        drawn.append(torch.rand(rows, length, generator=torch.Generator().manual_seed(one)))
    return torch.cat(drawn)


def fits_window(base: Base, tokens: int) -> bool:
    """Whether a sequence of so many tokens stays inside the model's sliding window, if it has one."""
    window = getattr(base.model.config.get_text_config(), "sliding_window", None)
    return not window or tokens <= window


def drives(population: PolicyPopulation, prompt_ids: Sequence[Sequence[int]]) -> bool:
    """Whether our own decoding gives the model's own logits; checked once a population, on the frozen base."""
    if population.drivable is None:
        reason = _why_not_driven(population, prompt_ids)
        population.drivable = reason is None
        if reason is not None:
            warnings.warn(
                f"{type(population.base.model).__name__} cannot be decoded by the population's own sampler ({reason}); "
                "transformers' generate is used, which is slower.",
                ParetoAlignWarning,
                stacklevel=3,
            )
    return population.drivable


def _why_not_driven(population: PolicyPopulation, prompt_ids: Sequence[Sequence[int]]) -> str | None:
    """A long and a short prompt, two rows each: the last two tokens are decoded, and the logits compared.

    Real prompts, because a model is chaotic on nonsense: in bfloat16 two right ways to run it then differ widely.
    """
    base = population.base
    if not population.attention.in_place:
        return "it has an attention of its own"
    chosen = [list(ids[-CHECK_TOKENS:]) for ids in (max(prompt_ids, key=len), min(prompt_ids, key=len))]
    chosen = [ids if len(ids) > CHECK_STEPS else (ids * (CHECK_STEPS + 1))[: CHECK_STEPS + 1] for ids in chosen]
    forced = torch.tensor([ids[-CHECK_STEPS:] for ids in chosen for _ in range(2)], device=base.device)
    try:
        with population.reference(), torch.no_grad():
            state = _prefill(
                population, [ids[:-CHECK_STEPS] for ids in chosen], 2, 1, room=CHECK_STEPS, activated=False
            )
            seen = [state.logits]
            for step in range(CHECK_STEPS):
                state.advance(forced[:, step])
                seen.append(state.logits)
            ours = torch.stack(seen, 1)
            theirs = torch.stack(
                [
                    base.model(input_ids=torch.tensor([ids], device=base.device), use_cache=False)
                    .logits[0, -CHECK_STEPS - 1 :]
                    .float()
                    for ids in chosen
                    for _ in range(2)
                ]
            )
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, ModelError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    gap = float((ours - theirs).norm() / (theirs - theirs.mean(-1, keepdim=True)).norm())
    return None if gap <= (0.2 if base.rounds_coarsely else 1e-3) else f"its logits differ by {gap:.2g}"


def _decode(
    population: PolicyPopulation,
    prompt_ids: Sequence[Sequence[int]],
    group: int,
    policies: int,
    serving: AbstractContextManager[None],
    drawn: Drawn,
    eager: bool = False,
) -> None:
    """Decode all completions together; those that have ended leave in equal numbers per policy."""
    with serving:
        decode = _decode_eagerly
        if not eager and in_fixed_shapes(population, prompt_ids):
            decode = population.static.decode
        decode(_prefill(population, prompt_ids, group, policies, room=drawn.params.max_new_tokens), drawn, policies)


def in_fixed_shapes(population: PolicyPopulation, prompt_ids: Sequence[Sequence[int]]) -> bool:
    """Whether decoding runs in fixed shapes, captured where there are CUDA graphs; the first time that is checked."""
    if population.sampler == "eager" or (population.sampler == "auto" and population.base.device.type != "cuda"):
        return False
    if population.static is None:
        if not _says_the_same(population, prompt_ids):
            population.sampler = "eager"
            warnings.warn(
                f"{type(population.base.model).__name__} says something else where it is decoded in fixed shapes; the "
                "eager sampler is used, which is slower on a GPU.",
                ParetoAlignWarning,
                stacklevel=4,
            )
            return False
        population.static = StaticSampler(population)
    return True


def _says_the_same(population: PolicyPopulation, prompt_ids: Sequence[Sequence[int]]) -> bool:
    """Whether the frozen base draws the same in fixed shapes, for two prompts; where it rounds coarsely, as likely."""
    base, params = population.base, SamplingParams(2 * CHECK_STEPS)
    chosen = [list(ids[-CHECK_TOKENS:]) for ids in (max(prompt_ids, key=len), min(prompt_ids, key=len))]
    static = StaticSampler(population, compiler=lambda step: step)
    static.graphs.working = False
    found = []
    for decode in (_decode_eagerly, static.decode):
        drawn = Drawn(base, 4, params, torch.full((4, params.max_new_tokens), 0.5))
        with population.reference():
            decode(_prefill(population, chosen, 2, 1, room=params.max_new_tokens, activated=False), drawn, 1)
        found.append(drawn.completions(chosen, (1, 2, 2, params.max_new_tokens), base.stop_ids))
    one, other = found
    alike = (one.tokens == other.tokens).int().cumprod(-1).bool()  # what follows a difference says nothing
    gap = (one.logprobs - other.logprobs).abs().masked_fill(~alike, 0).max()
    return bool(gap <= (0.2 if base.rounds_coarsely else 1e-3)) and (base.rounds_coarsely or bool(alike.all()))


def _decode_eagerly(state: Decoding, drawn: Drawn, policies: int) -> None:
    device, length = drawn.tokens.device, drawn.params.max_new_tokens
    looks = Looks(drawn)
    slots = torch.arange(len(drawn.tokens))  # batch row -> completion
    index = to_device(slots, device)
    for step in range(length):
        token = drawn.draw(state.logits, index, step)
        if step + 1 == length:
            break
        if looks.due(step) and (ended := looks.ended()) is not None:
            living = int((~ended).view(policies, -1).sum(1).max())
            if living == 0:
                break
            if living <= COMPACT_BELOW * (len(slots) // policies):
                keep = living_first(ended[slots], policies, living)
                state.keep(keep)
                slots, token = slots[keep], token[to_device(keep, device)]
                index = to_device(slots, device)
        state.advance(token)


def _prefill(
    population: PolicyPopulation,
    prompt_ids: Sequence[Sequence[int]],
    group: int,
    policies: int,
    *,
    room: int = 2,
    activated: bool | None = None,
) -> Decoding:
    """Read the prompts once per policy, or what all policies share of them once in all; ready to decode.

    Args:
        population: The policies; those being served when this is called are the ones that read.
        prompt_ids: The N prompts of each policy, K * N in all.
        group: G, completions a prompt.
        policies: K.
        room: Tokens that will be decoded.
        activated: Whether prompts are split at the invocation tokens; by default if the adapters are activated ones.
    """
    device = population.base.device
    prompts = len(prompt_ids) // policies
    if not (population.activated if activated is None else activated):
        past, hidden = read_prompts(population, prompt_ids, policies)
        prefix = torch.arange(policies * prompts).repeat_interleave(group)
        plan = SharedPrompt(past.keys, past.values, lengths_of(prompt_ids), prefix)
        index = to_device(prefix, device)
        state = Decoding(population, plan, GrowingCache(population.base.model, room), past.lengths[index])
        state.logits = population.head.logits(hidden)[index]
        return state
    contexts, invocations = zip(*(population.split(ids) for ids in prompt_ids[:prompts]), strict=True)
    past = read_contexts(population, contexts)
    own, seen = right_pad(invocations, int(population.base.tokenizer.pad_token_id), device)
    wide = own.shape[1]
    rows, lengths = torch.arange(policies * prompts), lengths_of(invocations)
    plan = SharedPrompt(past.keys, past.values, lengths_of(contexts), rows % prompts)
    cache = GrowingCache(population.base.model, wide)
    start = past.lengths.repeat(policies)
    with population.attention.following(plan):
        hidden = population.head.read(
            cache,
            input_ids=own.repeat(policies, 1),
            position_ids=start[:, None] + torch.arange(wide, device=device),
            attention_mask=no_mask(device),
        )
    spread = rows.repeat_interleave(group)
    index = to_device(spread, device)
    cache.take(index, wide + room)
    ragged = None
    if int(lengths.min()) < wide:
        ragged = torch.cat([seen.bool().repeat(policies, 1), seen.new_ones(len(rows), room).bool()], 1)[index]
    plan.serve(spread % prompts, ragged)
    last = to_device(lengths.repeat(policies), device)
    state = Decoding(population, plan, cache, (start + last)[index])
    state.logits = population.head.logits(hidden[torch.arange(len(rows), device=device), last - 1])[index]
    return state


def lengths_of(prompt_ids: Sequence[Sequence[int]]) -> Tensor:
    """Tokens `[N]` of each prompt, on the CPU."""
    return torch.tensor([len(ids) for ids in prompt_ids])


def read_prompts(
    population: PolicyPopulation, prompt_ids: Sequence[Sequence[int]], policies: int
) -> tuple[Past, Tensor]:
    """Keys, values and the last hidden states `[K*N, d]` of K*N prompts, N for each of K policies being served.

    Prompts of similar length are read together, padded on the right where causal attention never looks, so that a long
    prompt does not make the short ones wait.
    """
    base = population.base
    pad, device = int(base.tokenizer.pad_token_id), base.device
    lengths = lengths_of(prompt_ids)
    rows, prompts, widest = len(prompt_ids), len(prompt_ids) // policies, int(lengths.max())
    config = base.model.config.get_text_config()
    keys: list[Tensor] = []
    values: list[Tensor] = []
    last = torch.empty(0)
    # rows are grouped by policy, so a prompt is read together with what the other policies have in its place
    longest = lengths.view(policies, prompts).amax(0)
    buckets = _length_buckets(longest.tolist(), policies, launches_cost=runs_behind(device))
    for part in buckets:
        chosen = (torch.arange(policies)[:, None] * prompts + torch.tensor(part)).flatten()
        index = chosen.to(device)
        ids, seen = right_pad([prompt_ids[n] for n in chosen.tolist()], pad, device)
        cache = GrowingCache(base.model, ids.shape[1])
        hidden = population.head.read(
            cache,
            input_ids=ids,
            position_ids=torch.arange(ids.shape[1], device=device).expand(len(index), -1),
        )
        found = hidden[torch.arange(len(index), device=device), seen.sum(1) - 1]
        read = cache.read()
        if len(buckets) == 1 and len(part) == prompts:
            keys, values, last = *read, found
            break
        if not keys:
            keys, values = ([x.new_zeros(rows, x.shape[1], widest, x.shape[3]) for x in layers] for layers in read)
            last = found.new_zeros(rows, found.shape[1])
        for whole, layers in zip((keys, values), read, strict=True):
            for into, x in zip(whole, layers, strict=True):
                into[index, :, : ids.shape[1]] = x
        last[index] = found
    if not keys:  # nothing stands before the invocation tokens
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        depth = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        nothing = torch.empty(rows, heads, 0, depth, device=device, dtype=base.dtype)
        keys = values = [nothing] * config.num_hidden_layers
    return Past(keys, values, to_device(lengths, device), lengths), last


@torch.no_grad()
def read_contexts(population: PolicyPopulation, contexts: Sequence[Sequence[int]]) -> Past:
    """What the frozen base makes of the parts of N prompts that stand before the adapters' invocation tokens.

    The last answer is kept: sampling, the reference policy and the training pass ask for the same prompts.
    """
    key = tuple(map(tuple, contexts))
    if population.read is None or population.read[0] != key:
        with population.reference():
            population.read = (key, read_prompts(population, contexts, 1)[0])
    return population.read[1]


def _length_buckets(lengths: Sequence[int], policies: int, *, launches_cost: bool = False) -> list[list[int]]:
    """Prompt numbers in groups to be read together: at most a quarter padding, and not too many tokens at once.

    Where launching a pass costs as much as reading some thousand tokens, up to half may be padding, and what fits into
    one pass is read in one.
    """
    order = sorted((n for n, length in enumerate(lengths) if length), key=lambda n: -lengths[n])
    if launches_cost and order and len(order) * lengths[order[0]] * policies <= PREFILL_TOKENS:
        return [sorted(order)]
    buckets: list[list[int]] = []
    for n in order:
        if buckets:
            longest, size = lengths[buckets[-1][0]], len(buckets[-1]) + 1
            fits = size == 1 or size * longest * policies <= PREFILL_TOKENS
            if fits and longest <= (2 if launches_cost else 1.25) * lengths[n] + 8:
                buckets[-1].append(n)
                continue
        buckets.append([n])
    return [sorted(bucket) for bucket in buckets]
