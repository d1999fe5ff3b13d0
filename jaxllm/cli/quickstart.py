"""raw text -> tokenizer -> model -> report, on this machine, no download"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="jaxllm quickstart",
        description="Train a small language model on the documentation that ships with Python, and write a report. "
        "Further options, such as --training.steps=100, override the recipe.",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs/quickstart"), help="run directory [%(default)s]"
    )
    options, overrides = parser.parse_known_args(arguments)

    import jax

    from jaxllm.cli.progress import reporter
    from jaxllm.config import apply_overrides
    from jaxllm.pipeline.quickstart import quickstart, quickstart_experiment

    experiment = apply_overrides(quickstart_experiment(jax.default_backend()), overrides, prog="jaxllm quickstart")
    with reporter() as shown:
        figures = quickstart(experiment, options.out, shown)
    print((options.out / "report.md").read_text(encoding="utf-8"))
    best = min(figures.baselines.values())
    if figures.outcome.val_bpb >= best:
        print(
            f"the model did not learn: {figures.outcome.val_bpb:.3f} bits per byte, baseline {best:.3f}",
            file=sys.stderr,
        )
        return 1
    print(f"report: {options.out / 'report.md'}\nchat:   jaxllm chat {options.out}")
    return 0
