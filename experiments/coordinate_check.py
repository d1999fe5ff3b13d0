"""Draw how much activations move in models of several widths, with and without µP.

python experiments/coordinate_check.py --out coordinates.png
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.models.config import MuPConfig
from jaxllm.plan.coordinate_check import Coordinates, coordinate_check, draw_coordinates
from jaxllm.training.optimizers import OptimizerConfig

MODEL = ModelConfig(
    vocab_size=256,
    context_length=32,
    d_model=64,
    num_layers=3,
    attention=AttentionConfig(num_heads=4),
    mlp=MLPConfig(d_ff=256, activation="silu", gated=True),
    tie_embeddings=False,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("coordinates.png"), help="picture to write [%(default)s]")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512], help="d_model of each model")
    parser.add_argument("--steps", type=int, default=5, help="updates [%(default)s]")
    parser.add_argument("--kind", default="adamw", help="update rule [%(default)s]")
    parser.add_argument("--learning-rate", type=float, default=1e-2, help="[%(default)s]")
    options = parser.parse_args()
    optimizer = OptimizerConfig(
        kind=options.kind, learning_rate=options.learning_rate, schedule="constant", warmup_steps=0, weight_decay=0.0
    )
    parametrizations = {"standard": MODEL, "µP": replace(MODEL, mup=MuPConfig(base_width=MODEL.d_model))}
    checks = {
        name: coordinate_check(model, optimizer, options.widths, steps=options.steps, seeds=(0, 1))
        for name, model in parametrizations.items()
    }
    for name, rows in checks.items():
        print_table(name, [row for row in rows if row.step == options.steps])
    print(draw_coordinates(checks, options.out))


def print_table(name: str, rows: list[Coordinates]) -> None:
    print(f"{name}: change of activations after {rows[0].step} steps")
    print("  width    " + "".join(f"{layer:>10}" for layer in rows[0].change))
    for row in rows:
        print(f"  {row.width:<9}" + "".join(f"{change:>10.4f}" for change in row.change.values()))


if __name__ == "__main__":
    main()
