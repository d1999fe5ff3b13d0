"""What runs came to, for fitting: read from their directories."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jaxllm import tokenizers
from jaxllm.plan.scaling_ladder import FlopsCount, flops_per_token, sizes_of
from jaxllm.plan.scaling_laws import ScalingRun, Unit
from jaxllm.training.history import read_history, summarize
from jaxllm.training.run_directory import read_config

QUANTITIES: dict[Unit, str] = {"nats_per_token": "val_loss", "bits_per_byte": "val_bpb"}


def read_run(
    directory: str | Path,
    unit: Unit = "bits_per_byte",
    *,
    count: Literal["all", "non_embedding"] = "all",
    flops: FlopsCount = "exact",
) -> ScalingRun:
    """A finished run: its size, what it was trained on, and its last evaluation.

    `count` says which parameters are N: Hoffmann et al. 2022 take all, Kaplan et al. 2020 leave the tables out. Raises
    ValueError for a directory without a run, and for a run that is not at its end or was not evaluated there.
    """
    directory = Path(directory)
    model, summary = read_config(directory / "config.json").model, summarize(directory)
    if summary.status != "finished":
        raise ValueError(
            f"{directory} is {summary.status}, at step {summary.step} of {summary.steps}: a run in the middle of its "
            "schedule says less than its size could do; let it finish, or leave it out"
        )
    history = read_history(directory)
    last = history.evaluations[-1] if history.evaluations else {}
    quantity = QUANTITIES[unit]
    if last.get("step") != summary.step or quantity not in last:
        raise ValueError(f"{directory} has no {quantity} at its last step, {summary.step}")
    every, non_embedding = sizes_of(model)
    place = directory / "tokenizer"
    return ScalingRun(
        parameters=every if count == "all" else non_embedding,
        tokens=summary.tokens,
        flops=summary.tokens * flops_per_token(model, flops),
        loss=float(last[quantity]),  # "nan" is logged as a word
        name=directory.name,
        unit=unit,
        tokenizer=tokenizers.load(place).fingerprint() if place.is_dir() else "",
    )
