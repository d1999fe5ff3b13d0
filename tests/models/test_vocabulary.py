from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec, forward
from jaxllm.models.declare import initialize
from jaxllm.models.vocabulary import remap_vocabulary

TIED = ModelConfig(
    vocab_size=20, context_length=8, d_model=16, num_layers=2, attention=AttentionConfig(num_heads=2), mlp=MLPConfig(32)
)
MODELS = [TIED, replace(TIED, tie_embeddings=False, positions="learned")]


@pytest.mark.parametrize("config", MODELS, ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kept_tokens_give_the_same_logits_under_their_new_ids(config, dtype):
    params = initialize(decoder_spec(config), jax.random.key(0), dtype)
    kept = [3, 4, 17, 0, 9]
    small, small_config = remap_vocabulary(params, config, [[old] for old in kept])
    assert small_config == replace(config, vocab_size=5)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(lambda p: p.shape, decoder_spec(small_config))
    assert small.embedding.dtype == dtype and (small.embedding == params.embedding[np.array(kept)]).all()
    logits = forward(small, small_config, jnp.array([[0, 2, 4]]))
    expected = forward(params, config, jnp.array([[3, 17, 9]]))[..., np.array(kept)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", MODELS, ids=["tied", "untied"])
def test_a_new_token_starts_as_the_mean_of_its_pieces(config):
    params = initialize(decoder_spec(config), jax.random.key(0))
    larger, larger_config = remap_vocabulary(params, config, [*([i] for i in range(20)), [2, 5, 5]])
    mean = (params.embedding[2] + 2 * params.embedding[5]) / 3
    np.testing.assert_allclose(larger.embedding[20], mean, rtol=1e-6)
    assert (larger.embedding[:20] == params.embedding).all()
    assert larger_config.vocab_size == 21
    tokens = jnp.array([[1, 2, 3]])
    np.testing.assert_allclose(
        forward(larger, larger_config, tokens)[..., :20], forward(params, config, tokens), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([[1], []], "token 1 of the new vocabulary has no source"),
        ([[1], [2, 20]], r"token 1 has the sources \[2, 20\]; .* 0 .. 19"),
        ([[-1]], "token 0 has the sources"),
    ],
)
def test_impossible_sources(sources, message):
    params = initialize(decoder_spec(TIED), jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        remap_vocabulary(params, TIED, sources)
