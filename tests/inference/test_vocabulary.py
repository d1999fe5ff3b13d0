import jax.numpy as jnp
import numpy as np
import pytest

import jaxllm
from jaxllm import tokenizers
from jaxllm.inference import LanguageModel, add_tokens, prune_vocabulary

from . import twins

TEXT = "the cat sat on the mat, the cat was in the hat. " * 4


@pytest.fixture(scope="module")
def lm():
    tokenizer = tokenizers.train_byte_bpe([TEXT, "entirely different words " * 9], 290)
    config = twins.model(vocab_size=tokenizer.vocab_size)
    return LanguageModel(config, twins.parameters(config), tokenizer)


def logits(lm, ids):
    return np.asarray(jaxllm.forward(lm.params, lm.config, jnp.array([ids])))


def test_a_model_with_more_tokens_goes_on_as_before(lm, tmp_path):
    larger = add_tokens(lm, [" dog"])
    ids = lm.tokenizer.encode("the cat")
    assert larger.tokenizer.encode("the cat") == ids and larger.config.vocab_size == 291
    np.testing.assert_allclose(logits(larger, ids)[..., :290], logits(lm, ids), rtol=1e-5, atol=1e-5)
    pieces = np.array(lm.tokenizer.encode(" dog"))
    np.testing.assert_allclose(larger.params.embedding[290], lm.params.embedding[pieces].mean(0), rtol=1e-5)
    assert larger.tokenizer.encode("the dog")[-1] == 290
    jaxllm.save(larger, tmp_path / "larger")
    again = jaxllm.load(tmp_path / "larger")
    assert again.tokenizer.encode("the dog") == larger.tokenizer.encode("the dog")
    np.testing.assert_array_equal(again.params.embedding, larger.params.embedding)


def test_a_pruned_model_computes_the_same_on_its_corpus(lm):
    small = prune_vocabulary(lm, [TEXT])
    assert small.config.vocab_size == small.tokenizer.vocab_size < lm.config.vocab_size
    ids, old = small.tokenizer.encode(TEXT)[:16], lm.tokenizer.encode(TEXT)[:16]
    ids_of = {text: i for i, text in enumerate(map(lm.tokenizer.token_text, range(290)))}
    kept = [ids_of[small.tokenizer.token_text(i)] for i in range(small.tokenizer.vocab_size)]
    np.testing.assert_allclose(logits(small, ids), logits(lm, old)[..., kept], rtol=1e-4, atol=1e-5)
