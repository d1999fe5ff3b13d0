"""Slow twins of sampling in numpy, one row at a time, with sorts and loops; and models to try decoding on."""

import jax
import numpy as np

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, NormConfig, decoder_spec
from jaxllm.models.declare import initialize


def penalize(logits, seen, penalty):
    result = logits.astype(np.float64)
    for token in np.flatnonzero(seen):
        result[token] = result[token] / penalty if result[token] > 0 else result[token] * penalty
    return result


def top_k(scores, k):
    if k == 0 or k >= len(scores):
        return scores
    kth = np.sort(scores)[-k]
    return np.where(scores < kth, -np.inf, scores)


def top_p(scores, p):
    if p >= 1:
        return scores
    probabilities = softmax(scores)
    kept, mass = [], 0.0
    for token in sorted(range(len(scores)), key=lambda token: (-scores[token], token)):
        if mass >= p:
            break
        kept.append(token)
        mass += probabilities[token]
    return np.where(np.isin(np.arange(len(scores)), kept), scores, -np.inf)


def min_p(scores, p):
    probabilities = softmax(scores)
    return np.where(probabilities < p * probabilities.max(), -np.inf, scores)


def distribution(logits, seen, config, vocab_size):
    """The exact probabilities that a token is drawn with."""
    logits = penalize(logits, seen, config.repetition_penalty)
    logits[vocab_size:] = -np.inf
    if config.temperature == 0:
        return np.eye(len(logits))[np.argmax(logits)]
    return softmax(min_p(top_p(top_k(logits / config.temperature, config.top_k), config.top_p), config.min_p))


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


# 90 tokens in a table of 96 rows, of which the last is never a token; a width that makes random logits differ clearly.
VOCAB_SIZE = 90


def model(**changes) -> ModelConfig:
    defaults = {
        "vocab_size": 96,
        "context_length": 64,
        "d_model": 32,
        "num_layers": 2,
        "attention": AttentionConfig(num_heads=4, num_kv_heads=2),
        "mlp": MLPConfig(d_ff=48, activation="silu", gated=True),
        "init_std": 0.3,
    }
    return ModelConfig(**{**defaults, **changes})


GROUPED_ROPE_TIED = model()
PLAIN_LEARNED_UNTIED = model(
    attention=AttentionConfig(num_heads=4, qkv_bias=True, out_bias=True, qk_norm="shared"),
    mlp=MLPConfig(d_ff=48, bias=True),
    norm=NormConfig(kind="layernorm", bias=True),
    positions="learned",
    tie_embeddings=False,
)


def parameters(config: ModelConfig, seed: int = 0):
    return initialize(decoder_spec(config), jax.random.key(seed))
