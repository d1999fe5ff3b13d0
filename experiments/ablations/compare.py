"""Which choice of architecture learns better: matched models on one corpus, several seeds each.

    python -m experiments.ablations.compare GROUP... [--seeds 3] [--steps 800] [--text PATH] [--out DIR]

GROUP is one of the names in variants.py, or `all`. For each variant it prints active and total parameters, the
validation loss with its 95% interval over seeds, the difference to the group's first variant with its own interval
(seed by seed, for a seed means the same order of the data), and tokens a second. DIR keeps every run under the
fingerprint of its recipe, so that groups share what they have in common and a run that is there is not made again, and
the rows in results.jsonl. Without --text it reads the documentation that ships with Python.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

from experiments.ablations.variants import BASE, GROUPS, active, matched
from experiments.kept_runs import kept_run, vocabulary_of
from jaxllm.data.config import STDLIB, DataConfig
from jaxllm.data.corpus import SplitDocuments
from jaxllm.models import ModelConfig, decoder_spec
from jaxllm.models.declare import count
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig

BATCH_SIZE = 8
# Of Student's t distribution, two-sided 95%, by degrees of freedom.
T_95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def recipe(model: ModelConfig, text: str, steps: int, seed: int) -> Experiment:
    """What all variants share: AdamW, one schedule, one order of the data for each seed."""
    return Experiment(
        name="ablation",
        model=model,
        tokenizer=TokenizerConfig(vocab_size=2048),
        data=DataConfig(path=text, shuffle_seed=seed),
        optimizer=OptimizerConfig(kind="adamw", learning_rate=3e-3, schedule="cosine", warmup_steps=steps // 10),
        training=TrainingConfig(steps=steps, batch_size=BATCH_SIZE, eval_every=steps, seed=seed),
        checkpoints=CheckpointConfig(every=steps),
    )


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval."""
    if len(values) < 2:
        return values[0], math.nan
    return statistics.mean(values), T_95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", choices=[*GROUPS, "all"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--text", default=STDLIB)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    args = parser.parse_args()
    first = recipe(BASE, args.text, args.steps, 0)
    documents = SplitDocuments(first.data)
    vocabulary = vocabulary_of(first, documents, args.out)
    for group in GROUPS if "all" in args.groups else args.groups:
        print(f"\n{group}: {args.steps} steps of {BATCH_SIZE} x {BASE.context_length} tokens, {args.seeds} seeds")
        print(
            f"{'variant':<18} {'active':>10} {'total':>10} {'validation loss':>19} {'difference':>19} {'tokens/s':>9}",
            flush=True,
        )
        first_losses: list[float] = []
        for name, model in matched(group, vocabulary).items():
            recipes = [recipe(model, args.text, args.steps, seed) for seed in range(args.seeds)]
            runs = [kept_run(one, documents, args.out) for one in recipes]
            losses = [r["val_loss"] for r in runs]
            first_losses = first_losses or losses
            row = {
                "group": group,
                "variant": name,
                "active": active(model),
                "total": count(decoder_spec(model)),
                "val_loss": interval(losses),
                "difference": interval([a - b for a, b in zip(losses, first_losses, strict=True)]),
                "tokens_per_second": statistics.median(r["tokens_per_second"] for r in runs),
            }
            (mean, half), (more, half_more) = row["val_loss"], row["difference"]
            print(
                f"{name:<18} {row['active']:>10,} {row['total']:>10,} {mean:>9.4f} +- {half:.4f} "
                f"{more:>+9.4f} +- {half_more:.4f} {row['tokens_per_second']:>9,.0f}",
                flush=True,
            )
            with (args.out / "results.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
