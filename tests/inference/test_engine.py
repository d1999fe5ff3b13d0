"""Decoding with a cache against recomputing everything for each token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.inference.engine import (
    CHUNK,
    Decoding,
    Rows,
    check_prompts,
    decode,
    generate_tokens,
    in_compute_type,
    prefill,
    prompt_bucket,
)
from jaxllm.inference.sampling import SamplingConfig, as_arrays
from jaxllm.models import forward, hidden_states, make_cache, unembed

from . import twins

GREEDY = SamplingConfig(temperature=0)
MODELS = {"grouped-rope-tied": twins.GROUPED_ROPE_TIED, "plain-learned-untied": twins.PLAIN_LEARNED_UNTIED}
PROMPTS = [[5], [7, 1, 4], [3] * 16, list(range(1, 20))]
NEW = 42

jitted_forward = jax.jit(forward, static_argnames="config")


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    config = MODELS[request.param]
    return config, twins.parameters(config)


def recomputed(params, config, prompt, new_tokens, choose=lambda logits, tokens: logits.argmax()):
    """The slow twin: the whole text goes through the model for each token. Padded on the right to compile once."""
    tokens = list(prompt)
    for _ in range(new_tokens):
        padded = np.zeros((1, config.context_length), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(jitted_forward(params, config, padded))[0, len(tokens) - 1, : twins.VOCAB_SIZE]
        tokens.append(int(choose(logits, tokens)))
    return tokens[len(prompt) :]


def test_greedy_ids_are_those_of_full_recomputation(model):
    config, params = model
    together = generate_tokens(
        params, config, PROMPTS, max_new_tokens=NEW, sampling=GREEDY, vocab_size=twins.VOCAB_SIZE
    )
    for prompt, tokens in zip(PROMPTS, together, strict=True):
        assert tokens == recomputed(params, config, prompt, NEW)


def test_sampled_ids_are_those_of_full_recomputation_with_keys_by_position(model):
    config, params = model

    def choose(logits, tokens):
        noise = jax.random.gumbel(jax.random.fold_in(jax.random.key(11), len(tokens)), (config.vocab_size,))
        return np.argmax(logits + np.asarray(noise)[: twins.VOCAB_SIZE])

    tokens = generate_tokens(params, config, PROMPTS[1:2], max_new_tokens=NEW, seeds=11, vocab_size=twins.VOCAB_SIZE)
    assert tokens[0] == recomputed(params, config, PROMPTS[1], NEW, choose)


def test_the_repetition_penalty_counts_the_prompt_and_what_was_written(model):
    config, params = model

    def choose(logits, tokens):
        return twins.penalize(logits, np.isin(np.arange(len(logits)), tokens), 1.6).argmax()

    tokens = generate_tokens(
        params,
        config,
        PROMPTS,
        max_new_tokens=20,
        sampling=SamplingConfig(0, repetition_penalty=1.6),
        vocab_size=twins.VOCAB_SIZE,
    )
    assert tokens == [recomputed(params, config, prompt, 20, choose) for prompt in PROMPTS]


def test_cached_logits_are_those_of_one_pass(model):
    """Right-padded prompts of different lengths, then one token at a time: every logit, to float32 rounding."""
    config, params = model
    texts = np.random.default_rng(0).integers(0, twins.VOCAB_SIZE, (3, config.context_length)).astype(np.int32)
    expected = np.asarray(jitted_forward(params, config, texts))
    lengths = np.array([1, 9, 16], np.int32)
    prompts = np.where(np.arange(16) < lengths[:, None], texts[:, :16], 77)  # what stands in the padding is not seen

    @jax.jit
    def step(tokens, cache):
        hidden = hidden_states(params, config, tokens, cache=cache)
        return unembed(params, config, hidden.x_BTD), hidden.cache

    logits, cache = step(prompts, make_cache(config, 3, config.context_length))
    cache = cache.replace(length_B=jnp.asarray(lengths))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row, :length], expected[row, :length], rtol=1e-4, atol=1e-4)
    for _ in range(40):
        position = np.asarray(cache.length_B)
        logits, cache = step(texts[np.arange(3), position][:, None], cache)
        np.testing.assert_allclose(logits[:, 0], expected[np.arange(3), position], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampling", [GREEDY, SamplingConfig(1.1, top_k=30, top_p=0.95, repetition_penalty=1.1)])
def test_a_batch_gives_what_each_prompt_gives_alone(model, sampling):
    config, params = model
    settings = {"max_new_tokens": NEW, "sampling": sampling, "vocab_size": twins.VOCAB_SIZE, "end_of_text": 0}
    seeds = [4, 5, 6, 7]
    together = generate_tokens(params, config, PROMPTS, seeds=seeds, **settings)
    alone = [generate_tokens(params, config, [p], seeds=s, **settings)[0] for p, s in zip(PROMPTS, seeds, strict=True)]
    assert together == alone


@pytest.fixture(scope="module")
def small():
    config = twins.GROUPED_ROPE_TIED
    return config, twins.parameters(config)


def test_neither_chunks_nor_repeats_change_the_tokens_but_seeds_do(small):
    config, params = small

    def run(chunk, seeds=3):
        decoding = Decoding(params, config, PROMPTS, max_new_tokens=NEW, seeds=seeds, vocab_size=twins.VOCAB_SIZE)
        rows = [[] for _ in PROMPTS]
        while not decoding.finished:
            new = decoding.next(chunk)
            assert max(map(len, new)) <= chunk
            for row, ids in zip(rows, new, strict=True):
                row.extend(ids)
        return rows

    reference = run(CHUNK)
    assert run(CHUNK) == reference
    assert run(1) == reference
    assert run(7) == reference
    other = run(CHUNK, seeds=[3, 3, 3, 8])
    assert other[:3] == reference[:3]
    assert other[3] != reference[3]


def test_a_row_ends_at_end_of_text_and_the_others_go_on(small):
    config, params = small
    settings = {"max_new_tokens": NEW, "sampling": GREEDY, "vocab_size": twins.VOCAB_SIZE}
    free = generate_tokens(params, config, PROMPTS, **settings)
    end = free[1][10]
    for tokens, unbounded in zip(
        generate_tokens(params, config, PROMPTS, end_of_text=end, **settings), free, strict=True
    ):
        expected = unbounded[: unbounded.index(end) + 1] if end in unbounded else unbounded
        assert tokens == expected


def test_a_row_that_is_done_stays_where_it_is(small):
    """One row may get 2 more tokens, one meets the end of text on its way, two go on for all 10."""
    config, params = small
    settings = {"max_new_tokens": NEW, "sampling": GREEDY, "vocab_size": twins.VOCAB_SIZE}
    free = generate_tokens(params, config, PROMPTS, **settings)
    # The first token of row 1 that no other row, nor row 1 before it, comes to write: which one that is depends on
    # rounding, as the model's weights are random.
    others = {*free[0][:3], *free[2][:11], *free[3][:11]}
    met = next(i for i in range(1, 10) if free[1][i] not in others | set(free[1][:i]))
    ends = {"vocab_size": twins.VOCAB_SIZE, "ends": (free[1][met],)}

    prompts = np.array([prompt + [0] * (32 - len(prompt)) for prompt in PROMPTS])
    lengths = np.array([len(prompt) for prompt in PROMPTS], np.int32)
    rows = Rows(as_arrays([GREEDY] * 4), np.zeros(4, np.uint32))
    state = prefill(params, config, prompts, lengths, rows, cache_length=64, **ends)
    state, written = decode(params, config, state, np.array([2, 10, 10, 10], np.int32), rows, 10, **ends)
    assert (state.cache.length_B - lengths).tolist() == [2, met, 10, 10]
    assert written[2:, :10].tolist() == [tokens[1:11] for tokens in free[2:]]


def test_a_row_the_caller_finishes_gives_nothing_more_and_the_others_are_unchanged(small):
    config, params = small
    free = generate_tokens(params, config, PROMPTS[:2], max_new_tokens=NEW)
    decoding = Decoding(params, config, PROMPTS[:2], max_new_tokens=NEW)
    rows = [decoding.next(), decoding.next(5)]
    decoding.finish(0)
    while not decoding.finished:
        rows.append(decoding.next())
        assert rows[-1][0] == []
    assert sum((new[0] for new in rows), []) == free[0][:6]
    assert sum((new[1] for new in rows), []) == free[1]


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_the_context_is_filled_and_not_exceeded(config):
    """A prompt of all but one token gets one more, a shorter one in the same batch gets its own room."""
    params = twins.parameters(config)
    length = config.context_length
    prompts = [[1] * (length - 1), [1] * (length - 5)]
    tokens = generate_tokens(params, config, prompts, max_new_tokens=1000, sampling=GREEDY, vocab_size=twins.VOCAB_SIZE)
    assert [len(row) for row in tokens] == [1, 5]
    assert tokens[1] == recomputed(params, config, prompts[1], 5)


def test_end_of_text_at_the_start_of_a_prompt_is_not_penalized(small):
    """It opens every document; counting it as seen would make every document less likely to end."""
    config, params = small
    settings = {"max_new_tokens": 1, "sampling": SamplingConfig(0, repetition_penalty=50.0), "end_of_text": 9}
    likeliest = int(np.asarray(jitted_forward(params, config, np.full((1, 4), 9)))[0, -1].argmax())
    biased = params.replace(embedding=params.embedding.at[9].set(3 * params.embedding[likeliest]))
    logits = np.asarray(jitted_forward(biased, config, np.full((1, 4), 9)))[0, -1]
    assert logits.argmax() == 9
    assert generate_tokens(biased, config, [[9] * 4], **settings) == [[9]]
    assert generate_tokens(biased, config, [[9] * 4], **{**settings, "end_of_text": 8}) != [[9]]


def test_padding_is_not_penalized(small):
    """Padding is made of token 0, which is the likeliest here and does not occur in the prompt."""
    config, params = small
    likeliest = int(np.asarray(jitted_forward(params, config, np.full((1, 4), 9)))[0, -1].argmax())
    biased = params.replace(embedding=params.embedding.at[0].set(3 * params.embedding[likeliest]))
    penalty = SamplingConfig(0, repetition_penalty=50.0)
    assert generate_tokens(biased, config, [[9] * 4], max_new_tokens=1, sampling=penalty) == [[0]]


def test_bfloat16_parameters_change_nothing_that_is_computed_in_bfloat16():
    config = twins.model(compute_dtype="bfloat16")
    params = twins.parameters(config)
    cast = in_compute_type(params, config)
    assert cast.embedding.dtype == jnp.bfloat16
    assert cast.norm.scale.dtype == jnp.float32
    tokens = np.arange(20)[None]
    np.testing.assert_array_equal(jitted_forward(cast, config, tokens), jitted_forward(params, config, tokens))


def test_prompts_are_padded_to_few_lengths():
    assert [prompt_bucket(n, 1024) for n in (1, 16, 17, 32, 33, 1000)] == [16, 16, 32, 32, 64, 1024]
    assert prompt_bucket(40, 50) == 50


def test_parameters_that_are_not_finite_are_reported(small):
    config, params = small
    broken = params.replace(embedding=params.embedding.at[3].set(jnp.nan))
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        generate_tokens(broken, config, [[1, 2]], max_new_tokens=4)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "there is no prompt"),
        ([[]], "the prompt has no tokens"),
        ([[1], []], "prompt 1 has no tokens"),
        ([[1, 2, 90]], "the prompt has token 90 at position 2; the vocabulary has 0 to 89"),
        ([[1], [-1]], "prompt 1 has token -1 at position 0; the vocabulary has 0 to 89"),
        (
            [[1] * 64],
            r"the prompt has 64 tokens; the model reads at most 63 \(its context of 64 .*shorten it by 1 or more",
        ),
    ],
)
def test_impossible_prompts_are_refused(small, prompts, message):
    config, params = small
    with pytest.raises(ValueError, match=message):
        generate_tokens(params, config, prompts, max_new_tokens=4, vocab_size=90)
    with pytest.raises(ValueError, match=message):
        check_prompts(prompts, 90, config.context_length)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 4, "seeds": -1}, "a seed must be between 0 and 4294967295, got -1"),
        ({"max_new_tokens": 4, "seeds": [1, 2]}, "2 seeds for 1 prompts"),
    ],
)
def test_impossible_settings_are_refused(small, settings, message):
    config, params = small
    with pytest.raises(ValueError, match=message):
        generate_tokens(params, config, [[1]], **settings)
