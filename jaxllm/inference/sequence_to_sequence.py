"""Encoder-decoders at work: the likeliest target, token by token.

Shape letters: B batch, S source time, P prompt of the target, N new tokens, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxllm.inference.greedy import write_greedily
from jaxllm.models.config import EncoderDecoderConfig
from jaxllm.models.encoder_decoder import EncoderDecoder, decode, encode, start_cache, unembed


def write_target(
    params: EncoderDecoder,
    config: EncoderDecoderConfig,
    source: Int[Array, "B S"],
    *,
    mask: Bool[Array, "B S"] | None = None,
    prompt: Int[Array, "B P"] | None = None,
    max_new_tokens: int = 128,
) -> Int[Array, "B N"]:
    """The greedy target of each source: up to and with the end token, then padding.

    `mask` is False for padding of the source. `prompt` is what the targets begin with, the start token first (BART's
    models for summaries have their first token forced, some models a language); it is not part of what is returned.
    Raises ValueError when the targets would grow beyond the decoder's learned positions.
    """
    if prompt is None:
        prompt = jnp.full((source.shape[0], 1), config.start_token, jnp.int32)
    length = prompt.shape[1] + max_new_tokens
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if config.decoder.positions == "learned" and length - 1 > config.decoder.context_length:
        raise ValueError(
            f"a prompt of {prompt.shape[1]} and {max_new_tokens} new tokens exceed the decoder's "
            f"{config.decoder.context_length} positions: lower max_new_tokens"
        )
    return _write(params, config, jnp.asarray(source), mask, jnp.asarray(prompt), max_new_tokens)


@partial(jax.jit, static_argnames=("config", "max_new_tokens"))
def _write(params, config, source_BS, mask_BS, prompt_BP, max_new_tokens):
    B, P = prompt_BP.shape
    memory = encode(params, config, source_BS, mask=mask_BS)
    cache = start_cache(params, config, memory, P + max_new_tokens)

    def advance(tokens_BT, cache):
        hidden = decode(params, config, tokens_BT, cache=cache)
        logits_B1V = unembed(params, config, hidden.x_BTD[:, -1:])
        return logits_B1V[:, 0].argmax(-1).astype(jnp.int32), hidden.cache

    token_B, cache = advance(prompt_BP, cache)
    return write_greedily(
        lambda token_B, cache: advance(token_B[:, None], cache),
        token_B,
        cache,
        max_new_tokens=max_new_tokens,
        end_token=config.end_token,
        pad_token=config.pad_token,
    )
