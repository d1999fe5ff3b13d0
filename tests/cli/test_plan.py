"""`jaxllm plan`."""

import json

import pytest

from jaxllm.cli.main import main
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.training.experiment import Experiment

TINY = ModelConfig(
    vocab_size=96,
    context_length=32,
    d_model=48,
    num_layers=2,
    attention=AttentionConfig(num_heads=4),
    mlp=MLPConfig(d_ff=64),
)
EXPERIMENT = """
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.training.experiment import Experiment, TrainingConfig


def experiment():
    return Experiment(
        name="mine",
        model=ModelConfig(context_length=32, d_model=48, num_layers=2, attention=AttentionConfig(num_heads=4),
                          mlp=MLPConfig(d_ff=64)),
        tokenizer=TokenizerConfig(vocab_size=1000),
        training=TrainingConfig(steps=1000, batch_size=4),
    )
"""


def plan(capsys, *arguments):
    assert main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def values(capsys, *arguments):
    return json.loads(plan(capsys, *arguments, "--json"))


def refused(capsys, *arguments):
    assert main(["plan", *arguments]) == 2
    return capsys.readouterr().err


def test_deepseek_v3(capsys):
    text = plan(capsys, "deepseek-v3", "--context", "131072", "--hardware", "h200", "--devices", "8")
    for said in (
        "671,026,419,200",
        "37,552,297,472",
        "9.211 GB (8.578 GiB)",
        "8 x NVIDIA H200",
        "latent_attention: whole",
    ):
        assert said in text, said


def test_every_number_as_json(capsys):
    plan = values(capsys, "jamba-v0.1", "--context", "262144", "--batch", "2")
    assert (plan["total"], plan["active"]) == (51_570_323_328, 12_110_311_296)
    assert plan["cache_bytes"] == 2 * (4 * 2**30 + 14_680_064 + 1_376_256)
    assert plan["dtype"] == "bfloat16" and plan["weight_bytes"] == 2 * plan["total"]
    assert plan["train_flops"] == 3 * sum(plan["forward_flops"].values())
    assert [phase["name"] for phase in plan["phases"]] == ["prefill", "decode"]
    assert plan["rules"]["flops"]["mamba"]
    assert values(capsys, "gpt2", "--dtype", "float32")["cache_bytes"] == 18_432 * 1024 * 4


def test_training_of_a_preset_with_settings(capsys):
    arguments = (
        "llama3-8b",
        "--train",
        "--mesh.fsdp=8",
        "--mesh.data=1",
        "--training.batch_size=8",
        "--hardware",
        "h100",
    )
    training = values(capsys, *arguments, "--tokens", "15e12", "--dollars-per-hour", "2")["training"]
    assert training["devices"] == 8 and training["rows"] == 8
    memory = training["memory"]
    assert memory["weights"] == pytest.approx(4 * 8_030_261_248 / 8, rel=0.001)
    assert memory["total"] == sum(size for part, size in memory.items() if part != "total")
    hours = training["total_flops"] / (989e12 * 0.4) / 3600
    assert training["cost"]["device_hours"] == pytest.approx(hours)
    assert training["cost"]["dollars"] == pytest.approx(2 * hours)


def test_an_experiment_file(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(EXPERIMENT)
    assert main(["plan", str(path), "--training.steps=2000"]) == 0
    output = capsys.readouterr()
    assert "vocabulary: 1,024 rows assumed, from tokenizer.vocab_size=1000" in output.err
    for said in ("memory for training", "4 x 32 tokens a step", "256k", "kept activations"):
        assert said in output.out, said


def test_the_quickstart_by_name_and_by_path(capsys):
    assert values(capsys, "quickstart") == values(capsys, "experiments/quickstart")


def test_a_run_and_a_saved_model(capsys, tmp_path):
    from jaxllm.config import to_json
    from jaxllm.inference.language_model import ModelCard, Origin

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(Experiment(model=TINY)))
    (tmp_path / "saved").mkdir()
    card = ModelCard(origin=Origin(), model=TINY, tokenizer="", digests=())
    (tmp_path / "saved" / "model.json").write_text(to_json(card))
    run, saved = (values(capsys, str(tmp_path / name)) for name in ("run", "saved"))
    assert run["total"] == saved["total"] > 0
    assert values(capsys, str(tmp_path / "run" / "config.json"))["total"] == run["total"]


def test_a_hugging_face_directory(capsys, tmp_path):
    entries = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(entries))
    expected = 2 * 96 * 48 + 5 * 48 + 2 * (2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 64)
    assert values(capsys, str(tmp_path))["total"] == expected


def test_models_that_fit(capsys):
    text = plan(capsys, "--fits", "24GB", "--context", "8192")
    assert "llama3-8b" in text and "17.13 GB (15.96 GiB)" in text and "llama2-70b" not in text
    found = json.loads(plan(capsys, "--fits", "16GiB", "--json"))
    assert all(model["weight_bytes"] + model["cache_bytes"] <= 2**34 for model in found)
    assert "llama3-405b" in plan(capsys, "--list")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lama3-8b"], "there is no model 'lama3-8b'; did you mean llama3-8b?"),
        (["gpt2", "--hardware", "h10"], "unknown hardware 'h10'; did you mean h100?"),
        (["gpt2", "--batch", "0"], "batch and devices must be at least 1"),
        (["gpt2", "--mfu", "40"], "mfu is a part of the peak"),
        (["gpt2", "--dollars-per-hour", "2"], "a cost needs a device to spend it on: --hardware h100"),
        (["--fits", "much"], "'much' is no amount of memory"),
        (["--fits", "1MB"], "no published model made for 8,192 tokens fits into 1MB"),
        (["gpt2", "--train", "--mesh.fsdp=7", "--mesh.data=1", "--training.batch_size=7"], "the mesh does not divide"),
    ],
)
def test_what_cannot_be_planned(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


@pytest.mark.parametrize("arguments", [[], ["gpt2", "--fits", "24GB"], ["gpt2", "--model.no_such_field=1"]])
def test_misuse(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments])
    assert stopped.value.code == 2
