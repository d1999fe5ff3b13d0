"""Mistral AI: Mistral 7B (Jiang et al. 2023) and Mixtral (Jiang et al. 2024)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from jaxllm.models.config import Block, ModelConfig, MoEConfig, RopeConfig
from jaxllm.models.presets.meta import llama


def mixtral(num_layers: int, d_model: int, num_heads: int, d_ff: int, vocab_size: int, context: int) -> ModelConfig:
    """Llama with eight experts, of which each token goes to two, weighted to sum to 1."""
    dense = llama(
        num_layers,
        d_model,
        num_heads,
        8,
        d_ff,
        vocab_size=vocab_size,
        context_length=context,
        rope=RopeConfig(theta=1e6),
    )
    experts = MoEConfig(num_experts=8, top_k=2, d_ff=d_ff, normalize=True, load_loss=0.04)
    return replace(dense, pattern=(Block(channel=experts),))


PRESETS = {
    "mistral-7b": partial(llama, 32, 4096, 32, 8, 14_336, vocab_size=32_000, context_length=32_768, window=4096),
    "mixtral-8x7b": partial(mixtral, 32, 4096, 32, 14_336, 32_000, 32_768),
    "mixtral-8x22b": partial(mixtral, 56, 6144, 48, 16_384, 32_768, 65_536),
}
