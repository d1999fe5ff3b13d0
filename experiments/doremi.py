"""DoReMi on this machine: the weights that a small proxy finds for Python's manuals, its source code, and plays.

    python experiments/doremi.py [--plays FILE] [--steps 200] [--out runs/doremi]

Three runs of the training loop on batches of equal parts or found ones: a reference model; a proxy whose loss counts
each source by its present weight, raised where the proxy is furthest above the reference (Xie et al. 2023); and a model
of the same size trained on the weights found. Printed are these and the validation loss of each run on each source, in
nats a token. Without --plays (any text file, such as tinyshakespeare.txt) there are two sources.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import tokenizers
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.corpus import Corpus, SplitDocuments, prepare_corpus
from jaxllm.data.documents import Document, read_documents
from jaxllm.data.loader import TrainLoader, ValidationBatches
from jaxllm.data.mixing.doremi import DomainWeights, excess_losses
from jaxllm.data.stdlib import stdlib_documents
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, forward
from jaxllm.pipeline.pretrain import make_job, with_vocabulary
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.job import Event, Silent
from jaxllm.training.loop import Trainer
from jaxllm.training.optimizers import OptimizerConfig

UPDATE_EVERY = 2  # steps; the paper updates the weights in each
SMALL = 3_000_000  # characters of each source, as many as the runs can use


def recipe(names: list[str], steps: int) -> Experiment:
    return Experiment(
        name="doremi",
        model=ModelConfig(
            context_length=128,
            d_model=96,
            num_layers=3,
            attention=AttentionConfig(num_heads=4, qk_norm="shared"),
            mlp=MLPConfig(d_ff=256, activation="silu", gated=True),
        ),
        tokenizer=TokenizerConfig(vocab_size=1024),
        data=DataConfig(
            sources=tuple(SourceConfig(name, "memory", weight=1.0) for name in names),
            device_prefetch=0,  # a batch is weighed by what is known when its step is due
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=steps // 10),
        training=TrainingConfig(steps=steps, batch_size=24, eval_every=0),
        checkpoints=CheckpointConfig(every=steps),
    )


@dataclass
class WeighedBatches:
    """A loader's batches, in which the rows of each source count by its present weight."""

    loader: TrainLoader
    weights: DomainWeights
    factors: list[list[float]] = field(default_factory=list)

    def __next__(self) -> dict[str, np.ndarray]:
        source = self.sources(self.loader.next_batch)
        batch = next(self.loader)
        factor = np.array(self.weights.current, np.float32)[source] * len(self.weights.current)
        return {**batch, "weights": batch["weights"] * factor[:, None]}

    def sources(self, step: int) -> np.ndarray:
        """The number of the source that each row of a batch is of."""
        rows = sum(self.loader.rows(1).values())
        return self.loader.mixture.turns(step * rows, rows)[0]

    def get_state(self) -> dict[str, Any]:
        weights = {"current": self.weights.current, "total": self.weights.total, "updates": self.weights.updates}
        return {**self.loader.get_state(), "domain_weights": weights}

    def set_state(self, state: dict[str, Any]) -> None:
        kept = dict(state)
        stated = kept.pop("domain_weights")
        self.weights = DomainWeights(tuple(stated["current"]), tuple(stated["total"]), stated["updates"])
        self.loader.set_state(kept)

    def source_report(self, batches: int) -> dict[str, float]:
        weights = zip(self.loader.rows(0), self.weights.current, strict=True)
        return {**self.loader.source_report(batches), **{f"weight/{name}": weight for name, weight in weights}}


class Runs:
    """The runs on one set of sources."""

    def __init__(self, experiment: Experiment, corpora: dict[str, Corpus], tokenizer, out: Path):
        self.experiment, self.corpora, self.tokenizer, self.out = experiment, corpora, tokenizer, out
        model = experiment.model

        def nll(params, batch):
            logits = forward(
                params, model, batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"]
            )
            chosen = jnp.take_along_axis(logits, batch["targets"][..., None], -1)[..., 0]
            return jax.nn.logsumexp(logits, -1) - chosen

        self.nll = jax.jit(nll)

    def train(self, name: str, weights: list[float] | None = None, reference=None) -> tuple[Any, DomainWeights]:
        """A run in out/NAME on a mixture by `weights`, equal ones by default; as a proxy if there is a reference. Gives
        its parameters and the weights of domains it came to."""
        experiment, training = self.experiment, self.experiment.training
        parts = weights or [1.0] * len(self.corpora)
        sources = tuple(replace(s, weight=w) for s, w in zip(experiment.data.sources, parts, strict=True))
        experiment = replace(experiment, data=replace(experiment.data, sources=sources))
        shape = {"row_length": experiment.model.context_length, "batch_size": training.batch_size}
        held_out = {source: corpus.validation for source, corpus in self.corpora.items()}
        stores = {source: corpus.train for source, corpus in self.corpora.items()}
        directory = self.out / name
        directory.mkdir(parents=True, exist_ok=True)
        with TrainLoader(stores, experiment.data, steps=training.steps, **shape) as loader:
            batches = WeighedBatches(loader, DomainWeights.uniform(len(stores)))

            def update(state, step: int) -> None:
                batch = loader.batch_at(step)
                losses = [np.asarray(self.nll(params, batch)) for params in (state.params, reference)]
                domain = np.repeat(batches.sources(step)[:, None], shape["row_length"], 1)
                excess = excess_losses(*losses, domain, batch["weights"], len(stores))
                batches.weights = batches.weights.updated(excess)

            events = () if reference is None else (Event("domain weights", UPDATE_EVERY, update),)
            validation = ValidationBatches(held_out, experiment.data, **shape)
            job = make_job(experiment, self.tokenizer, batches, validation, events)
            trainer = Trainer(job, directory, Silent())
            if not trainer.run().finished:
                raise SystemExit(f"{name} was stopped: run the same command to go on")
            return trainer.state.params, batches.weights

    def losses(self, params) -> list[float]:
        """Validation loss on each source."""
        found = []
        for corpus in self.corpora.values():
            shape = {"row_length": self.experiment.model.context_length, "batch_size": 24}
            nll = weight = 0.0
            for batch in ValidationBatches(corpus.validation, DataConfig(), **shape):
                nll += float((np.asarray(self.nll(params, batch)) * batch["weights"]).sum())
                weight += float(batch["weights"].sum())
            found.append(nll / weight)
        return found


def domains(plays: str) -> dict[str, list[Document]]:
    """Manuals, code and plays, each cut to what a short run can use."""
    manuals = list(stdlib_documents())
    names = {document.name for document in manuals}
    code = [document for document in stdlib_documents(include_source=True) if document.name not in names]
    found = {"manuals": manuals, "code": code}
    if plays:
        found["plays"] = list(read_documents(plays))
    return {name: _first(documents, SMALL) for name, documents in found.items()}


def _first(documents: list[Document], characters: int) -> list[Document]:
    kept = []
    for document in documents:
        if characters <= 0:
            break
        kept.append(document)
        characters -= len(document.text)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plays", default="", help="a text file as third source")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/doremi"))
    arguments = parser.parse_args()

    texts = domains(arguments.plays)
    split = {name: SplitDocuments(DataConfig(split="tail"), documents) for name, documents in texts.items()}
    experiment = recipe(list(texts), arguments.steps)
    tokenizer = tokenizers.train(
        experiment.tokenizer, (text for documents in split.values() for text in documents.texts("train"))
    )
    corpora = {
        name: prepare_corpus(documents, tokenizer, arguments.out / "data" / name) for name, documents in split.items()
    }
    runs = Runs(with_vocabulary(experiment, tokenizer), corpora, tokenizer, arguments.out)
    reference, _ = runs.train("reference")
    proxy, weights = runs.train("proxy", reference=reference)
    found, _ = runs.train("found", weights=weights.mean.tolist())
    print(f"{'':18}" + "".join(f"{name:>12}" for name in texts))
    print(f"{'weights found':18}" + "".join(f"{weight:12.4f}" for weight in weights.mean))
    for name, params in (("reference", reference), ("proxy", proxy), ("found weights", found)):
        print(f"{name:18}" + "".join(f"{loss:12.4f}" for loss in runs.losses(params)))


if __name__ == "__main__":
    main()
