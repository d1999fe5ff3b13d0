"""The kinds of mixer there are: a config's class says which functions it belongs to."""

from __future__ import annotations

from jaxllm.models import config as configs
from jaxllm.models.channels.mlp import mlp, mlp_spec
from jaxllm.models.channels.moe import fills_slots, moe, moe_cache, moe_spec
from jaxllm.models.channels.rwkv_channel import rwkv_channel, rwkv_channel_cache, rwkv_channel_spec
from jaxllm.models.layer import Layer, always, no_cache
from jaxllm.models.mixers.attention import attention, attention_cache, attention_spec
from jaxllm.models.mixers.cross_attention import cross_attention, cross_attention_cache, cross_attention_spec
from jaxllm.models.mixers.differential_attention import (
    differential_attention,
    differential_attention_cache,
    differential_attention_spec,
)
from jaxllm.models.mixers.gated_delta import gated_delta, gated_delta_cache, gated_delta_spec
from jaxllm.models.mixers.latent_attention import latent_attention, latent_attention_cache, latent_attention_spec
from jaxllm.models.mixers.mamba import mamba, mamba_cache, mamba_spec
from jaxllm.models.mixers.mamba2 import mamba2, mamba2_cache, mamba2_spec
from jaxllm.models.mixers.rwkv import rwkv, rwkv_cache, rwkv_spec
from jaxllm.models.mixers.sparse_attention import sparse_attention, sparse_attention_cache, sparse_attention_spec

LAYERS: dict[type, Layer] = {
    configs.AttentionConfig: Layer(attention_spec, attention_cache, attention),
    configs.CrossAttentionConfig: Layer(cross_attention_spec, cross_attention_cache, cross_attention, always),
    configs.DifferentialAttentionConfig: Layer(
        differential_attention_spec, differential_attention_cache, differential_attention
    ),
    configs.LatentAttentionConfig: Layer(latent_attention_spec, latent_attention_cache, latent_attention),
    configs.SparseAttentionConfig: Layer(sparse_attention_spec, sparse_attention_cache, sparse_attention, always),
    configs.MambaConfig: Layer(mamba_spec, mamba_cache, mamba, always),
    configs.Mamba2Config: Layer(mamba2_spec, mamba2_cache, mamba2, always),
    configs.GatedDeltaConfig: Layer(gated_delta_spec, gated_delta_cache, gated_delta, always),
    configs.RWKVConfig: Layer(rwkv_spec, rwkv_cache, rwkv, always),
    configs.RWKVChannelConfig: Layer(rwkv_channel_spec, rwkv_channel_cache, rwkv_channel, always),
    configs.MLPConfig: Layer(mlp_spec, no_cache, mlp),
    configs.MoEConfig: Layer(moe_spec, moe_cache, moe, fills_slots),
}


def layer_of(config: object) -> Layer:
    """The functions of a mixer's config."""
    return LAYERS[type(config)]
