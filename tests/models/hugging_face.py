"""Weights of GPT-2 and Llama by their names in transformers, a dictionary of numpy arrays, as our parameters."""

import jax.numpy as jnp
import numpy as np

from jaxllm.models.block import Block
from jaxllm.models.channels.mlp import MLP
from jaxllm.models.decoder import Decoder
from jaxllm.models.mixers.attention import Attention
from jaxllm.models.norm import Norm


def gpt2_parameters(weights, config):
    """GPT-2 stores its matrices as [in, out], queries, keys and values side by side."""
    D, H, K = config.d_model, config.attention.num_heads, config.head_dim

    def stacked(name, shape=None):
        layers = np.stack([weights[f"transformer.h.{i}.{name}"] for i in range(config.num_layers)])
        return jnp.asarray(layers if shape is None else layers.reshape(-1, *shape))

    def norm(name):
        return Norm(stacked(f"{name}.weight"), stacked(f"{name}.bias"))

    query, key, value = jnp.moveaxis(stacked("attn.c_attn.weight", (D, 3, H, K)), 2, 0)
    query_bias, key_bias, value_bias = jnp.moveaxis(stacked("attn.c_attn.bias", (3, H, K)), 1, 0)
    out, out_bias = stacked("attn.c_proj.weight", (H, K, D)), stacked("attn.c_proj.bias")
    mixer = Attention(query, key, value, out, query_bias, key_bias, value_bias, out_bias, None, None)
    channel = MLP(
        up=stacked("mlp.c_fc.weight"),
        gate=None,
        down=stacked("mlp.c_proj.weight"),
        up_bias=stacked("mlp.c_fc.bias"),
        gate_bias=None,
        down_bias=stacked("mlp.c_proj.bias"),
    )
    return Decoder(
        embedding=jnp.asarray(weights["transformer.wte.weight"]),
        position=jnp.asarray(weights["transformer.wpe.weight"]),
        segments=((Block(norm("ln_1"), mixer, None, norm("ln_2"), channel, None),),),
        norm=Norm(jnp.asarray(weights["transformer.ln_f.weight"]), jnp.asarray(weights["transformer.ln_f.bias"])),
        head=None,
        **dict.fromkeys(("token_type", "embedding_norm", "head_bias")),
    )


def llama_parameters(weights, config):
    """Llama stores its matrices as [out, in], heads one after another."""
    D, H, G, K = config.d_model, config.attention.num_heads, config.num_kv_heads, config.head_dim

    def stacked(name):
        return jnp.asarray(np.stack([weights[f"model.layers.{i}.{name}.weight"] for i in range(config.num_layers)]))

    def inward(name, *shape):
        return jnp.swapaxes(stacked(name), 1, 2).reshape(-1, D, *shape)

    mixer = Attention(
        query=inward("self_attn.q_proj", H, K),
        key=inward("self_attn.k_proj", G, K),
        value=inward("self_attn.v_proj", G, K),
        out=jnp.swapaxes(stacked("self_attn.o_proj"), 1, 2).reshape(-1, H, K, D),
        **dict.fromkeys(("query_bias", "key_bias", "value_bias", "out_bias", "query_norm", "key_norm")),
    )
    channel = MLP(
        up=inward("mlp.up_proj", config.mlp.d_ff),
        gate=inward("mlp.gate_proj", config.mlp.d_ff),
        down=jnp.swapaxes(stacked("mlp.down_proj"), 1, 2),
        **dict.fromkeys(("up_bias", "gate_bias", "down_bias")),
    )
    before, between = Norm(stacked("input_layernorm"), None), Norm(stacked("post_attention_layernorm"), None)
    return Decoder(
        embedding=jnp.asarray(weights["model.embed_tokens.weight"]),
        position=None,
        segments=((Block(before, mixer, None, between, channel, None),),),
        norm=Norm(jnp.asarray(weights["model.norm.weight"]), None),
        head=jnp.asarray(weights["lm_head.weight"]),
        **dict.fromkeys(("token_type", "embedding_norm", "head_bias")),
    )
