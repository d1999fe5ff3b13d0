"""The position-wise feed-forward layer, plain or gated.

Shape letters: B batch, T time, D model width, F hidden width.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import MLPConfig, ModelConfig
from jaxllm.models.declare import Param, zeros
from jaxllm.models.einsum import einsum
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.parallel.sharding import constrain

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


@struct.dataclass
class MLP:
    up: jax.Array
    gate: jax.Array | None
    down: jax.Array
    up_bias: jax.Array | None
    gate_bias: jax.Array | None
    down_bias: jax.Array | None


def mlp_spec(config: ModelConfig) -> MLP:
    mlp, D, F = config.mlp, config.d_model, config.mlp.d_ff
    inward = Param((D, F), ("embed", "mlp"), out_of_stream(config, fan_in=D))
    hidden_bias = Param((F,), ("mlp",), zeros) if mlp.bias else None
    return MLP(
        up=inward,
        gate=inward if mlp.gated else None,
        down=Param((F, D), ("mlp", "embed"), into_stream(config, fan_in=F)),
        up_bias=hidden_bias,
        gate_bias=hidden_bias if mlp.gated else None,
        down_bias=Param((D,), ("residual",), zeros) if mlp.bias else None,
    )


def mlp(p: MLP, config: MLPConfig, x_BTD: jax.Array) -> jax.Array:
    """`activation(x up) down`, or `(activation(x gate) * x up) down` when gated (Shazeer 2020, equation 6)."""
    up_BTF = _affine("BTD,DF->BTF", x_BTD, p.up, p.up_bias)
    activation = ACTIVATIONS[config.activation]
    if p.gate is None:
        hidden_BTF = activation(up_BTF)
    else:
        hidden_BTF = activation(_affine("BTD,DF->BTF", x_BTD, p.gate, p.gate_bias)) * up_BTF
    hidden_BTF = constrain(hidden_BTF, "batch", "length", "act_mlp")
    return _affine("BTF,FD->BTD", hidden_BTF, p.down, p.down_bias)


def _affine(equation: str, x: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    y = einsum(equation, x, weight)
    return y if bias is None else y + bias.astype(y.dtype)
