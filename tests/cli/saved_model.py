"""Models on disk for the verbs that take one: their weights are random, but what they write is always the same."""

import jax

from jaxllm import tokenizers
from jaxllm.inference import LanguageModel, Origin, save
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.declare import initialize

CONFIG = ModelConfig(
    vocab_size=320,
    context_length=64,
    d_model=32,
    num_layers=2,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
    mlp=MLPConfig(d_ff=48, activation="silu", gated=True),
    init_std=0.3,
)


def small_model() -> LanguageModel:
    tokenizer = tokenizers.train(tokenizers.TokenizerConfig(kind="byte"), [])
    params = initialize(decoder_spec(CONFIG), jax.random.key(0))
    return LanguageModel(CONFIG, params, tokenizer, Origin("small", step=7, val_bpb=1.25))


def ending_model() -> LanguageModel:
    """Writes nothing but the end-of-text mark: its one likeliest token whatever came before."""
    lm = small_model()
    params = jax.tree.map(lambda x: x * 0, lm.params)
    params = params.replace(
        embedding=params.embedding.at[:, 0].set(1.0).at[256, 0].set(9.0),
        norm=params.norm.replace(scale=params.norm.scale + 1),
    )
    return LanguageModel(lm.config, params, lm.tokenizer)


def saved(lm: LanguageModel, directory) -> str:
    save(lm, directory)
    return str(directory)
