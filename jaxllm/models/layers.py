"""The kinds of mixer there are: a config's class says which functions it belongs to."""

from __future__ import annotations

from jaxllm.models import config as configs
from jaxllm.models.channels.mlp import mlp, mlp_spec
from jaxllm.models.layer import Layer, no_cache
from jaxllm.models.mixers.attention import attention, attention_cache, attention_spec

LAYERS: dict[type, Layer] = {
    configs.AttentionConfig: Layer(attention_spec, attention_cache, attention),
    configs.MLPConfig: Layer(mlp_spec, no_cache, mlp),
}


def layer_of(config: object) -> Layer:
    """The functions of a mixer's config."""
    return LAYERS[type(config)]
