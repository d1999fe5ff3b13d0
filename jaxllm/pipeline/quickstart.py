"""The whole trunk on this machine, with no download: the text that ships with Python, a tokenizer, a model, a
report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jax

from jaxllm.data.config import STDLIB, STDLIB_SOURCE, DataConfig
from jaxllm.data.corpus import SplitDocuments, source_documents
from jaxllm.evaluate.byte_ngram import ByteNGram, uniform_bits_per_byte
from jaxllm.inference import LanguageModel, generate, load
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.pipeline.pretrain import Pretrained, pretrain
from jaxllm.pipeline.report import Figures, write_report
from jaxllm.plan.flops import machine_peak
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.job import Reporter
from jaxllm.training.optimizers import OptimizerConfig

NGRAM_ORDER = 3
# The openings that samples continue: the start of any document, a module's page, a class in it, a language topic.
PROMPTS = (
    "",
    "Help on module queue:\n\nNAME\n    queue",
    "class Thread(builtins.object)\n |  ",
    'The "for" statement\n*******************\n',
)
SAMPLE_TOKENS = 160


def quickstart_experiment(platform: str) -> Experiment:
    """The recipe for one kind of device: small enough for ten minutes on two CPU cores, larger on an accelerator."""
    if platform == "cpu":
        model = ModelConfig(
            context_length=256,
            d_model=192,
            num_layers=6,
            attention=AttentionConfig(num_heads=6, num_kv_heads=2, qk_norm="shared"),
            mlp=MLPConfig(d_ff=512, activation="silu", gated=True),
            residual_init="zero",
        )
        # Keeping only the results of products is also quicker on a CPU: writing the rest out costs more than computing
        # it again.
        training = TrainingConfig(steps=600, batch_size=8, eval_every=150, seed=1, remat="dots")
        optimizer = OptimizerConfig(
            kind="muon", learning_rate=6e-3, schedule="linear", warmup_steps=20, final_ratio=0.0
        )
        return _recipe(model, training, optimizer, STDLIB)
    model = ModelConfig(
        context_length=1024,
        d_model=768,
        num_layers=12,
        attention=AttentionConfig(num_heads=12, num_kv_heads=4, qk_norm="shared"),
        mlp=MLPConfig(d_ff=2048, activation="silu", gated=True),
        residual_init="zero",
        dropout=0.1,
        compute_dtype="bfloat16",
    )
    training = TrainingConfig(steps=1500, batch_size=32, eval_every=150, seed=1)
    optimizer = OptimizerConfig(kind="muon", learning_rate=3e-3, schedule="linear", warmup_steps=50, final_ratio=0.0)
    return _recipe(model, training, optimizer, STDLIB_SOURCE)


def _recipe(model: ModelConfig, training: TrainingConfig, optimizer: OptimizerConfig, text: str) -> Experiment:
    return Experiment(
        name="quickstart",
        model=model,
        tokenizer=TokenizerConfig(vocab_size=4096),
        data=DataConfig(path=text),
        optimizer=optimizer,
        training=training,
        checkpoints=CheckpointConfig(every=150),
    )


@dataclass
class Stopwatch:
    """Wall-clock seconds of each stage, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def quickstart(experiment: Experiment, directory: str | Path, reporter: Reporter) -> Figures:
    """Run everything and write `report.md`; an interrupted quickstart goes on where it was.

    Raises ValueError as `pretrain` does, and when the run was stopped before its last step.
    """
    directory, watch = Path(directory), Stopwatch()
    with watch("corpus"):
        reporter.say(f"reading the text of {experiment.data.path}")
        documents = SplitDocuments(experiment.data, list(source_documents(experiment.data)))
    with watch("tokenizer, packing and training"):
        trained = pretrain(experiment, directory, reporter, documents=documents)
    if not trained.outcome.finished:
        raise ValueError(f"stopped at step {trained.outcome.step}: run the same command to go on")
    with watch("n-gram baseline"):
        ngram = ngram_bits_per_byte(documents)
    with watch("samples"):
        samples = draw_samples(load(directory))
    figures = collect(trained, directory, ngram, samples, watch.seconds)
    write_report(figures)
    return figures


def ngram_bits_per_byte(documents: SplitDocuments) -> float:
    """The order-3 byte model, fitted on the same training documents and scored on the same validation documents."""
    model = ByteNGram.fit((text.encode() for text in documents.texts("train")), order=NGRAM_ORDER)
    return model.bits_per_byte(text.encode() for text in documents.texts("validation"))


def draw_samples(lm: LanguageModel) -> dict[str, str]:
    """A continuation of each of PROMPTS."""
    texts = generate(lm, list(PROMPTS), max_new_tokens=SAMPLE_TOKENS, temperature=0.7, top_p=0.95, seed=0)
    return dict(zip(PROMPTS, texts, strict=True))


def collect(
    trained: Pretrained, directory: Path, ngram: float, samples: dict[str, str], seconds: dict[str, float]
) -> Figures:
    peak, peak_source = machine_peak(jax.devices())
    return Figures(
        directory=directory,
        experiment=trained.experiment,
        corpus=trained.corpus,
        vocabulary=trained.tokenizer.vocab_size,
        outcome=trained.outcome,
        baselines={"uniform over bytes": uniform_bits_per_byte(), f"order-{NGRAM_ORDER} byte n-gram": ngram},
        samples=samples,
        seconds=seconds,
        device=f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        peak_flops=peak,
        peak_source=peak_source,
    )
