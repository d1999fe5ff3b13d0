"""Does the best learning rate of a small model serve a large one? A sweep of rates over widths, with and without µP.

    python -m experiments.learning_rate_transfer [--widths 32 64 128 256] [--steps 300] [--seeds 2] [--out DIR]

Every model is trained from scratch on the same text at every rate. Printed is the validation loss of each, the best
rate of each width (the vertex of a parabola through the best and its neighbours, in log2 of the rate), and what it
costs to take the narrowest model's best rate for the widest. DIR keeps every run, and the picture.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import replace
from pathlib import Path

from experiments.kept_runs import kept_run, vocabulary_of
from jaxllm.data.config import STDLIB, DataConfig
from jaxllm.data.corpus import SplitDocuments
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.models.config import MuPConfig
from jaxllm.pictures import picture
from jaxllm.plan.scaling_ladder import resized
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig

BASE = ModelConfig(
    context_length=64,
    d_model=32,
    num_layers=2,
    attention=AttentionConfig(num_heads=2),
    mlp=MLPConfig(d_ff=96, activation="silu", gated=True),
    tie_embeddings=False,
)
# Powers of two around what suits the narrowest model.
RATES = tuple(2.0**k for k in range(-11, -3))
Losses = dict[int, dict[float, float]]


def model(width: int, vocabulary: int, mup: bool) -> ModelConfig:
    """The base model at another width: more heads, the same depth, so that width is all that changes."""
    wide = replace(resized(BASE, width), num_layers=BASE.num_layers, vocab_size=vocabulary)
    return replace(wide, mup=MuPConfig(base_width=BASE.d_model)) if mup else wide


def recipe(config: ModelConfig, rate: float, steps: int, seed: int) -> Experiment:
    return Experiment(
        name="transfer",
        model=config,
        tokenizer=TokenizerConfig(vocab_size=512),
        data=DataConfig(path=STDLIB, shuffle_seed=seed),
        optimizer=OptimizerConfig(kind="adamw", learning_rate=rate, schedule="cosine", warmup_steps=steps // 10),
        training=TrainingConfig(steps=steps, batch_size=16, eval_every=steps, eval_batches=32, seed=seed),
        checkpoints=CheckpointConfig(every=steps),
    )


def best_rate(losses: dict[float, float]) -> float:
    """The vertex of the parabola through the best rate and its neighbours; the best itself at the end of the range."""
    rates = sorted(losses)
    at = min(range(len(rates)), key=lambda i: losses[rates[i]])
    if at in (0, len(rates) - 1):
        return rates[at]
    before, here, after = (losses[rates[i]] for i in (at - 1, at, at + 1))
    return rates[at] * 2 ** ((before - after) / (2 * (before - 2 * here + after)))


def show(name: str, losses: Losses) -> None:
    rates = sorted(next(iter(losses.values())))
    print(f"\n{name}\nwidth  " + "".join(f"{f'2^{math.log2(rate):.0f}':>8}" for rate in rates) + "    best rate")
    for width, row in losses.items():
        print(
            f"{width:<7}" + "".join(f"{row[rate]:>8.4f}" for rate in rates) + f"    2^{math.log2(best_rate(row)):.2f}"
        )
    narrow, wide = losses[min(losses)], losses[max(losses)]
    taken = min(narrow, key=narrow.__getitem__)
    cost = wide[taken] - min(wide.values())
    moved = math.log2(best_rate(wide) / best_rate(narrow))
    print(f"the best rate moves by 2^{moved:+.2f}; the narrowest's best costs the widest {cost:.4f} nats", flush=True)


def draw(found: dict[str, Losses], path: Path) -> Path:
    """One panel a parametrization, one line a width."""
    with picture(path, 5 * len(found), 4) as figure:
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for panel, (name, losses) in zip(panels, found.items(), strict=True):
            for width, row in losses.items():
                panel.plot(sorted(row), [row[rate] for rate in sorted(row)], marker="o", label=f"width {width}")
            panel.set(title=name, xlabel="learning rate", xscale="log", ylabel="validation loss (nats)")
            panel.legend()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/learning_rate_transfer"))
    options = parser.parse_args()
    first = recipe(BASE, RATES[0], options.steps, 0)
    documents = SplitDocuments(first.data)
    vocabulary = vocabulary_of(first, documents, options.out)
    found: dict[str, Losses] = {}
    for name, mup in (("standard parametrization", False), ("µP", True)):
        found[name] = {}
        for width in sorted(options.widths):
            config = model(width, vocabulary, mup)
            found[name][width] = {
                rate: statistics.mean(
                    kept_run(recipe(config, rate, options.steps, seed), documents, options.out)["val_loss"]
                    for seed in range(options.seeds)
                )
                for rate in RATES
            }
        show(f"{name}: {options.steps} steps of 16 x {BASE.context_length} tokens, {options.seeds} seeds", found[name])
    print(draw(found, options.out / "transfer.png"))


if __name__ == "__main__":
    main()
