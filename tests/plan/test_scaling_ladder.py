"""Ladders of runs: planned, read back, drawn, and the script that does all of it."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from jaxllm import config as configs
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.models.config import Block, MambaConfig, MoEConfig, MuPConfig
from jaxllm.plan.flops import parameter_count, train_flops_per_token
from jaxllm.plan.scaling_bootstrap import bootstrap, predict
from jaxllm.plan.scaling_fits import fit_chinchilla, fit_compute
from jaxllm.plan.scaling_frontier import fit_isoflop
from jaxllm.plan.scaling_ladder import Ladder, LadderConfig, plan_ladder, resized, sizes_of
from jaxllm.plan.scaling_laws import PUBLISHED, ScalingRun
from jaxllm.plan.scaling_picture import draw_scaling
from jaxllm.plan.scaling_results import read_run
from jaxllm.training.experiment import Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig

SCRIPT = Path(__file__).parent.parent.parent / "experiments" / "scaling_ladder.py"
LAW = PUBLISHED["besiroglu2024"]
MODEL = ModelConfig(
    vocab_size=512,
    context_length=64,
    d_model=128,
    num_layers=4,
    attention=AttentionConfig(num_heads=8, num_kv_heads=2),
    mlp=MLPConfig(d_ff=344, activation="silu", gated=True),
    mup=MuPConfig(base_width=128, base_depth=4),
)
BASE = Experiment(
    model=MODEL,
    optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=50),
    training=TrainingConfig(steps=1000, batch_size=16),
)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("scaling_ladder_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Sizes


def test_a_resized_model_keeps_its_proportions():
    small, large = resized(MODEL, 32), resized(MODEL, 512)
    assert (small.num_layers, small.attention.num_heads, small.attention.kv_heads, small.mlp.d_ff) == (1, 2, 1, 88)
    assert (large.num_layers, large.attention.num_heads, large.attention.kv_heads, large.mlp.d_ff) == (16, 32, 8, 1376)
    assert small.head_dim == large.head_dim == MODEL.head_dim == 16
    assert resized(MODEL, 128) == replace(MODEL, attention=replace(MODEL.attention, head_dim=16))
    assert resized(MODEL, 208).attention.kv_heads == 1  # of 13 heads no 3 share a key
    hybrid = replace(
        MODEL,
        prologue=(Block(),),
        num_layers=5,
        pattern=(Block(AttentionConfig(num_heads=8, window=16)), Block(channel=MoEConfig(d_ff=64, shared_d_ff=32))),
    )
    twice = resized(hybrid, 256)
    assert twice.num_layers == 9 and twice.prologue == (Block(),)
    assert (twice.pattern[0].mixer.num_heads, twice.pattern[0].mixer.window) == (16, 16)
    assert (twice.pattern[1].channel.d_ff, twice.pattern[1].channel.shared_d_ff) == (128, 64)


def test_what_is_counted_as_size():
    assert sizes_of(MODEL) == (parameter_count(MODEL), parameter_count(MODEL) - 512 * 128)
    untied = replace(MODEL, tie_embeddings=False, positions="learned")
    assert sizes_of(untied)[1] == sizes_of(MODEL)[1]
    experts = replace(MODEL, pattern=(Block(channel=MoEConfig(num_experts=8, top_k=2, d_ff=64)),))
    assert sizes_of(experts)[0] < parameter_count(experts) / 2


# Ladders


def test_isoflop_rows_spend_their_budget():
    config = LadderConfig(budgets=(1e13, 4e13), sizes=4, spread=4.0)
    ladder = plan_ladder(BASE, config)
    for budget in config.budgets:
        row = [rung for rung in ladder.rungs if rung.budget == budget]
        assert 3 <= len(row) <= 4 and len({rung.name for rung in row}) == len(row)
        for rung in row:
            model, training = rung.experiment.model, rung.experiment.training
            assert rung.parameters == parameter_count(model)
            assert rung.tokens == training.steps * training.batch_size * 64
            assert rung.flops == pytest.approx(train_flops_per_token(model, 64) * rung.tokens)
            assert rung.flops == pytest.approx(budget, rel=0.5 / training.steps + 1e-9)
            assert 20 / 16 <= rung.tokens / rung.parameters <= 20 * 16 * 1.01
        ratios = [rung.tokens / rung.parameters for rung in row]
        assert min(ratios) < 20 < max(ratios)
    assert ladder.flops == pytest.approx(sum(rung.flops for rung in ladder.rungs))
    plain = plan_ladder(BASE, replace(config, flops="6ND"))
    assert all(rung.flops == pytest.approx(6 * rung.parameters * rung.tokens) for rung in plain.rungs)
    assert all(rung.flops == pytest.approx(rung.budget, rel=0.01) for rung in plain.rungs)


def test_one_number_of_tokens_for_each_parameter():
    ladder = plan_ladder(BASE, LadderConfig(widths=(32, 64, 128), tokens_per_parameter=30))
    assert [rung.name for rung in ladder.rungs] == ["r30-w32", "r30-w64", "r30-w128"]
    assert [rung.tokens / rung.parameters for rung in ladder.rungs] == pytest.approx([30] * 3, rel=0.01)


def test_learning_rates_follow_their_rule():
    config = LadderConfig(widths=(32, 64, 128))
    with_mup = plan_ladder(BASE, config)
    assert {rung.experiment.optimizer.learning_rate for rung in with_mup.rungs} == {4e-3}
    assert all(rung.experiment.model.mup == MODEL.mup for rung in with_mup.rungs)
    without = plan_ladder(replace(BASE, model=replace(MODEL, mup=None)), config)
    of_base = train_flops_per_token(MODEL, 64) * 1000 * 16 * 64
    for rung in without.rungs:
        wanted = 4e-3 * (rung.flops / of_base) ** -0.125
        assert rung.experiment.optimizer.learning_rate == pytest.approx(wanted)
        assert rung.experiment.optimizer.warmup_steps == round(50 * rung.experiment.training.steps / 1000)


def test_short_runs_get_fewer_rows_and_a_lower_rate():
    wide = replace(BASE, training=replace(BASE.training, batch_size=64))
    (full,) = plan_ladder(wide, LadderConfig(widths=(32,))).rungs
    assert full.experiment.training.batch_size == 64
    (rung,) = plan_ladder(wide, LadderConfig(widths=(32,), min_steps=3 * full.experiment.training.steps)).rungs
    assert rung.experiment.training.batch_size == 16
    assert rung.experiment.optimizer.learning_rate == pytest.approx(4e-3 / 2)
    assert rung.tokens == pytest.approx(full.tokens, rel=0.01)


def test_a_ladder_survives_json():
    ladder = plan_ladder(BASE, LadderConfig(budgets=(1e13,)))
    assert configs.from_json(configs.to_json(ladder), Ladder) == ladder


@pytest.mark.parametrize(
    "make, complaint",
    [
        (lambda: LadderConfig(), "a ladder needs budgets .* or widths"),
        (lambda: LadderConfig(budgets=(1e12, math.nan)), "ladder.budgets must be positive and different"),
        (lambda: LadderConfig(widths=(64, 64)), "ladder.widths must be positive and different"),
        (lambda: LadderConfig(budgets=(1e12,), sizes=2), "a parabola needs three models"),
        (
            lambda: plan_ladder(BASE, LadderConfig(budgets=(1e9,))),
            r"budget of 1e\+09 operations has . model sizes with",
        ),
        (lambda: plan_ladder(BASE, LadderConfig(widths=(72,))), "72 is no whole number of heads of 16 units"),
        (
            lambda: plan_ladder(BASE, LadderConfig(widths=(16,), min_steps=10**6)),
            "r20-w16 would train on .* steps of 1 rows, fewer than min_steps=1000000",
        ),
        (
            lambda: plan_ladder(replace(BASE, model=replace(MODEL, vocab_size=0)), LadderConfig(widths=(64,))),
            "set model.vocab_size",
        ),
        (
            lambda: resized(replace(MODEL, pattern=(Block(MambaConfig()),)), 64),
            "resizes softmax attention only; the base model has mamba",
        ),
    ],
)
def test_ladders_that_can_not_be(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


# Runs that were trained


def write_run(directory: Path, rung, loss, *, steps: int | None = None, unit_loss=None) -> None:
    """What a run leaves: its config, and a log whose losses are given."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(configs.to_json(rung.experiment))
    last = steps or rung.experiment.training.steps
    tokens = last * rung.experiment.training.batch_size * rung.experiment.model.context_length
    rows = [
        {"step": last, "tokens": tokens, "loss": loss},
        {"step": last, "val_loss": loss, "val_bpb": unit_loss or loss / 2},
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_finished_run_is_read(tmp_path):
    (rung,) = plan_ladder(BASE, LadderConfig(widths=(64,))).rungs
    write_run(tmp_path / "one", rung, 3.0)
    run = read_run(tmp_path / "one", "nats_per_token")
    assert (run.parameters, run.tokens, run.loss, run.name) == (rung.parameters, rung.tokens, 3.0, "one")
    assert run.flops == pytest.approx(rung.flops)
    assert read_run(tmp_path / "one").loss == 1.5 and read_run(tmp_path / "one").unit == "bits_per_byte"
    assert read_run(tmp_path / "one", count="non_embedding").parameters == rung.non_embedding
    write_run(tmp_path / "nan", rung, "nan", unit_loss="nan")
    assert math.isnan(read_run(tmp_path / "nan").loss)
    write_run(tmp_path / "half", rung, 3.0, steps=5)
    with pytest.raises(ValueError, match="half is stopped, at step 5 of .* let it finish, or leave it out"):
        read_run(tmp_path / "half")
    log = tmp_path / "one" / "metrics.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="one has no val_bpb at its last step"):
        read_run(tmp_path / "one")


# Pictures


def runs_of(budgets, sizes=(0.2, 0.5, 1, 2, 5)) -> list[ScalingRun]:
    places = [(c, LAW.optimal(c).parameters * s) for c in budgets for s in sizes]
    return [ScalingRun(N, c / 6 / N, c, LAW.loss(N, c / 6 / N)) for c, N in places]


def test_a_picture_shows_frontier_rows_and_what_is_extrapolated(tmp_path):
    runs, held_out = runs_of((1e18, 1e19, 1e20)), runs_of((1e21,), (1,))[0]
    found = fit_chinchilla(runs)
    said = predict(bootstrap(found, 10), held_out.parameters, held_out.tokens)
    path = draw_scaling(found, tmp_path / "law.svg", isoflop=fit_isoflop(runs), held_out=[(held_out, said)], title="a")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
    assert {"chinchilla law", "extrapolated", "held out, 95% predicted", "1e+19", "a", "parameters"} <= set(texts)
    assert texts.count("extrapolated") == 2  # a dashed line, a grey field
    assert any(text.startswith("parabolas: C^0.5") for text in texts)
    assert list(tmp_path.iterdir()) == [path]
    path = draw_scaling(fit_compute(runs), tmp_path / "law.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match=r"its name must end in \.png, \.svg, \.pdf"):
        draw_scaling(found, tmp_path / "law.gif")
    with pytest.raises(ValueError, match="can't write .*: No such file or directory"):
        draw_scaling(found, tmp_path / "missing" / "law.svg")


# The script


@pytest.fixture
def planned(tmp_path, script, capsys):
    """(directory, its ladder) of a ladder planned on the command line."""
    base = tmp_path / "base.py"
    base.write_text(
        "from jaxllm import config as configs\nfrom jaxllm.training.experiment import Experiment\n"
        f"def experiment():\n    return configs.from_json({configs.to_json(BASE)!r}, Experiment)\n"
    )
    out = tmp_path / "ladder"
    arguments = ["plan", str(base), "--out", str(out), "--budgets", "1e13", "3e13", "1e14", "--sizes", "4"]
    assert script.main([*arguments, "--training.seed=7"]) == 0
    said = capsys.readouterr().out
    ladder = script.read_ladder(out)
    assert all(rung.name in said and rung.experiment.training.seed == 7 for rung in ladder.rungs)
    assert script.main([*arguments, "--training.seed=7"]) == 0
    assert script.main([*arguments, "--training.seed=8"]) == 2
    assert "holds another ladder" in capsys.readouterr().err
    assert script.read_ladder(out) == ladder
    return out, ladder


def test_the_script_fits_what_is_finished_and_predicts_what_is_held_out(planned, script, capsys):
    out, ladder = planned
    assert script.main(["fit", str(out)]) == 2
    assert "a chinchilla law of 5 numbers needs 6 runs or more, got 0" in capsys.readouterr().err
    for rung in ladder.rungs:
        write_run(out / rung.name, rung, LAW.loss(rung.parameters * 1e3, rung.tokens * 1e3))
    costliest = max(ladder.rungs, key=lambda rung: rung.flops).name
    picture = out / "picture.svg"
    options = ["--hold-out", "1", "--samples", "20", "--at", "3e13", "1e20", "--picture", str(picture)]
    assert script.main(["fit", str(out), "--unit", "nats_per_token", *options]) == 0
    said = capsys.readouterr().out
    assert f"{len(ladder.rungs)} of {len(ladder.rungs)} runs are finished" in said and picture.exists()
    assert re.search(rf"{costliest} .*(inside|OUTSIDE)", said)
    assert re.search(r"alpha +0\.3478 ", said) and re.search(r"1e\+20 .*extrapolated", said)
    assert not re.search(r"3e\+13 .*extrapolated", said)
    assert "N* = " in said
    # Without any row on either side of its minimum there is no frontier, but still a law.
    for rung in ladder.rungs:
        shutil.rmtree(out / rung.name)
        write_run(out / rung.name, rung, 2 + rung.flops**-0.1 + rung.parameters**-0.5)
    assert script.main(["fit", str(out), "--law", "compute", "--samples", "5"]) == 0
    said = capsys.readouterr().out
    assert "gamma" in said and "no frontier from iso-FLOP rows: 3 budgets have three sizes" in said
    # Finished runs are not trained again, so that there is nothing to do.
    assert script.main(["run", str(out)]) == 0
    assert script.main(["run", str(out), "--only", "c9"]) == 2
    assert "the ladder has no run c9" in capsys.readouterr().err


def test_the_script_needs_a_plan_first(tmp_path, script, capsys):
    assert script.main(["run", str(tmp_path)]) == 2
    assert "plan the ladder first" in capsys.readouterr().err
