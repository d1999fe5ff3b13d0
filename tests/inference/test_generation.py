"""From prompts to texts."""

import jax
import numpy as np
import pytest

import jaxllm
from jaxllm import tokenizers
from jaxllm.inference import Completions, Generation, LanguageModel, SamplingConfig, complete, generate_stream

from . import twins
from .test_stopping import cut

PROMPTS = ["def f(x):", "", "日本語", "x" * 30]


@pytest.fixture(scope="module")
def lm():
    """Random weights, so it writes random bytes: most are no UTF-8."""
    tokenizer = tokenizers.train(tokenizers.TokenizerConfig(kind="byte"), [])
    config = twins.model(vocab_size=320, context_length=128)
    return LanguageModel(config, twins.parameters(config), tokenizer)


@pytest.fixture(scope="module")
def free(lm):
    return complete(lm, PROMPTS, max_new_tokens=50, seed=1)


def test_a_text_is_what_its_tokens_decode_to(lm, free):
    for prompt, generation in zip(PROMPTS, free, strict=True):
        assert isinstance(generation, Generation)
        assert generation.text == lm.tokenizer.decode(generation.tokens)
        assert generation.prompt_tokens == 1 + len(prompt.encode())
        assert (len(generation.tokens), generation.finish_reason) == (50, "length")


def test_a_text_prompt_begins_a_document(lm):
    """As every document of the training did, so the same ids follow as after the mark and the text's ids."""
    end = lm.tokenizer.end_of_text
    text, ids, begin, mark = complete(lm, ["ab", [end, 97, 98], "", [end]], max_new_tokens=10)
    assert text == ids
    assert begin == mark
    assert text != begin


def test_generate_gives_a_text_for_a_text_and_a_list_for_a_list(lm, free):
    assert jaxllm.generate(lm, PROMPTS, max_new_tokens=50, seed=1) == [generation.text for generation in free]
    assert jaxllm.generate(lm, PROMPTS[0], max_new_tokens=50, seed=1) == free[0].text
    assert jaxllm.generate(lm, PROMPTS, max_new_tokens=50, seed=[1, 1, 2, 1])[2] != free[2].text


def test_streamed_pieces_are_the_text(lm, free):
    pieces = []
    text = jaxllm.generate(lm, PROMPTS[0], max_new_tokens=50, seed=1, stream=pieces.append)
    assert "".join(pieces) == text == free[0].text
    assert len(pieces) > 10
    assert "".join(generate_stream(lm, PROMPTS[0], max_new_tokens=50, seed=1)) == text


def test_settings_can_be_given_one_by_one(lm):
    sampling = SamplingConfig(0.5, top_k=9, repetition_penalty=1.2)
    expected = jaxllm.generate(lm, "a", max_new_tokens=20, sampling=sampling)
    assert jaxllm.generate(lm, "a", max_new_tokens=20, temperature=0.5, top_k=9, repetition_penalty=1.2) == expected
    assert (
        "".join(generate_stream(lm, "a", max_new_tokens=20, temperature=0.5, top_k=9, repetition_penalty=1.2))
        == expected
    )
    assert jaxllm.generate(lm, "a", max_new_tokens=20, sampling=sampling, temperature=2.0) != expected
    with pytest.raises(TypeError, match="temprature"):
        jaxllm.generate(lm, "a", temprature=0.5)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_text_ends_before_its_stop_string(lm, free, streamed):
    """The stop string is two characters from the middle of the first text: it also crosses tokens."""
    stop = free[0].text[20:22]
    expected = [cut(generation.text, [stop]) for generation in free]
    assert expected[0][1]
    if streamed:
        assert "".join(generate_stream(lm, PROMPTS[0], max_new_tokens=50, seed=1, stop=stop)) == expected[0][0]
        return
    for generation, unbounded, (text, stopped) in zip(
        complete(lm, PROMPTS, max_new_tokens=50, seed=1, stop=[stop]), free, expected, strict=True
    ):
        assert (generation.text, generation.finish_reason) == (text, "stop" if stopped else "length")
        tokens = generation.tokens
        assert tokens == unbounded.tokens[: len(tokens)]
        if stopped:
            assert cut(lm.tokenizer.decode(tokens), [stop])[1]
            assert not cut(lm.tokenizer.decode(tokens[:-2]), [stop])[1]


def test_a_text_ends_at_the_models_own_mark(lm):
    """One byte in 257 is the mark, so some of 40 random texts of 50 end with it."""
    results = complete(lm, [""] * 40, max_new_tokens=50, seed=range(40))
    ended = [generation for generation in results if generation.finish_reason == "end_of_text"]
    assert 0 < len(ended) < 40
    for generation in results:
        marks = np.flatnonzero(np.array(generation.tokens) == lm.tokenizer.end_of_text).tolist()
        assert marks == ([len(generation.tokens) - 1] if generation in ended else [])
        assert tokenizers.END_OF_TEXT not in generation.text
        assert generation.text == lm.tokenizer.decode_bytes(generation.tokens).decode(errors="replace")


def test_what_was_written_before_an_interruption_is_kept(lm, free):
    completions = Completions(lm, PROMPTS[:1], max_new_tokens=50, seed=1, chunk=1)
    for _, _ in zip(range(5), completions, strict=False):
        pass
    assert 5 <= len(completions.tokens[0]) < 50
    assert completions.tokens[0] == free[0].tokens[: len(completions.tokens[0])]
    assert completions.results() == free[:1]


def test_only_tokens_of_the_tokenizer_are_written(lm):
    """The table has 320 rows, the tokenizer 257 tokens; the rows beyond are made the likeliest here."""
    likely = lm.params.embedding.at[257:].set(5 * lm.params.embedding[:63])
    loud = LanguageModel(lm.config, lm.params.replace(embedding=likely), lm.tokenizer)
    for sampling in (SamplingConfig(0), SamplingConfig(3.0)):
        assert max(complete(loud, ["a"], max_new_tokens=50, sampling=sampling)[0].tokens) < 257


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: jaxllm.generate(lm, "x" * 127), "the prompt has 128 tokens; the model reads at most 127"),
        (lambda lm: jaxllm.generate(lm, ["a", "x" * 200]), "prompt 1 has 201 tokens; the model reads at most 127"),
        (lambda lm: jaxllm.generate(lm, ["a", "b"], stream=print), "stream shows one text"),
        (lambda lm: jaxllm.generate(lm, []), "there is no prompt"),
        (lambda lm: jaxllm.generate(lm, "a", stop=""), "a stop string is empty"),
        (lambda lm: jaxllm.generate(lm, "a", temperature=-1), "temperature must be 0"),
        (lambda lm: generate_stream(lm, "a", max_new_tokens=0), "max_new_tokens must be at least 1"),
        (lambda lm: complete(lm, [[]]), "the prompt has no tokens"),
        (lambda lm: complete(lm, [[300]]), "token 300 at position 0; the vocabulary has 0 to 256"),
    ],
)
def test_what_cannot_be_is_refused(lm, call, message):
    with pytest.raises(ValueError, match=message):
        call(lm)


def test_a_tokenizer_larger_than_the_model_is_refused(lm):
    config = twins.model(vocab_size=256)
    with pytest.raises(ValueError, match="the tokenizer has 257 tokens, the model only 256"):
        LanguageModel(config, jax.eval_shape(lambda: twins.parameters(config)), lm.tokenizer)
