"""How a model's logits are made from the residual stream, as the cross-entropy wants to be told."""

from __future__ import annotations

from typing import Any

from jaxllm.models import ModelConfig, output_head
from jaxllm.models.decoder import Decoder
from jaxllm.models.mup import logit_multiplier


def head_terms(params: Decoder, config: ModelConfig) -> dict[str, Any]:
    """The arguments of `cross_entropy` that make its logits those of `models.unembed`."""
    return {
        "head_VD": output_head(params),
        "bias_V": params.head_bias,
        "scale": config.head.scale * logit_multiplier(config),
        "softcap": config.head.softcap,
    }
