"""From an experiment to a trained model in a run directory: tokenizer, corpus, loop."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from jaxllm import tokenizers
from jaxllm.data.corpus import (
    Corpus,
    Documents,
    MixedDocuments,
    open_corpora,
    open_corpus,
    prepare_corpora,
    prepare_corpus,
    split_documents,
)
from jaxllm.data.fill_in_the_middle import piece_rewrite
from jaxllm.data.loader import TrainLoader, ValidationBatches
from jaxllm.models import ModelConfig, decoder_spec
from jaxllm.parallel.agreement import process_0_first
from jaxllm.parallel.local_rows import find_readers
from jaxllm.parallel.sharding import make_layout
from jaxllm.plan.flops import machine_peak, train_flops_per_token
from jaxllm.plan.memory import memory_report
from jaxllm.tokenizers.protocol import Tokenizer
from jaxllm.training.experiment import Experiment
from jaxllm.training.job import Event, Job, Outcome, Reporter, pretraining_objective
from jaxllm.training.loop import Trainer
from jaxllm.training.mesh_fit import check_mesh
from jaxllm.training.remote_run import RemoteRunDirectory, is_remote
from jaxllm.training.run_directory import RunDirectory, refuse_private_directory

# Tables are padded to a multiple of this, so that any usual tensor axis divides them and matrix units are filled.
VOCAB_MULTIPLE = 64

Corpora = Corpus | dict[str, Corpus]
"""What a run trains on: one corpus, or of a mixture each source's by its name."""


@dataclass(frozen=True)
class Pretrained:
    """What a run leaves in memory beside its directory."""

    experiment: Experiment
    tokenizer: Tokenizer
    corpus: Corpora
    outcome: Outcome


def pretrain(
    experiment: Experiment,
    directory: str | Path,
    reporter: Reporter,
    *,
    documents: Documents | None = None,
    profile: bool = False,
    began: float | None = None,
) -> Pretrained:
    """Run an experiment, or go on with the run that `directory` holds.

    `documents` stands in for reading `experiment.data` where they are in memory already; `began` is when this session
    started, in seconds since the epoch, where that was before now. Of several processes (`start_up.joined`) each calls
    this, with the same directory. Raises ValueError for anything
    a user can mend: text that cannot be read, a directory that is in use or holds another run, sizes that do not fit
    the mesh.
    """
    began = time.time() if began is None else began
    with open_run(directory) as run:
        documents = documents or split_documents(experiment.data)
        with process_0_first("preparation"):
            run.follow()
            tokenizer = prepare_tokenizer(experiment, documents, run.tokenizer, reporter)
            experiment = run.settle_config(with_vocabulary(experiment, tokenizer))
            corpus = prepare(documents, tokenizer, run.data)
            run.push()
        reporter.say(describe_corpus(corpus))
        loader, validation = make_batches(experiment, corpus, tokenizer)
        reporter.say(describe_packing(experiment, loader))
        with loader:
            # Before each checkpoint, so that the log in the bucket reaches at least to where that resumes.
            copies = Event("copy to the bucket", experiment.checkpoints.every, lambda state, step: run.push())
            events = (copies,) if is_remote(directory) else ()
            job = make_job(experiment, tokenizer, loader, validation, events)
            trainer = Trainer(job, run.path, reporter, checkpoints=run.checkpoints, profile=profile, began=began)
            outcome = trainer.run()
        return Pretrained(experiment, tokenizer, corpus, outcome)


def open_run(directory: str | Path) -> RunDirectory:
    """The directory of a run or its address in a bucket, held by process 0."""
    leads = jax.process_index() == 0
    if is_remote(directory):
        return RemoteRunDirectory(str(directory), leads=leads)
    run = RunDirectory(directory, leads=leads)
    refuse_private_directory(run.path)
    return run


def prepare(documents: Documents, tokenizer: Tokenizer, directory: Path) -> Corpora:
    """The token stores of a run; see data.corpus."""
    if isinstance(documents, MixedDocuments):
        return prepare_corpora(documents, tokenizer, directory)
    return prepare_corpus(documents, tokenizer, directory)


def open_prepared(experiment: Experiment, tokenizer: Tokenizer, directory: Path) -> Corpora:
    """What `prepare` made."""
    if experiment.data.sources:
        return open_corpora(directory, experiment.data, tokenizer)
    return open_corpus(directory, experiment.data, tokenizer)


def prepare_tokenizer(
    experiment: Experiment,
    documents: Documents,
    directory: Path,
    reporter: Reporter,
) -> Tokenizer:
    """The run's own tokenizer if it has one; else loaded or trained as the config says, and saved there."""
    if directory.exists():
        return tokenizers.load(directory)
    tokenizer = tokenizers.train(experiment.tokenizer, documents.texts("train"))
    tokenizer.save(directory)
    reporter.say(f"tokenizer  {experiment.tokenizer.kind}, {tokenizer.vocab_size:,} tokens")
    return tokenizer


def with_vocabulary(experiment: Experiment, tokenizer: Tokenizer) -> Experiment:
    """The experiment with the model's vocabulary settled. Raises ValueError when the model's table is too small."""
    size = experiment.model.vocab_size
    if not size:
        size = -(-tokenizer.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    if size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size={size} is smaller than the tokenizer's {tokenizer.vocab_size}: raise it, or set it to 0"
        )
    return replace(experiment, model=replace(experiment.model, vocab_size=size))


def make_batches(
    experiment: Experiment, corpus: Corpora, tokenizer: Tokenizer
) -> tuple[TrainLoader, ValidationBatches]:
    """This process's part of the training and validation batches. Raises ValueError when the mesh cannot split them."""
    rows = experiment.training.batch_size
    layout = make_layout(experiment.mesh)
    check_mesh(experiment, layout.mesh.shape)
    readers = find_readers(layout.sharding("batch"), rows)
    place = {
        "row_length": experiment.model.context_length,
        "process_index": readers.index,
        "process_count": readers.count,
    }
    data = experiment.data
    if isinstance(corpus, Corpus):
        train, held_out = corpus.train, corpus.validation
    else:
        train = {name: part.train for name, part in corpus.items()}
        held_out = {name: part.validation for name, part in corpus.items()}
    rewrite = piece_rewrite(data.fill_in_the_middle, tokenizer, data.shuffle_seed)
    # An evaluation does not accumulate, so it takes as many rows at once as a microbatch of training.
    microbatch = rows // experiment.training.accumulation
    return (
        TrainLoader(train, data, batch_size=rows, steps=experiment.training.steps, rewrite=rewrite, **place),
        ValidationBatches(held_out, data, batch_size=microbatch, **place),
    )


def make_job(
    experiment: Experiment,
    tokenizer: Tokenizer,
    loader: TrainLoader,
    validation: ValidationBatches,
    events: tuple[Event, ...] = (),
) -> Job:
    model, training = experiment.model, experiment.training
    peak, _ = machine_peak(jax.devices())
    return Job(
        experiment=experiment,
        spec=decoder_spec(model),
        objective=pretraining_objective(model, training),
        batches=loader,
        validation=validation,
        token_bytes=token_lengths(tokenizer, model),
        flops_per_token=train_flops_per_token(model, model.context_length),
        peak_flops=peak,
        memory_report=memory_report(experiment, jax.device_count()),
        events=events,
        describe_batches=lambda state: loader.source_report(state["next_batch"]),
    )


def token_lengths(tokenizer: Tokenizer, model: ModelConfig) -> np.ndarray:
    """Bytes of text that each row of the model's vocabulary stands for: 0 for special tokens and padding rows."""
    lengths = np.zeros(model.vocab_size, np.int32)
    lengths[: tokenizer.vocab_size] = [len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    return lengths


def describe_corpus(corpus: Corpora) -> str:
    def part(name: str, store) -> str:
        size = f"{store.num_bytes:,} bytes, " if store.num_bytes else ""
        return f"{store.documents:,} documents, {size}{store.num_tokens:,} tokens for {name}"

    def whole(corpus: Corpus) -> str:
        training, validation = part("training", corpus.train), part("validation", corpus.validation)
        return f"{training}; {validation} (split by {corpus.method})"

    if isinstance(corpus, Corpus):
        return f"corpus     {whole(corpus)}"
    return "\n".join(f"{'corpus' if not i else '':11}{name}: {whole(c)}" for i, (name, c) in enumerate(corpus.items()))


def describe_packing(experiment: Experiment, loader: TrainLoader) -> str:
    """How full the rows of training are; of windows it is not known before they are read."""
    data = experiment.data
    line = f"packing    {data.packing}, rows of {experiment.model.context_length}"
    if data.packing_window:
        return f"{line}, in windows of {data.packing_window:,} documents"
    full = [f"{name} {part:.1%}".strip() for name, part in loader.utilization.items()]
    return f"{line}, filled to {', '.join(full)}"
