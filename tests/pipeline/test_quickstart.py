"""The whole trunk at small size, on a handful of real pages."""

from dataclasses import replace
from itertools import islice

import pytest

from jaxllm.data.stdlib import stdlib_documents
from jaxllm.evaluate.byte_ngram import ByteNGram
from jaxllm.pipeline import quickstart as module
from jaxllm.pipeline.quickstart import PROMPTS, quickstart, quickstart_experiment
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.training.job import Silent


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    pages = list(islice((d for d in stdlib_documents() if d.name.startswith("topics/")), 60))
    recipe = quickstart_experiment("cpu")
    small = replace(
        recipe,
        model=replace(
            recipe.model,
            context_length=64,
            d_model=32,
            num_layers=2,
            attention=replace(recipe.model.attention, num_heads=2, num_kv_heads=1),
            mlp=replace(recipe.model.mlp, d_ff=64),
        ),
        tokenizer=TokenizerConfig(vocab_size=512),
        training=replace(recipe.training, steps=30, eval_every=15),
        mesh=replace(recipe.mesh, data=1, fsdp=-1),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "source_documents", lambda config: pages)
        patch.setattr(module, "SAMPLE_TOKENS", 8)
        return quickstart(small, tmp_path_factory.mktemp("runs") / "quick", Silent())


def test_the_report_states_what_it_promises(figures):
    report = (figures.directory / "report.md").read_text()
    assert "## Where the time went\n\nGoodput " in report
    for promised in (
        "bits per byte",
        "uniform over bytes",
        "order-3 byte n-gram",
        "parameters",
        "FLOPs per token",
        "tokens/s",
        "MFU",
        "Wall clock",
        "jaxllm chat",
    ):
        assert promised in report
    assert f"{figures.outcome.val_bpb:.4f}" in report
    assert (figures.directory / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_baselines_are_of_the_same_text(figures):
    corpus = figures.corpus
    assert figures.baselines["uniform over bytes"] == 8.0
    assert 1.5 < figures.baselines["order-3 byte n-gram"] < 5
    assert corpus.validation.num_bytes > 0


def test_there_is_a_sample_for_each_prompt(figures):
    assert list(figures.samples) == list(PROMPTS)


def test_it_learns(figures):
    assert figures.outcome.val_bpb < 6


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_recipe_of_each_platform_is_valid(platform):
    recipe = quickstart_experiment(platform)
    assert recipe.training.batch_size % 8 == 0
    assert (recipe.model.compute_dtype == "bfloat16") == (platform != "cpu")


def test_the_ngram_sees_training_text_only():
    model = ByteNGram.fit([b"abcabcabc"], order=3)
    assert model.bits_per_byte([b"abcabcabc"]) < model.bits_per_byte([b"xyzxyzxyz"])
