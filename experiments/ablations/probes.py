"""What an architecture can learn at all: copying, parity, and finding a needle, on made-up sequences.

    python -m experiments.ablations.probes [--tasks copying parity needle] [--models NAME...] [--seeds 3] [--steps 400]

Each model is trained on fresh sequences of one task and then answers 512 more; printed is the part of the answers that
is right, the mean over seeds and each seed's own. `chance` is what guessing gives. Without --models, copying and parity
are asked of the Transformer, Mamba and what lies between, and the needle of full and of sparse attention.

- copying: 24 letters out of 16, a mark, and the same letters again, which must be given (16 letters, so 1 in 16).
- parity: 32 bits, and after each the parity of all so far (1 in 2). It takes a state that flips.
- needle: 20 pairs of a key and a value among fillers; at the end one key, whose value is asked for (1 in 16).
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.ablations.variants import BASE, GROUPS
from jaxllm.models import ModelConfig, decoder_spec, forward
from jaxllm.models.declare import initialize
from jaxllm.objectives.next_token import Batch, next_token

LETTERS, LENGTH = 16, 64
ROWS = 32
ATTENTIONS: dict[str, ModelConfig] = {"full attention": BASE, "nsa": GROUPS["sparse"]["nsa"]}
HYBRIDS: dict[str, ModelConfig] = {name: GROUPS["hybrid"][name] for name in GROUPS["hybrid"]}
MODELS = ATTENTIONS | HYBRIDS


def copying(random: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [rows, LENGTH + 1] and which of them are answers."""
    half = 24
    letters = random.integers(0, LETTERS, (rows, half))
    tokens = np.full((rows, LENGTH + 1), LETTERS)
    tokens[:, :half], tokens[:, half + 1 : 2 * half + 1] = letters, letters
    asked = np.zeros(tokens.shape, bool)
    asked[:, half + 1 : 2 * half + 1] = True
    return tokens, asked


def parity(random: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """A bit (0, 1) and the parity so far (2, 3) take turns; the last token is a mark."""
    bits = random.integers(0, 2, (rows, LENGTH // 2))
    tokens = np.full((rows, LENGTH + 1), LETTERS)
    tokens[:, 0:LENGTH:2], tokens[:, 1:LENGTH:2] = bits, 2 + bits.cumsum(1) % 2
    asked = np.zeros(tokens.shape, bool)
    asked[:, 1:LENGTH:2] = True
    return tokens, asked


def needle(random: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys are tokens of their own, LETTERS + 2 and on; LETTERS + 1 fills the gaps."""
    pairs = 20
    tokens = np.full((rows, LENGTH + 1), LETTERS + 1)
    for row in tokens:
        keys = LETTERS + 2 + random.permutation(pairs)
        places = 3 * np.arange(pairs) + random.integers(0, 2, pairs)
        row[places], row[places + 1] = keys, random.integers(0, LETTERS, pairs)
        wanted = random.integers(pairs)
        row[LENGTH - 1], row[LENGTH] = keys[wanted], row[places[wanted] + 1]
    asked = np.zeros(tokens.shape, bool)
    asked[:, LENGTH] = True
    return tokens, asked


TASKS = {
    "copying": (copying, 1 / LETTERS, HYBRIDS),
    "parity": (parity, 1 / 2, HYBRIDS),
    "needle": (needle, 1 / LETTERS, ATTENTIONS),
}


def as_batch(tokens: np.ndarray, asked: np.ndarray) -> Batch:
    """Only answers count in the loss."""
    rows = len(tokens)
    return {
        "tokens": jnp.asarray(tokens[:, :-1], jnp.int32),
        "targets": jnp.asarray(tokens[:, 1:], jnp.int32),
        "weights": jnp.asarray(asked[:, 1:], jnp.float32),
        "segment_ids": jnp.ones((rows, LENGTH), jnp.int32),
        "positions": jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32), (rows, LENGTH)),
    }


def learn(config: ModelConfig, task, steps: int, seed: int) -> float:
    """The part of fresh answers that a model gets right after training on ROWS sequences a step."""
    random = np.random.default_rng(seed)
    params = initialize(decoder_spec(config), jax.random.key(seed))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.01))
    objective = next_token(config)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch):
        grads, _ = jax.grad(objective, has_aux=True)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state, as_batch(*task(random, ROWS)))
    tokens, asked = task(np.random.default_rng(10_000 + seed), 512)
    predicted = np.asarray(jax.jit(forward, static_argnums=1)(params, config, tokens[:, :-1])).argmax(-1)
    right = predicted == tokens[:, 1:]
    return float(right[asked[:, 1:]].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    for name in args.tasks:
        task, chance, models = TASKS[name]
        print(f"\n{name}: {args.steps} steps of {ROWS} sequences, chance {chance:.3f}")
        for model in args.models or models:
            config = replace(MODELS[model], vocab_size=64, context_length=LENGTH)
            scores = [learn(config, task, args.steps, seed) for seed in range(args.seeds)]
            listed = " ".join(f"{score:.3f}" for score in scores)
            print(f"{model:<22} {statistics.mean(scores):.3f}   {listed}", flush=True)


if __name__ == "__main__":
    main()
