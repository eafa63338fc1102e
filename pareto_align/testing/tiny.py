"""A randomly initialised tiny Llama and its few-symbol tokenizer, both built in memory.

The pair makes the smallest language model on which the whole pipeline (sampling, rewards, credit, LoRA update,
archive) is still the real one. Completions are strings of exactly T symbols out of V, so that everything a policy can
say can be enumerated (see `pareto_align.testing.exact`).

Token ids: the symbols are 0 .. V-1, then `<pad>`, `<bos>`, `<eos>`, then one token for each prompt, `<0>`, `<1>`, ...

Two choices make the model fit for its job:

- *Only symbols can be sampled.* The frozen output layer carries a bias of -1e4 on every other token: finite (it fits
  bfloat16), and exp(-1e4) is exactly zero in float32, whatever LoRA does to the hidden state. With `max_new_tokens=T` a
  completion therefore has exactly T symbols, and no probability is lost outside the table.
- *The reference policy is nearly uniform, and still every distribution over the symbols is within reach.* Embeddings
  live in the first half of the hidden space and the output layer reads the second half. The untrained model puts only a
  little there, so its logits are small; an adapter that writes into the second half can make any symbol nearly certain
  (the final norm fixes the length of the hidden state, hence the largest logit is `REACH`).
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pareto_align.errors import ConfigError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["LORA_TARGETS", "prompt_text", "symbol_strings", "symbol_text", "symbol_tokenizer", "tiny_llama"]

LORA_TARGETS: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of the tiny Llama that an adapter may change. The output layer is never one of them."""

REACH = 16.0
"""Largest logit of a symbol: the norm of its output row times the norm of the final hidden state."""

FORBIDDEN = -1e4
"""Output bias of the tokens that must never be sampled."""

_SINGLE_CHARACTERS = string.ascii_lowercase + string.digits
_SPECIAL = ("<pad>", "<bos>", "<eos>")


def symbol_text(index: int) -> str:
    """The one character that stands for symbol `index`: a..z, 0..9, then one ideograph each."""
    if index < len(_SINGLE_CHARACTERS):
        return _SINGLE_CHARACTERS[index]
    return chr(0x4E00 + index - len(_SINGLE_CHARACTERS))


def prompt_text(index: int) -> str:
    """The prompt number `index`, a text that is a single token of the tiny tokenizer."""
    return f"<{index}>"


def symbol_strings(V: int, T: int) -> NDArray[np.int64]:
    """All strings as symbol numbers [V**T, T] in table order: the last symbol changes fastest."""
    return np.arange(V**T)[:, None] // V ** np.arange(T - 1, -1, -1) % V


def symbol_tokenizer(symbols: int, n_prompts: int = 1) -> PreTrainedTokenizerFast:
    """A tokenizer that knows `symbols` one-character symbols and `n_prompts` prompts, and nothing else.

    Encoding puts `<bos>` in front. Decoding joins the symbols without spaces, so text and ids map one to one.

    Args:
        symbols: V, the number of symbols; their ids are 0 .. V-1.
        n_prompts: Number of prompt tokens `<0>`, `<1>`, ...

    Returns:
        A fast tokenizer, left padding, with distinct pad, bos and eos tokens and no chat template.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    _check_sizes(symbols, n_prompts)
    texts = [symbol_text(v) for v in range(symbols)] + list(_SPECIAL) + [prompt_text(p) for p in range(n_prompts)]
    vocabulary = {text: index for index, text in enumerate(texts)}
    backend = Tokenizer(WordLevel(vocabulary))  # no unknown token: a foreign character is an error, not a guess
    backend.pre_tokenizer = Split(Regex("<[^>]*>|."), behavior="isolated")
    backend.decoder = Fuse()
    backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def tiny_llama(
    symbols: int, n_prompts: int = 1, *, hidden_size: int = 64, layers: int = 2, seed: int = 0
) -> LlamaForCausalLM:
    """A random Llama in float32 whose next token is always one of `symbols` symbols, nearly uniformly at first.

    Args:
        symbols: V; the symbols are the tokens 0 .. V-1 of `symbol_tokenizer(symbols, n_prompts)`.
        n_prompts: Number of prompt tokens in the vocabulary.
        hidden_size: Width, a multiple of 8. 64 suffices for 32 symbols with adapters of rank 8.
        layers: Number of transformer blocks.
        seed: Of the weights. The caller's random state is left alone.

    Returns:
        The model in evaluation mode with every parameter frozen.

    Raises:
        ConfigError: A size is out of range.
    """
    import torch
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    _check_sizes(symbols, n_prompts)
    if hidden_size < 16 or hidden_size % 8:
        raise ConfigError(f"hidden_size must be a multiple of 8 and at least 16. Found hidden_size={hidden_size}.")
    vocabulary_size = symbols + len(_SPECIAL) + n_prompts
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=symbols,
        bos_token_id=symbols + 1,
        eos_token_id=symbols + 2,
        tie_word_embeddings=False,
        initializer_range=0.04,
    )
    half = hidden_size // 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        head = nn.Linear(hidden_size, vocabulary_size, bias=True)
        with torch.no_grad():
            embedding = model.model.embed_tokens.weight
            embedding[:, :half].normal_(0.0, 1.0)
            embedding[:, half:].normal_(0.0, 0.06)  # what makes the reference policy a little uneven
            rows = nn.init.orthogonal_(torch.empty(symbols, half))
            head.weight.zero_()
            head.weight[:symbols, half:] = rows / rows.norm(dim=1, keepdim=True) * (REACH / hidden_size**0.5)
            head.bias.fill_(FORBIDDEN)
            head.bias[:symbols] = 0.0
        model.set_output_embeddings(head)
    model.requires_grad_(False)
    return model.eval()


def _check_sizes(symbols: int, n_prompts: int) -> None:
    if not 2 <= symbols <= 4096:
        raise ConfigError(f"A tiny model has 2 to 4096 symbols. Found symbols={symbols}.")
    if not 1 <= n_prompts <= 4096:
        raise ConfigError(f"A tiny model has 1 to 4096 prompts. Found n_prompts={n_prompts}.")
