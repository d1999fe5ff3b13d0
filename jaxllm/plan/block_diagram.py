"""A picture of an architecture, drawn from its config: the order of its blocks, and each kind of block in detail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from jaxllm.models.config import Block, ModelConfig
from jaxllm.pictures import picture
from jaxllm.plan.knobs import describe_channel, describe_mixer, kinds_of_block

COLOURS = {"mixer": "#cfe3f5", "channel": "#fbe3c4", "norm": "#e4e4e4", "table": "#dcefd9", "block": "#f4f4f4"}
WIDTH, HEIGHT, STEP = 3.0, 0.62, 1.0
COLUMN = 4.6  # from the middle of one drawing to that of the next
LINE = 27  # letters that fit into a box


def draw_architecture(config: ModelConfig, path: str | Path, title: str = "") -> Path:
    """Draw the model and its kinds of block into a .svg, .png or .pdf file. Raises ValueError for another ending."""
    letters = kinds_of_block(config)
    with picture(path, 2.4 * (1 + len(letters)), 6) as figure:
        _draw(figure, config, letters, title)
    return Path(path)


def _draw(figure: Any, config: ModelConfig, letters: dict[Block, str], title: str) -> None:
    axis = figure.subplots()
    axis.set_axis_off()
    axis.set_aspect("equal")
    top = _draw_model(axis, config, letters)
    counts = Counter(config.blocks())
    for column, (block, letter) in enumerate(letters.items(), start=1):
        times = "every layer" if len(letters) == 1 else f"{counts[block]} of {config.num_layers} layers"
        top = max(top, _draw_block(axis, config, block, column * COLUMN, f"{letter}: {times}"))
    axis.set_xlim(-COLUMN / 2, (len(letters) + 0.5) * COLUMN)
    axis.set_ylim(-1.2, top + 0.6)
    axis.set_title(title)
    figure.set_size_inches(1.0 * (len(letters) + 1) * COLUMN / 1.8, max(4.0, (top + 1.8) / 1.8))


def _draw_model(axis: Any, config: ModelConfig, letters: dict[Block, str]) -> float:
    """The column of the whole model, tokens at the bottom; returns its top."""
    tied = ", tied" if config.tie_embeddings else ""
    boxes = [("table", f"embedding {config.vocab_size:,} x {config.d_model:,}")]
    if config.positions in ("learned", "sinusoidal"):
        boxes.append(("table", f"+ {config.positions} positions"))
    if config.embedding.norm:
        boxes.append(("norm", _norm_name(config)))
    for segment in config.segments():
        names = " → ".join(letters[block] for block in segment.blocks)
        boxes.append(("block", f"{names}   × {segment.repeats}" if segment.repeats > 1 else names))
    if config.residual.norm != "post":
        boxes.append(("norm", _norm_name(config)))
    boxes.append(("table", f"head{tied}" + (f", capped at {config.head.softcap:g}" if config.head.softcap else "")))
    y = 0.0
    _words(axis, 0.0, -0.75, "tokens")
    _arrow(axis, 0.0, -0.55, y - HEIGHT / 2)
    for i, (kind, text) in enumerate(boxes):
        _box(axis, 0.0, y, kind, text)
        _arrow(axis, 0.0, y + HEIGHT / 2, y + STEP - HEIGHT / 2)
        y += STEP if i < len(boxes) - 1 else 0
    _words(axis, 0.0, y + STEP - 0.1, "logits")
    return y + STEP


def _draw_block(axis: Any, config: ModelConfig, block: Block, x: float, label: str) -> float:
    """One block, its stream going up along x; returns its top."""
    branches = [("mixer", block.mixer, describe_mixer), ("channel", block.channel, describe_channel)]
    steps = [(kind, describe(config, layer)) for kind, layer, describe in branches if layer != "none"]
    _words(axis, x, -0.75, label, weight="bold")
    _arrow(axis, x, -0.55, -0.2, head=False)
    if config.residual.parallel:
        return _draw_parallel(axis, config, steps, x)
    y = 0.0
    for kind, text in steps:
        y = _draw_branch(axis, config, kind, text, x, y)
    _arrow(axis, x, y - 0.2, y + 0.35)
    return y + 0.35


def _draw_branch(axis: Any, config: ModelConfig, kind: str, text: str, x: float, y: float) -> float:
    """A branch above y, and the way around it; returns where the stream goes on."""
    place, start = config.residual.norm, y - 0.2
    boxes = [(kind, text)]
    if place in ("pre", "sandwich"):
        boxes.insert(0, ("norm", _norm_name(config)))
    if place in ("sandwich", "branch"):
        boxes.append(("norm", _norm_name(config)))
    bottom = y
    for box_kind, box_text in boxes:
        _arrow(axis, x, bottom - 0.2, bottom + 0.5 - HEIGHT / 2 + 0.1)
        _box(axis, x, bottom + 0.6, box_kind, box_text)
        bottom += STEP
    join = bottom + 0.25
    _arrow(axis, x, bottom - 0.1, join - 0.16)
    side = x - WIDTH / 2 - 0.3
    axis.plot([x, side, side, x - 0.16], [start, start, join, join], color="#555", linewidth=1.2)
    _join(axis, x, join, config.residual.multiplier)
    y = join + 0.6
    _arrow(axis, x, join + 0.16, y - 0.2, head=False)
    if place == "post":
        _box(axis, x, y + 0.3, "norm", _norm_name(config))
        _arrow(axis, x, y - 0.2, y + 0.3 - HEIGHT / 2, head=False)
        y += 0.9
        _arrow(axis, x, y - 0.3, y - 0.2, head=False)
    return y


def _draw_parallel(axis: Any, config: ModelConfig, steps: list[tuple[str, str]], x: float) -> float:
    """Both branches read the stream at the same place."""
    shared, y, start = config.residual.shared_norm, 0.0, -0.2
    width = WIDTH * 0.62
    places = [x - width * 0.56, x + width * 0.56] if len(steps) == 2 else [x]
    if shared:
        _arrow(axis, x, start, 0.6 - HEIGHT / 2)
        _box(axis, x, 0.6, "norm", _norm_name(config))
        y = 1.0
    join = y + (1.9 if shared else 2.75)
    for place, (kind, text) in zip(places, steps, strict=True):
        foot = y + 0.1 if shared else start
        first = y + 1.0 if shared else 0.6
        axis.plot([x, place], [foot, foot], color="#555", linewidth=1.2)
        _arrow(axis, place, foot, first - (0.4 if shared else HEIGHT / 2))
        if not shared:
            _box(axis, place, first, "norm", _norm_name(config), width)
            _arrow(axis, place, first + HEIGHT / 2, first + 1.15 - 0.4)
            first += 1.15
        _box(axis, place, first, kind, text, width, height=0.8)
        axis.plot([place, place, x], [first + 0.4, join, join], color="#555", linewidth=1.2)
    side = x - WIDTH / 2 - 0.55
    axis.plot([x, side, side, x - 0.16], [start, start, join, join], color="#555", linewidth=1.2)
    _join(axis, x, join, config.residual.multiplier)
    _arrow(axis, x, join + 0.16, join + 0.6)
    return join + 0.6


def _norm_name(config: ModelConfig) -> str:
    return "RMSNorm" if config.norm.kind == "rmsnorm" else "LayerNorm"


def _box(axis: Any, x: float, y: float, kind: str, text: str, width: float = WIDTH, height: float = HEIGHT) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2, y - height / 2)
    style = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": COLOURS[kind], "edgecolor": "#555"}
    axis.add_patch(FancyBboxPatch(corner, width, height, linewidth=1, zorder=2, **style))
    letters = round(LINE * width / WIDTH)
    lines = _wrapped(text, letters)
    small = lines.count("\n") > 1
    if small:
        lines = _wrapped(text, round(1.25 * letters))
    _words(axis, x, y, lines, fontsize=5.6 if small else 7)


def _words(axis: Any, x: float, y: float, text: str, fontsize: float = 7, **style: Any) -> None:
    axis.text(x, y, text, ha="center", va="center", fontsize=fontsize, zorder=3, linespacing=1.1, **style)


def _arrow(axis: Any, x: float, bottom: float, top: float, head: bool = True) -> None:
    style = {"arrowstyle": "-|>" if head else "-", "color": "#555", "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
    axis.annotate("", (x, top), (x, bottom), arrowprops=style, zorder=1)


def _join(axis: Any, x: float, y: float, multiplier: float) -> None:
    from matplotlib.patches import Circle

    axis.add_patch(Circle((x, y), 0.16, facecolor="white", edgecolor="#555", zorder=2))
    _words(axis, x, y, "+")
    if multiplier != 1:
        _words(axis, x + 0.55, y, f"× {multiplier:g}")


def _wrapped(text: str, letters: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, letters))
