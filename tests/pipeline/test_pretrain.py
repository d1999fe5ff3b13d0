"""From text on disk to a run directory, as `jaxllm train` does it."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from jaxllm.data.config import DataConfig, FillInTheMiddleConfig, SourceConfig, StageConfig
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.pipeline.pretrain import make_batches, open_prepared, pretrain, token_lengths, with_vocabulary
from jaxllm.pipeline.replay import choose_interval, replay_run
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.job import Silent
from jaxllm.training.optimizers import OptimizerConfig
from jaxllm.training.run_directory import RunDirectory, read_config

SENTENCES = [
    f"The {animal} {verb} over the {thing}.\n"
    for animal in ("fox", "cat")
    for verb in ("jumps", "looks")
    for thing in ("dog", "wall")
]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("text") / "animals.txt"
    path.write_text("".join(random.choice(SENTENCES, 400)))
    return path


def make_experiment(path, **training) -> Experiment:
    return Experiment(
        name="animals",
        model=ModelConfig(
            context_length=32,
            d_model=32,
            num_layers=2,
            attention=AttentionConfig(num_heads=4, num_kv_heads=2),
            mlp=MLPConfig(d_ff=64, activation="silu", gated=True),
        ),
        tokenizer=TokenizerConfig(vocab_size=270),
        data=DataConfig(path=str(path)),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        training=TrainingConfig(**{"steps": 8, "batch_size": 8, "eval_every": 4, **training}),
        checkpoints=CheckpointConfig(every=4),
        mesh=MeshConfig(data=1, fsdp=-1),
    )


def losses(directory):
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def trained(text_file, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "animals"
    return directory, pretrain(make_experiment(text_file), directory, Silent())


def test_a_run_directory_holds_what_others_rely_on(trained):
    directory, result = trained
    assert result.outcome.finished
    assert {"config.json", "metrics.jsonl", "checkpoints", "tokenizer"} <= {path.name for path in directory.iterdir()}
    assert losses(directory)[-1] < losses(directory)[0] - 0.5
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val_bpb" in row] == [4, 8]


def test_the_vocabulary_is_settled_and_recorded(trained):
    directory, result = trained
    assert result.tokenizer.vocab_size == 270
    assert read_config(directory / "config.json").model.vocab_size == 320


def test_a_config_replays_to_the_same_losses(trained, tmp_path):
    directory, _ = trained
    pretrain(read_config(directory / "config.json"), tmp_path / "again", Silent())
    assert losses(tmp_path / "again") == losses(directory)


def test_a_run_is_replayed_bit_for_bit(trained):
    directory, _ = trained
    replayed = list(replay_run(directory, Silent()))
    assert [each.step for each in replayed] == [5, 6, 7, 8, 8]
    assert all(each.same and each.logged == each.loss for each in replayed[:-1])
    assert replayed[-1].differing == ()


@pytest.mark.parametrize(
    "saved, start, steps, message",
    [
        ([4], None, None, r"from one checkpoint to the next, and the run has \[4\]"),
        ([0, 4], 3, None, r"there is no checkpoint of step 3; the run has \[0, 4\]"),
        ([0, 4], 4, None, "checkpoint 4 is the last: say how many steps"),
        ([0, 4], 0, 0, "--steps 0: expected at least 1"),
    ],
)
def test_a_replay_that_is_not_possible_is_refused(saved, start, steps, message):
    with pytest.raises(ValueError, match=message):
        choose_interval(saved, start, steps)


def test_the_interval_of_a_replay():
    assert choose_interval([0, 4, 9], None, None) == (4, 5)
    assert choose_interval([0, 4, 9], 0, None) == (0, 4)
    assert choose_interval([0, 4, 9], 9, 2) == (9, 2)


def test_a_finished_run_started_again_changes_nothing(trained, text_file):
    directory, _ = trained
    before = (directory / "metrics.jsonl").read_bytes()
    assert pretrain(make_experiment(text_file), directory, Silent()).outcome.finished
    assert (directory / "metrics.jsonl").read_bytes() == before


def test_another_model_is_refused_in_the_same_directory(trained, text_file):
    directory, _ = trained
    other = make_experiment(text_file)
    other = replace(other, model=replace(other.model, d_model=64))
    with pytest.raises(ValueError, match=r"model\.d_model: was 32, is 64(.|\n)*--run DIR"):
        pretrain(other, directory, Silent())
    assert read_config(directory / "config.json").model.d_model == 32


def test_a_context_longer_than_any_document_packs_several_into_a_row(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(SENTENCES[i % len(SENTENCES)])
    experiment = make_experiment(tmp_path, steps=2, eval_every=0)
    experiment = replace(
        experiment,
        model=replace(experiment.model, context_length=512),
        data=replace(experiment.data, validation_fraction=0.2),
        optimizer=replace(experiment.optimizer, warmup_steps=1),
        tokenizer=TokenizerConfig(kind="byte"),
    )
    assert pretrain(experiment, tmp_path / "run", Silent()).outcome.finished


@pytest.fixture(scope="module")
def mixed(text_file, tmp_path_factory):
    """A run on two sources, the second alone for the last quarter."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "code.txt").write_text("def f(x):\n    return x + 1\n\n" * 120)
    sources = (SourceConfig("prose", str(text_file), weight=3), SourceConfig("code", str(folder), weight=1))
    experiment = make_experiment(text_file)
    experiment = replace(
        experiment,
        data=DataConfig(
            sources=sources,
            stages=(StageConfig(0.75, (0.0, 1.0)),),
            compression="zstd",
            fill_in_the_middle=FillInTheMiddleConfig(rate=0.5, scope="context"),
        ),
        tokenizer=TokenizerConfig(
            vocab_size=275,
            special_tokens=("<|endoftext|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ),
    )
    directory, said = tmp_path_factory.mktemp("runs") / "mixed", []
    reporter = Silent()
    reporter.say = said.append
    return directory, said, pretrain(experiment, directory, reporter)


def test_a_mixture_is_trained_from_a_config_and_its_sources_are_counted(mixed):
    directory, said, result = mixed
    assert result.outcome.finished
    corpus, packing = (next(text for text in said if text.startswith(word)) for word in ("corpus", "packing"))
    assert re.search(r"corpus     prose: 1 documents, .*\n {11}code: 1 documents, ", corpus)
    assert re.fullmatch(r"packing    best_fit, rows of 32, filled to prose \d+\.\d%, code \d+\.\d%", packing)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    assert [row["tokens/prose"] for row in rows] == [192, 384, 576, 768, 960, 1152, 1152, 1152]
    assert all(row["tokens/prose"] + row["tokens/code"] == row["tokens"] for row in rows)
    assert rows[-1]["epochs/code"] > rows[0]["epochs/code"] > 0 and rows[-1]["input_stall"] >= 0
    assert sorted(path.name for path in (directory / "data").iterdir()) == ["code", "prose"]
    assert read_config(directory / "config.json").data.sources[1].name == "code"


def test_the_batches_of_a_mixture_are_found_again_from_its_run_directory(mixed):
    directory, _, result = mixed
    experiment, tokenizer = read_config(directory / "config.json"), result.tokenizer
    with RunDirectory(directory) as run:
        again = make_batches(experiment, open_prepared(experiment, tokenizer, run.data), tokenizer)[0]
    first = make_batches(experiment, result.corpus, tokenizer)[0]
    with again, first:
        for step in (0, 7):
            np.testing.assert_array_equal(again.batch_at(step)["tokens"], first.batch_at(step)["tokens"])
    middle = tokenizer.special_tokens["<|fim_middle|>"]
    assert (again.batch_at(0)["tokens"] == middle).any()


def test_a_vocabulary_that_the_corpus_does_not_support_is_refused(text_file, tmp_path):
    experiment = replace(make_experiment(text_file), tokenizer=TokenizerConfig(vocab_size=4096))
    with pytest.raises(ValueError, match="vocab_size"):
        pretrain(experiment, tmp_path / "run", Silent())


def test_a_model_smaller_than_the_vocabulary_is_refused(trained):
    _, result = trained
    small = replace(result.experiment, model=replace(result.experiment.model, vocab_size=128))
    with pytest.raises(ValueError, match=r"model.vocab_size=128 is smaller than the tokenizer's 270"):
        with_vocabulary(small, result.tokenizer)


def test_bits_per_byte_counts_bytes_of_text_only(trained):
    _, result = trained
    lengths = token_lengths(result.tokenizer, result.experiment.model)
    assert lengths[:256].tolist() == [1] * 256
    assert lengths[result.tokenizer.end_of_text] == 0
    assert lengths[270:].sum() == 0
    text = "The fox jumps over the wall."
    assert lengths[result.tokenizer.encode(text)].sum() == len(text)


def test_missing_text_is_named_and_leaves_no_corpus(tmp_path):
    with pytest.raises(ValueError, match="nowhere.txt"):
        pretrain(make_experiment(tmp_path / "nowhere.txt"), tmp_path / "run", Silent())
    assert not (tmp_path / "run" / "data").exists()
