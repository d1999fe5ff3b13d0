"""`jaxllm inspect`: knobs and pictures."""

import json
import re

import pytest

from jaxllm.cli.main import main
from jaxllm.models import PRESETS
from jaxllm.plan.block_diagram import draw_architecture
from jaxllm.plan.knobs import knobs, order


def table(capsys, *arguments):
    assert main(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def words(path):
    """The text of a picture, lines of a box one after another."""
    return " ".join(re.findall(r"<text[^>]*>([^<]+)</text>", path.read_text()))


def test_models_side_by_side(capsys):
    assert main(["inspect", "llama3-8b", "gemma2-9b"]) == 0
    text = capsys.readouterr().out
    for said in (
        "llama3-8b",
        "gemma2-9b",
        "8,030,261,248",
        "128 KiB",
        "21 x attention, 16/8 heads of",
        "logits capped at 30",
    ):
        assert said in text, said


def test_knobs_say_what_differs(capsys):
    columns = table(capsys, "llama3-8b", "llama3.1-8b", "--differences")
    assert set(columns["llama3-8b"]) == {"context", "positions", "cache at context (bf16)"}
    assert columns["llama3.1-8b"]["positions"] == "rope 500,000, llama3 x 8"


def test_every_preset_has_the_same_knobs():
    names = [list(knobs(make())) for make in PRESETS.values()]
    assert all(other == names[0] for other in names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", "A x 12"),
        ("deepseek-v3", "A x 3, B x 58"),
        ("gemma3-1b", "(A A A A A B) x 4, (A A)"),
        ("jamba-v0.1", "(A B A B C B A B) x 4"),
    ],
)
def test_order_of_layers(name, expected):
    assert order(PRESETS[name]()) == expected


@pytest.mark.parametrize(
    ("name", "knob", "expected"),
    [
        (
            "deepseek-v3",
            "along the text",
            "latent attention, 128 heads of 128+64, queries from 1536, keys and values from 512",
        ),
        ("mixtral-8x7b", "per token", "2 of 8 experts, SwiGLU 14,336, softmax"),
        ("pythia-1.4b", "residual", "norms before each branch, branches in parallel"),
        ("pythia-1.4b", "positions", "rope 10,000 on 25% of a head"),
        ("olmo2-7b", "residual", "norms after each branch"),
        ("granite3.3-8b", "residual", "norms before each branch, branches x 0.22"),
        ("gpt2", "embedding", "tied with the head"),
        ("jamba-v0.1", "positions", "none"),
        ("gpt2", "cache a token (bf16)", "36.86 kB (36 KiB)"),
        ("mamba-130m", "cache a token (bf16)", "0 B (0 B)"),
    ],
)
def test_single_knobs(name, knob, expected):
    assert knobs(PRESETS[name]())[knob] == expected


def test_a_picture_of_jamba(capsys, tmp_path):
    path = tmp_path / "jamba.svg"
    assert main(["inspect", "jamba-v0.1", "--diagram", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    said = words(path)
    for text in (
        "A: 12 of 32 layers",
        "B: 16 of 32 layers",
        "C: 4 of 32 layers",
        "2 of 16 experts",
        "Mamba, 8,192",
        "× 4",
    ):
        assert text in said, text
    assert said.count("RMSNorm") == 7, "two for each kind of block, and the last one"
    assert [*tmp_path.iterdir()] == [path], "nothing unfinished is left"


@pytest.mark.parametrize(
    ("name", "norms", "joins"),
    [("llama3-8b", 3, 2), ("gemma-2b", 3, 2), ("falcon-7b", 2, 1), ("falcon-40b", 3, 1), ("mamba-130m", 2, 1)],
)
def test_norms_and_joins_of_a_picture(tmp_path, name, norms, joins):
    said = words(draw_architecture(PRESETS[name](), tmp_path / "block.svg"))
    assert len(re.findall("RMSNorm|LayerNorm", said)) == norms
    assert said.split().count("+") == joins


def test_sandwiches_have_four_norms_a_block(tmp_path):
    assert words(draw_architecture(PRESETS["gemma2-9b"](), tmp_path / "block.svg")).count("RMSNorm") == 9


def test_a_bitmap(tmp_path):
    from matplotlib.image import imread

    image = imread(draw_architecture(PRESETS["gpt2"](), tmp_path / "gpt2.png"))
    assert min(image.shape[:2]) > 300 and image.std() > 0.05


def test_a_picture_of_another_kind_is_refused_before_anything_is_read(capsys):
    assert main(["inspect", "no-such-model", "--diagram", "block.gif"]) == 2
    assert "can't draw into block.gif: its name must end in .png, .svg, .pdf" in capsys.readouterr().err


def test_an_unknown_model(capsys):
    assert main(["inspect", "gpt-2"]) == 2
    assert "there is no model 'gpt-2'; did you mean gpt2?" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written(capsys, tmp_path):
    assert main(["inspect", "gpt2", "--diagram", str(tmp_path / "none" / "block.svg")]) == 2
    assert "No such file" in capsys.readouterr().err
