"""Prefill, then decode with a cache, both inside jit: token ids in, token ids out.

Prompts of one batch are padded on the right. Their padding is computed and cached too, but no real token ever looks at
it: a query sees no position after its own, and each cache slot is overwritten by the token that belongs there before it
is seen. So a row gets the same logits, up to rounding, whatever stands beside it, and its random keys depend on its own
seed and position alone: the same tokens come out alone or in a batch, in chunks of any size.

Shape letters: B batch, P padded prompt, N new tokens of a chunk, D model width, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxllm.inference.sampling import Sampling, SamplingConfig, as_arrays, sample
from jaxllm.models import Cache, Decoder, ModelConfig, decoder_spec, hidden_states, make_cache, unembed
from jaxllm.models.norm import Norm

CHUNK = 16  # most tokens decoded between two looks from the host
PROMPT_BUCKET = 16  # prompts are padded to a power of two, at least this: few lengths, so few compilations
CACHE_MULTIPLE = 128  # cache lengths likewise, and a whole number of an accelerator's lanes
NOT_FINITE = -1  # stands for a token where the logits were no numbers


@struct.dataclass
class DecodeState:
    """What decoding carries from token to token."""

    cache: Cache
    token_B: jax.Array  # the newest token, which the cache does not hold yet
    seen_BV: jax.Array  # tokens that the repetition penalty applies to


@struct.dataclass
class Rows:
    """What stays the same for each row."""

    sampling: Sampling
    seed_B: jax.Array


@partial(jax.jit, static_argnames=("config", "cache_length", "vocab_size", "ends"))
def prefill(
    params: Decoder,
    config: ModelConfig,
    tokens_BP: jax.Array,
    length_B: jax.Array,
    rows: Rows,
    *,
    cache_length: int,
    vocab_size: int,
    ends: tuple[int, ...],
) -> DecodeState:
    """Read the prompts, of `length_B` tokens each, and draw the first new token of each row."""
    B, P = tokens_BP.shape
    valid_BP = jnp.arange(P)[None] < length_B[:, None]
    hidden = hidden_states(params, config, tokens_BP, valid=valid_BP, cache=make_cache(config, B, cache_length))
    last_B1D = jnp.take_along_axis(hidden.x_BTD, (length_B - 1)[:, None, None], axis=1)
    seen_BV = jnp.zeros((B, config.vocab_size), bool)
    seen_BV = seen_BV.at[jnp.arange(B)[:, None], tokens_BP].max(valid_BP)
    state = DecodeState(hidden.cache.replace(length_B=length_B), jnp.zeros_like(length_B), seen_BV)
    return _append(state, unembed(params, config, last_B1D)[:, 0], rows, vocab_size, ends)


@partial(jax.jit, static_argnames=("config", "vocab_size", "ends"), donate_argnames="state")
def decode(
    params: Decoder,
    config: ModelConfig,
    state: DecodeState,
    left_B: jax.Array,
    rows: Rows,
    count: int | jax.Array,
    *,
    vocab_size: int,
    ends: tuple[int, ...],
) -> tuple[DecodeState, jax.Array]:
    """`count` (at most CHUNK) more tokens, int32 [B, CHUNK].

    `left_B` says how many more each row may get, 0 once it is done; what is written for it after that means nothing.
    When all rows are done it stops. `count` is not static: a smaller chunk is not another compilation.
    """
    written_BN = jnp.zeros((left_B.shape[0], CHUNK), jnp.int32)

    def unfinished(carry):
        i, _, left_B, _ = carry
        return (i < count) & jnp.any(left_B > 0)

    def advance(carry):
        i, state, left_B, written_BN = carry
        hidden = hidden_states(params, config, state.token_B[:, None], cache=state.cache)
        # A row that is done stays where it is, so that it never runs out of its cache.
        length_B = jnp.where(left_B > 0, hidden.cache.length_B, state.cache.length_B)
        state = state.replace(cache=hidden.cache.replace(length_B=length_B))
        state = _append(state, unembed(params, config, hidden.x_BTD)[:, 0], rows, vocab_size, ends)
        left_B = jnp.maximum(left_B - 1, 0)
        left_B = jnp.where(_among(state.token_B, ends), 0, left_B)
        return i + 1, state, left_B, written_BN.at[:, i].set(state.token_B)

    _, state, _, written_BN = jax.lax.while_loop(unfinished, advance, (0, state, left_B, written_BN))
    return state, written_BN


def _append(
    state: DecodeState, logits_BV: jax.Array, rows: Rows, vocab_size: int, ends: tuple[int, ...]
) -> DecodeState:
    """Draw the token that stands at position `length_B` of each row."""
    key = lambda seed, position: jax.random.fold_in(jax.random.key(seed), position)  # noqa: E731
    keys_B = jax.vmap(key)(rows.seed_B, state.cache.length_B)
    # The mark that begins and ends documents is structure, not text, so having begun does not make ending less likely.
    seen_BV = state.seen_BV.at[:, list(ends)].set(False) if ends else state.seen_BV
    token_B = sample(logits_BV, rows.sampling, seen_BV, keys_B, vocab_size=vocab_size)
    token_B = jnp.where(jnp.isfinite(jnp.max(logits_BV, axis=-1)), token_B, NOT_FINITE)
    return DecodeState(state.cache, token_B, seen_BV.at[jnp.arange(token_B.shape[0]), token_B].set(True))


def _among(token_B: jax.Array, ends: tuple[int, ...]) -> jax.Array:
    return jnp.isin(token_B, jnp.array(ends, jnp.int32)) if ends else jnp.zeros(token_B.shape, bool)


class Decoding:
    """A batch of prompts being continued, a chunk at a time.

    `prompts` are ids, at least one each; `seeds` one for all rows, or one a row; `vocab_size` the number of tokens
    there are where the model's table has more rows; rows end at `end_of_text` (one token or several) if it is given,
    after `max_new_tokens`, or when prompt and answer fill the model's context. Raises ValueError for prompts, lengths
    or seeds that cannot be.
    """

    def __init__(
        self,
        params: Decoder,
        config: ModelConfig,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        sampling: SamplingConfig = SamplingConfig(),  # noqa: B008 - frozen
        seeds: int | Sequence[int] = 0,
        vocab_size: int | None = None,
        end_of_text: int | Sequence[int] | None = None,
    ):
        vocab_size = vocab_size or config.vocab_size
        check_prompts(prompts, vocab_size, config.context_length)
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        self._params, self._config = in_compute_type(params, config), config
        self._rows = Rows(as_arrays([sampling] * len(prompts)), _seeds(seeds, len(prompts)))
        ends = (end_of_text,) if isinstance(end_of_text, int) else tuple(end_of_text or ())
        self._ends = {"vocab_size": vocab_size, "ends": ends}
        self._left = np.minimum(max_new_tokens, config.context_length - lengths).astype(np.int32)

        bucket = prompt_bucket(int(lengths.max()), config.context_length)
        tokens = np.zeros((len(prompts), bucket), np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        cache_length = min(_round_up(bucket + max_new_tokens, CACHE_MULTIPLE), config.context_length)
        begin = time.perf_counter()
        self._state = prefill(
            self._params, config, tokens, lengths, self._rows, cache_length=cache_length, **self._ends
        )
        self._first = np.array(self._state.token_B)[:, None]  # a copy: the state is donated below
        self.prefill_seconds = time.perf_counter() - begin  # compilation included, where there was any
        self.decode_seconds, self.decoded_tokens = 0.0, 0
        self._run(0)  # compiles, so that the seconds of decoding are those of decoding

    @property
    def finished(self) -> bool:
        return not self._left.any()

    def finish(self, row: int) -> None:
        """Nothing more is wanted of this row."""
        self._left[row] = 0

    def next(self, count: int = CHUNK) -> list[list[int]]:
        """The next tokens of each row, at most `count` and none once it has finished; the first call gives one each.

        An `end_of_text` that ends a row is the last of its tokens. Raises FloatingPointError when the model gives no
        numbers.
        """
        if self._first is not None:
            first, self._first = self._first, None
            return [self._take(row, ids) for row, ids in enumerate(first.tolist())]
        begin = time.perf_counter()
        written = self._run(min(count, CHUNK))[:, :count]
        self.decode_seconds += time.perf_counter() - begin
        new = [self._take(row, ids) for row, ids in enumerate(written.tolist())]
        self.decoded_tokens += sum(map(len, new))
        return new

    def _run(self, count: int) -> np.ndarray:
        self._state, written = decode(
            self._params, self._config, self._state, self._left, self._rows, count, **self._ends
        )
        return np.asarray(written)

    def _take(self, row: int, ids: list[int]) -> list[int]:
        ids = ids[: self._left[row]]
        if NOT_FINITE in ids:
            raise FloatingPointError(
                "the model's logits are not finite: its parameters are damaged or its training diverged"
            )
        self._left[row] -= len(ids)
        end = next((place for place, token in enumerate(ids) if token in self._ends["ends"]), None)
        if end is not None:
            ids = ids[: end + 1]
            self._left[row] = 0
        return ids


def generate_tokens(
    params: Decoder, config: ModelConfig, prompts: Sequence[Sequence[int]], **settings
) -> list[list[int]]:
    """The ids that continue each prompt, with `end_of_text` where a row ended so; settings are those of `Decoding`."""
    decoding = Decoding(params, config, prompts, **settings)
    written: list[list[int]] = [[] for _ in prompts]
    while not decoding.finished:
        for row, new in zip(written, decoding.next(), strict=True):
            row.extend(new)
    return written


def check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int, context_length: int) -> None:
    """Raises ValueError unless each prompt has a token, only tokens that exist, and leaves room for one more."""
    if not prompts:
        raise ValueError("there is no prompt: give at least one")
    for number, prompt in enumerate(prompts):
        which = f"prompt {number}" if len(prompts) > 1 else "the prompt"
        if len(prompt) == 0:
            raise ValueError(f"{which} has no tokens: start a new document with the tokenizer's end_of_text token")
        for position, token in enumerate(prompt):
            if not 0 <= token < vocab_size:
                raise ValueError(
                    f"{which} has token {token} at position {position}; the vocabulary has 0 to {vocab_size - 1}: "
                    "encode the prompt with the model's own tokenizer"
                )
        if len(prompt) > context_length - 1:
            raise ValueError(
                f"{which} has {len(prompt)} tokens; the model reads at most {context_length - 1} (its context of "
                f"{context_length} less one to generate): shorten it by {len(prompt) - context_length + 1} or more"
            )


def prompt_bucket(length: int, context_length: int) -> int:
    """The padded length of a prompt: the next power of two, at least PROMPT_BUCKET, at most the context."""
    return min(max(PROMPT_BUCKET, 1 << (length - 1).bit_length()), context_length)


def in_compute_type(params: Decoder, config: ModelConfig) -> Decoder:
    """The parameters as products use them, so that decoding reads half the bytes when it computes in bfloat16.

    Products cast each weight where they use it, so nothing changes; norms compute in float32 and keep their scales.
    """
    dtype = jnp.dtype(config.compute_dtype)
    is_norm = lambda node: isinstance(node, Norm)  # noqa: E731
    # The declarations say where a norm ends and what stands in a parameter's place; norms are no arrays, so they stay.
    cast = lambda _, leaf: leaf.astype(dtype) if isinstance(leaf, jax.Array) else leaf  # noqa: E731
    return jax.tree.map(cast, decoder_spec(config), params, is_leaf=is_norm)


def _seeds(seeds: int | Sequence[int], batch: int) -> np.ndarray:
    listed = [seeds] * batch if isinstance(seeds, int) else list(seeds)
    if len(listed) != batch:
        raise ValueError(f"{len(listed)} seeds for {batch} prompts: give one for all, or one for each")
    for seed in listed:
        if not 0 <= seed < 2**32:
            raise ValueError(f"a seed must be between 0 and {2**32 - 1}, got {seed}")
    return np.array(listed, np.uint32)


def _round_up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
