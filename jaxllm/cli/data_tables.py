"""What a prepared directory comes to, as tables of plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.data.funnel import Level, percent, tokens_text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first to the left and the others to the right."""
    cells = [head, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip())
    return "\n".join(lines)


def funnel_table(levels: Sequence[Level]) -> str:
    """What is left after each stage."""
    rows = [
        [
            level.stage,
            f"{level.documents:,}",
            f"{level.bytes:,}",
            tokens_text(level),
            f"{level.dropped:,}",
            percent(level.dropped, level.documents + level.dropped),
        ]
        for level in levels
    ]
    return table(["stage", "documents", "bytes", "tokens", "dropped", "of those before"], rows)


def rates(levels: Sequence[Level], timings: Mapping[str, Any]) -> str:
    """Processor seconds of each stage, and for each of them the MB of text that went in."""
    if not timings:
        return ""
    taken = {level.stage: before.bytes for before, level in zip([levels[0], *levels], levels, strict=False)}
    taken["tokens"] = levels[-1].bytes
    rows = [
        [
            name,
            f"{seconds:.2f}",
            f"{taken[name] / seconds / 1e6:.1f}" if seconds else "",
            f"{timings['exchanged_bytes'][name]:,}" if timings["exchanged_bytes"].get(name) else "",
        ]
        for name in taken
        if (seconds := timings["seconds"].get(name)) is not None
    ]
    return "\n" + table(["", "processor seconds", "MB/s", "bytes exchanged"], rows) + "\n"
