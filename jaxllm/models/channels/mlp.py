"""The position-wise feed-forward layer, plain or gated.

Shape letters: B batch, T time, D model width, F hidden width.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from jaxllm.models.config import MLPConfig, ModelConfig
from jaxllm.models.config.channel import Activation
from jaxllm.models.declare import Param, zeros
from jaxllm.models.einsum import affine
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.models.layer import Context, Statistics
from jaxllm.parallel.sharding import constrain

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}

SWIGLU_LIMIT = 7.0


@struct.dataclass
class MLP:
    up: jax.Array
    gate: jax.Array | None
    down: jax.Array
    up_bias: jax.Array | None
    gate_bias: jax.Array | None
    down_bias: jax.Array | None


def mlp_spec(model: ModelConfig, config: MLPConfig) -> MLP:
    """The declarations of an MLP of width `config.d_ff`."""
    D, F = model.d_model, config.d_ff
    inward = Param((D, F), ("embed", "mlp"), out_of_stream(model, fan_in=D))
    hidden_bias = Param((F,), ("mlp",), zeros) if config.bias else None
    return MLP(
        up=inward,
        gate=inward if config.gated else None,
        down=Param((F, D), ("mlp", "embed"), into_stream(model, fan_in=F)),
        up_bias=hidden_bias,
        gate_bias=hidden_bias if config.gated else None,
        down_bias=Param((D,), ("residual",), zeros) if config.bias else None,
    )


def mlp(
    p: MLP, model: ModelConfig, config: MLPConfig, x_BTD: jax.Array, context: Context, cache: None
) -> tuple[jax.Array, None, Statistics]:
    """`activation(x up) down`, or `(activation(x gate) * x up) down` when gated (Shazeer 2020, equation 6)."""
    up_BTF = affine("BTD,DF->BTF", x_BTD, p.up, p.up_bias)
    gate_BTF = None if p.gate is None else affine("BTD,DF->BTF", x_BTD, p.gate, p.gate_bias)
    gate_BTF, up_BTF = checkpoint_name((gate_BTF, up_BTF), "mlp_in")
    hidden_BTF = activate(config.activation, gate_BTF, up_BTF)
    hidden_BTF = checkpoint_name(constrain(hidden_BTF, "batch", "length", "act_mlp"), "mlp_hidden")
    return affine("BTF,FD->BTD", hidden_BTF, p.down, p.down_bias), None, {}


def activate(name: Activation, gate: jax.Array | None, up: jax.Array) -> jax.Array:
    """The hidden layer of an MLP or an expert: `activation(up)`, or `activation(gate) * up` where there is a gate."""
    if name == "clamped_swiglu":
        # GPT-OSS: both sides are clamped, the gate is x sigmoid(1.702 x), the other side gets 1 added.
        gate, up = jnp.minimum(gate, SWIGLU_LIMIT), jnp.clip(up, -SWIGLU_LIMIT, SWIGLU_LIMIT)
        return gate * jax.nn.sigmoid(1.702 * gate) * (up + 1)
    activation = ACTIVATIONS[name]
    return activation(up) if gate is None else activation(gate) * up
