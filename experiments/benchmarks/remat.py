"""What remat policies save and cost on this machine: memory of the compiled gradient and its time, in one run.

    python experiments/benchmarks/remat.py [POLICY ...]

Rounds go through all policies in turn, and times are medians over rounds, so a machine that is busy for a while is busy
for all of them.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial

import jax
import numpy as np

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.declare import initialize
from jaxllm.objectives.next_token import next_token
from jaxllm.plan.activations import activations

ROWS, ROUNDS = 2, 7
MODEL = ModelConfig(
    vocab_size=512,
    context_length=512,
    d_model=256,
    num_layers=8,
    attention=AttentionConfig(num_heads=8),
    mlp=MLPConfig(d_ff=768, activation="silu", gated=True),
)
POLICIES = ("none", "attention", "names:qkv,mlp_in", "dots", "every:2", "sqrt", "full", "full*4 + none", "offload")


def main(policies: tuple[str, ...]) -> None:
    params, batch = initialize(decoder_spec(MODEL), jax.random.key(0)), make_batch()
    compiled = {policy: compile_gradient(policy, params, batch) for policy in policies}
    seconds = {policy: [] for policy in policies}
    for _ in range(ROUNDS):
        for policy, gradient in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(gradient(params, batch))
            seconds[policy].append(time.perf_counter() - start)
    medians = {policy: statistics.median(times) for policy, times in seconds.items()}
    device = jax.devices()[0].device_kind
    print(f"{MODEL.num_layers} layers of width {MODEL.d_model}, {ROWS} x {MODEL.context_length} tokens, on {device}")
    print(f"{'remat':<20}{'planned MiB':>13}{'compiled MiB':>14}{'of none':>9}{'seconds':>10}{'of none':>9}")
    first = policies[0]
    for policy in policies:
        planned = activations(MODEL, ROWS, MODEL.context_length, policy)
        used, base = (compiled[p].memory_analysis().temp_size_in_bytes for p in (policy, first))
        print(
            f"{policy:<20}{(planned.kept + planned.working) / 2**20:>13.1f}{used / 2**20:>14.1f}{used / base:>9.2f}"
            f"{medians[policy]:>10.3f}{medians[policy] / medians[first]:>9.2f}"
        )


def compile_gradient(policy: str, params, batch):
    objective = next_token(MODEL, remat=policy)
    loss = partial(lambda objective, params, batch: objective(params, batch)[0], objective)
    return jax.jit(jax.grad(loss)).lower(params, batch).compile()


def make_batch() -> dict[str, np.ndarray]:
    shape = (ROWS, MODEL.context_length)
    tokens = np.random.default_rng(0).integers(0, MODEL.vocab_size, shape).astype(np.int32)
    places = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    ones = np.ones(shape, np.int32)
    return {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, 1),
        "weights": ones.astype(np.float32),
        "segment_ids": ones,
        "positions": places,
    }


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or POLICIES)
