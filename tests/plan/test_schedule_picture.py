"""The picture of simulated schedules."""

from __future__ import annotations

import re

import pytest

from jaxllm.parallel.schedules import Action, Kind, build_schedule, dualpipe
from jaxllm.plan.schedule_picture import COLOURS, colour, draw_schedules
from jaxllm.plan.schedule_simulation import simulate


def test_a_picture_names_schedules_and_numbers_their_microbatches(tmp_path) -> None:
    path = draw_schedules([simulate(build_schedule(name, 2, 4)) for name in ("1f1b", "zbv")], tmp_path / "two.svg")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
    assert {"1F1B: time 15, idle 20.0%, overhead 25.0%", "rank 1", "gradient of weights", "idle"} <= set(texts)
    assert "ZBV: time 12.5, idle 4.0%, overhead 4.2%" not in texts  # one stage of ZBV is a whole one here
    boxes = 2 * 2 * 4 + 2 * 2 * 3 * 4
    held = 2 + 2
    assert sum(text.isdigit() for text in texts) == boxes + held
    assert list(tmp_path.iterdir()) == [path]


def test_a_png_is_written(tmp_path) -> None:
    path = draw_schedules([simulate(dualpipe(2, 4))], tmp_path / "dualpipe.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_colours_tell_kinds_chunks_and_directions_apart() -> None:
    v, two_ways = build_schedule("zbv", 2, 4), dualpipe(2, 4)
    shades = {colour(v, Action(kind, 0, stage)) for kind in COLOURS for stage in (0, 3)}
    assert len(shades) == 2 * len(COLOURS)
    assert colour(v, Action(Kind.FORWARD, 0, 0)) == COLOURS[Kind.FORWARD]
    # On both ranks the direction decides, whichever of its stages a rank holds.
    assert colour(two_ways, Action(Kind.FORWARD, 0, 1)) == COLOURS[Kind.FORWARD]
    assert colour(two_ways, Action(Kind.FORWARD, 2, 0, 1)) == colour(two_ways, Action(Kind.FORWARD, 2, 1, 1))
    assert colour(two_ways, Action(Kind.FORWARD, 2, 0, 1)) != COLOURS[Kind.FORWARD]


def test_what_can_not_be_drawn_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"its name must end in \.png, \.svg, \.pdf"):
        draw_schedules([], tmp_path / "picture.gif")
    with pytest.raises(ValueError, match="no schedule to draw"):
        draw_schedules([], tmp_path / "picture.svg")
    with pytest.raises(ValueError, match="can't write .*: No such file or directory"):
        draw_schedules([simulate(dualpipe(2, 4))], tmp_path / "missing" / "picture.svg")
