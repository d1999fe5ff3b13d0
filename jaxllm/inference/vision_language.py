"""Models that see at work: the likeliest answer to a prompt with images.

Shape letters: B batch, P prompt, N new tokens, I images, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxllm.inference.greedy import write_greedily
from jaxllm.models.config import VisionLanguageConfig
from jaxllm.models.decoder import hidden_states, make_cache, unembed
from jaxllm.models.vision_language import VisionLanguage, check_placeholders, read


def write_about_images(
    params: VisionLanguage,
    config: VisionLanguageConfig,
    prompts: Int[Array, "B P"],
    pixels: Float[Array, "I H W C"],
    *,
    lengths: Int[Array, " B"] | None = None,
    max_new_tokens: int = 128,
    end_token: int = -1,
    pad_token: int = 0,
) -> Int[Array, "B N"]:
    """What follows each prompt, greedily: up to and with the end token, then padding.

    Each image takes `config.tokens_per_image` placeholders in the prompts, row after row. `lengths` says how much of a
    row is prompt; padding follows. Raises ValueError when placeholders and images do not fit, and when the texts would
    grow beyond the model's learned positions.
    """
    prompts = np.asarray(prompts)
    check_placeholders(config, prompts, pixels.shape[0])
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    longest = prompts.shape[1] + max_new_tokens
    if config.text.positions == "learned" and longest > config.text.context_length:
        raise ValueError(f"{longest} tokens exceed the {config.text.context_length} learned positions of the decoder")
    length_B = np.full(prompts.shape[0], prompts.shape[1]) if lengths is None else np.asarray(lengths)
    if length_B.min() < 1 or length_B.max() > prompts.shape[1]:
        raise ValueError(f"lengths must be between 1 and {prompts.shape[1]}, got {length_B.tolist()}")
    return _write(params, config, prompts, pixels, length_B, max_new_tokens, end_token, pad_token)


@partial(jax.jit, static_argnames=("config", "max_new_tokens", "end_token", "pad_token"))
def _write(params, config, prompts_BP, pixels, length_B, max_new_tokens, end_token, pad_token):
    B, P = prompts_BP.shape

    def likeliest(x_BTD):
        return unembed(params.text, config.text, x_BTD)[:, 0].argmax(-1).astype(jnp.int32)

    def advance(token_B, cache):
        hidden = hidden_states(params.text, config.text, token_B[:, None], cache=cache)
        return likeliest(hidden.x_BTD), hidden.cache

    cache = make_cache(config.text, B, P + max_new_tokens)
    real_BP = jnp.arange(P)[None] < length_B[:, None]
    hidden = read(params, config, prompts_BP, pixels, valid=real_BP, cache=cache)
    # Padding was cached behind the prompt; what is written next takes its place before it is seen.
    cache = hidden.cache.replace(length_B=length_B.astype(jnp.int32))
    last_B1D = jnp.take_along_axis(hidden.x_BTD, length_B[:, None, None] - 1, axis=1)
    return write_greedily(
        advance,
        likeliest(last_B1D),
        cache,
        max_new_tokens=max_new_tokens,
        end_token=end_token,
        pad_token=pad_token,
    )
