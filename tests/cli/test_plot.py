"""Curves and `jaxllm plot`."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.cli.main import main
from jaxllm.cli.plot import read_histories
from jaxllm.training.curves import COLOURS, draw_curves, smooth, spread
from jaxllm.training.history import History


def history(steps=300, floor=2.0, evaluations=True):
    losses = floor + 6 * np.exp(-np.arange(1, steps + 1) / 50) + np.random.default_rng(0).normal(0, 0.1, steps)
    training = tuple(
        {"step": i + 1, "tokens": 64 * (i + 1), "elapsed": 0.5 * (i + 1), "loss": loss, "learning_rate": 1e-3}
        for i, loss in enumerate(losses)
    )
    marks = range(50, steps + 1, 50) if evaluations else ()
    return History(training, tuple({"step": i, "val_loss": losses[i - 1], "val_bpb": losses[i - 1] / 3} for i in marks))


def write_run(directory, rows=None):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    rows = (
        [{"step": i, "loss": 5 - i / 10, "tokens": i, "seconds": 1.0} for i in range(1, 30)] if rows is None else rows
    )
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def pixels(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


def words(path):
    """The text of an SVG picture that was drawn with text as text."""
    import re

    return set(re.findall(r"<text[^>]*>([^<]+)</text>", Path(path).read_text()))


@pytest.fixture
def text_in_svg():
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


def has_colour(image, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(image - wanted).max(-1) < 0.02).any())


# The picture


def test_every_run_has_its_own_colour(tmp_path):
    runs = {name: history(floor=floor) for name, floor in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    image = pixels(draw_curves(runs, tmp_path / "x.png"))
    assert image.shape[0] > 500 and image.shape[1] > 1000
    assert [has_colour(image, colour) for colour in COLOURS[:5]] == [True, True, True, False, False]


def test_quantities_of_a_unit_share_a_panel(tmp_path):
    heights = {
        y: pixels(draw_curves({"a": history()}, tmp_path / "x.png", y=y)).shape[0]
        for y in (("loss",), ("loss", "val_loss"), ("loss", "val_bpb"), ("loss", "val_bpb", "learning_rate"))
    }
    one, two, three, four = heights.values()
    assert one == two < three < four


def test_titles_axes_units_and_labels(tmp_path, text_in_svg):
    levels = {"val_bpb": {"order-3 n-gram": 0.9}}
    path = draw_curves(
        {"a": history()}, tmp_path / "x.svg", y=("loss", "val_loss", "val_bpb"), levels=levels, x="tokens"
    )
    text = words(path)
    assert {"a", "training tokens", "loss in nats per token", "validation bits per byte", "order-3 n-gram 0.9"} <= text
    labels = {line.rsplit(" ", 1)[0] for line in text if "loss" in line}
    assert labels >= {"training loss", "validation loss"}


def test_time_is_shown_in_a_fitting_unit(tmp_path, text_in_svg):
    def label(steps):
        return {
            line
            for line in words(draw_curves({"a": history(steps)}, tmp_path / "x.svg", x="seconds"))
            if "of training" in line
        }

    assert label(300) == {"seconds of training"}
    assert label(600) == {"minutes of training"}
    assert label(40_000) == {"hours of training"}


def test_several_runs_are_named_beside_their_curves_and_many_in_a_legend(tmp_path, text_in_svg):
    runs = {f"run-{i}": history(60, floor=i) for i in range(9)}
    few = words(draw_curves(dict(list(runs.items())[:3]), tmp_path / "few.svg", title="A title"))
    assert {"A title", "training loss", "validation loss"} <= few
    assert sum(line.startswith("run-0 ") for line in few) == 1
    many = words(draw_curves(runs, tmp_path / "many.svg"))
    assert {"9 runs", *runs} <= many


def test_a_run_without_a_quantity_is_no_obstacle(tmp_path):
    bare = history(evaluations=False)
    draw_curves({"a": history(), "b": bare, "c": History()}, tmp_path / "x.png")
    draw_curves({"b": bare}, tmp_path / "y.png")
    broken = History(tuple({**row, "loss": "nan"} for row in bare.training))
    draw_curves({"a": history(), "broken": broken}, tmp_path / "z.png")
    with pytest.raises(ValueError, match="there is no loss and no val_loss to draw yet in broken"):
        draw_curves({"broken": broken}, tmp_path / "z.png")


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="can't draw lose along step: choose from loss, val_loss"):
        draw_curves({"a": history()}, tmp_path / "x.png", y=("lose",))
    with pytest.raises(ValueError, match="must end in .png, .svg, .pdf"):
        draw_curves({"a": history()}, tmp_path / "x")
    with pytest.raises(ValueError, match="can't write .*x.png: No such file or directory"):
        draw_curves({"a": history()}, tmp_path / "nowhere" / "x.png")
    assert list(tmp_path.iterdir()) == []


# Smoothing and labels


def test_smoothing_keeps_constants_and_lines_and_removes_noise():
    random = np.random.default_rng(0)
    np.testing.assert_allclose(smooth(np.full(500, 3.25)), 3.25, rtol=1e-12)
    line = np.linspace(0, 1, 1000)
    np.testing.assert_allclose(smooth(line)[50:-50], line[50:-50], atol=1e-9)  # no lag
    noise = random.normal(0, 1, 10_000)
    # A Gaussian window of deviation w averages 2 w sqrt(pi) samples.
    assert smooth(noise).std() == pytest.approx(1 / np.sqrt(2 * 100 * np.sqrt(np.pi)), rel=0.2)


def test_smoothing_leaves_gaps_and_lets_none_spread():
    values = np.ones(400)
    values[[0, 200, 399]] = np.nan, np.inf, np.nan
    result = smooth(values)
    assert np.isnan(result[[0, 200, 399]]).all()
    np.testing.assert_allclose(np.delete(result, [0, 200, 399]), 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.2))
def test_spread_labels_keep_their_order_and_distance_and_move_no_more_than_needed(heights, spacing):
    placed = spread(heights, spacing)
    order = np.argsort(heights, kind="stable")
    assert (np.diff(np.array(placed)[order]) >= spacing - 1e-9).all()
    assert np.mean(placed) == pytest.approx(np.mean(heights))
    if (np.diff(np.sort(heights)) >= spacing).all():
        assert placed == pytest.approx(heights)


# The verb


def test_plot_prints_the_path_and_opens_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/a"))
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    assert main(["plot", "runs/a", "--y", "loss"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("plot.png\n", "")
    assert has_colour(pixels("plot.png"), COLOURS[0])
    assert "matplotlib.pyplot" not in sys.modules
    assert sorted(path.name for path in Path().iterdir()) == ["plot.png", "runs"]


def test_plot_takes_its_options_in_any_order(tmp_path, capsys):
    a, b = (str(write_run(tmp_path / "runs" / name)) for name in "ab")
    out = str(tmp_path / "x.svg")
    assert main(["plot", "--out", out, "--x=tokens", a, "--y", "loss", "tokens_per_second", "--", b]) == 0
    stdout, err = capsys.readouterr()
    assert stdout == f"{out}\n"
    assert err == "a: no tokens_per_second yet\nb: no tokens_per_second yet\n"


def test_plot_mentions_unreadable_lines(tmp_path, capsys):
    run = write_run(tmp_path / "a")
    with open(run / "metrics.jsonl", "a") as file:
        file.write("garbage\n")
    assert main(["plot", str(run), "--y=loss", f"--out={tmp_path / 'x.png'}"]) == 0
    assert capsys.readouterr().err == "a: 1 unreadable lines of metrics.jsonl left out\n"


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    paths = [write_run(tmp_path / "x" / "a"), write_run(tmp_path / "y" / "a"), write_run(tmp_path / "y" / "b")]
    assert list(read_histories(paths[1:])) == ["a", "b"]
    assert list(read_histories(paths)) == [str(path) for path in paths]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing"], "error: there is no run directory nothing\n"),
        (["empty"], "error: there is no loss and no val_loss to draw yet in empty\n"),
        (["empty", "--out=x.gif"], "error: can't draw into x.gif: its name must end in .png, .svg, .pdf\n"),
    ],
)
def test_plot_refuses(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "empty", rows=[])
    assert main(["plot", *arguments]) == 2
    assert capsys.readouterr().err == message
