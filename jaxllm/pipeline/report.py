"""`report.md` and `loss.png` of a run: what was trained on what, how well, how fast."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from jaxllm.data.corpus import Corpus
from jaxllm.data.token_store import TokenStore
from jaxllm.plan.flops import RULE, parameter_count, train_flops_per_token
from jaxllm.training.curves import draw_curves
from jaxllm.training.experiment import Experiment
from jaxllm.training.goodput import read_goodput
from jaxllm.training.history import History, read_history
from jaxllm.training.job import Outcome


@dataclass(frozen=True)
class Figures:
    """Everything a report states."""

    directory: Path
    experiment: Experiment
    corpus: Corpus
    vocabulary: int
    outcome: Outcome
    baselines: dict[str, float]  # bits per byte on the validation part
    samples: dict[str, str]  # prompt -> continuation
    seconds: dict[str, float]  # by stage
    device: str
    peak_flops: float | None
    peak_source: str


def write_report(figures: Figures) -> Path:
    """Write both files into the run directory, whole or not at all; returns the path of the report."""
    history = read_history(figures.directory)
    draw_curves(
        {figures.experiment.name: history},
        figures.directory / "loss.png",
        y=("loss", "val_loss", "val_bpb"),
        levels={"val_bpb": {name: bpb for name, bpb in figures.baselines.items() if bpb < 8}},
        title=f"{figures.experiment.name}: {parameter_count(figures.experiment.model):,} parameters",
    )
    path = figures.directory / "report.md"
    temporary = path.with_suffix(".md.tmp")
    temporary.write_text(_markdown(figures, history), encoding="utf-8")
    temporary.replace(path)
    return path


def _markdown(figures: Figures, history: History) -> str:
    sections = [
        f"# {figures.experiment.name}",
        _quality(figures),
        "![loss over steps](loss.png)",
        "## Samples\n\n" + _samples(figures.samples),
        "## Model and compute\n\n" + _table(_compute(figures, history)),
        "## Text\n\n" + _text(figures),
        "## Wall clock\n\n" + _table([(stage, f"{seconds:.1f} s") for stage, seconds in _clock(figures, history)]),
        "## Where the time went\n\n" + _goodput(figures.directory),
        f"## Talk to it\n\n    jaxllm chat {figures.directory}\n",
    ]
    return "\n\n".join(sections)


def _quality(figures: Figures) -> str:
    model = figures.outcome.val_bpb
    rows = [("this model", f"{model:.4f}", "")]
    rows += [(name, f"{bpb:.4f}", f"{1 - model / bpb:.1%} fewer bits") for name, bpb in figures.baselines.items()]
    lines = ["| validation text | bits per byte | this model needs |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {bpb} | {gain} |" for name, bpb, gain in rows])


def _samples(samples: dict[str, str]) -> str:
    return "\n\n".join(f"Prompt: `{prompt!r}`\n\n{_fenced(prompt + text)}" for prompt, text in samples.items())


def _fenced(text: str) -> str:
    """A code block that no run of backticks in the text can end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def _compute(figures: Figures, history: History) -> list[tuple[str, str]]:
    model, training = figures.experiment.model, figures.experiment.training
    per_token = train_flops_per_token(model, model.context_length)
    tokens = training.steps * training.batch_size * model.context_length
    # The median: a step beside an evaluation or a checkpoint says nothing of the rest.
    speed = statistics.median(row["tokens_per_second"] for row in history.training)
    rows = [
        ("parameters", f"{parameter_count(model):,}"),
        (
            "layers, width, heads (key/value)",
            f"{model.num_layers}, {model.d_model}, {model.attention.num_heads} ({model.num_kv_heads})",
        ),
        ("training tokens", f"{tokens:,} in {training.steps:,} steps"),
        ("FLOPs per token", f"{per_token:.3e} ({RULE})"),
        ("FLOPs in all", f"{per_token * tokens:.3e}"),
        ("tokens/s (median step)", f"{speed:,.0f}"),
        ("device", figures.device),
    ]
    if figures.peak_flops is None:
        return [*rows, ("MFU", f"unknown: {figures.peak_source}")]
    mfu = speed * per_token / figures.peak_flops
    return [*rows, ("MFU", f"{mfu:.1%} of {figures.peak_flops / 1e12:.3g} TFLOP/s ({figures.peak_source})")]


def _text(figures: Figures) -> str:
    def row(name: str, store: TokenStore) -> str:
        return (
            f"| {name} | {store.documents:,} | {store.num_bytes:,} | {store.num_tokens:,} | "
            f"{store.num_bytes / store.num_tokens:.3f} |"
        )

    header = ["| part | documents | bytes | tokens | bytes per token |", "|---|---|---|---|---|"]
    parts = [row("training", figures.corpus.train), row("validation", figures.corpus.validation)]
    closing = f"\n\nVocabulary of {figures.vocabulary:,} tokens of the training part; split by {figures.corpus.method}."
    return "\n".join(header + parts) + closing


def _clock(figures: Figures, history: History) -> list[tuple[str, float]]:
    steps = sum(row["seconds"] for row in history.training)
    return [
        *figures.seconds.items(),
        ("of which compilation of the step", figures.outcome.compile_seconds),
        ("of which training steps", steps),
        ("total", sum(figures.seconds.values())),
    ]


# What a reader is told of each of `goodput.KINDS` and `goodput.LOSSES`.
_SPENT = {
    "step": "steps that last",
    "input": "waiting for input",
    "evaluation": "evaluation",
    "checkpoint": "checkpoints",
    "check": "checks for corruption and pace",
    "compile": "compilation of the step",
    "restore": "restoring or initializing",
    "start_up": "start-up",
    "rollback": "steps undone by rollbacks",
    "restart": "steps repeated after a restart",
    "down": "between sessions",
}


def _goodput(directory: Path) -> str:
    goodput = read_goodput(directory)
    if goodput is None:
        return "Not recorded."
    rows = [
        (name, f"{goodput.seconds[kind]:.1f} s, {goodput.seconds[kind] / goodput.total:.1%}")
        for kind, name in _SPENT.items()
        if goodput.seconds.get(kind)
    ]
    sessions = "one session" if goodput.sessions == 1 else f"{goodput.sessions} sessions"
    return f"Goodput {goodput.fraction:.1%} of {goodput.total:.0f} s, in {sessions}.\n\n" + _table(rows)


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|"] + [f"| {name} | {value} |" for name, value in rows])
