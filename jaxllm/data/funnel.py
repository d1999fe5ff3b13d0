"""What is left after each stage, and why the rest is gone: as numbers, as a table and as a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jaxllm.data.stages import Outcome

# Characters of a document that an example shows.
EXCERPT = 240


@dataclass
class Reason:
    """The documents that one stage dropped for one reason."""

    documents: int = 0
    bytes: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)
    """some of them, drawn by the hash of their ids, as {"draw", "id", "text"}; the text is cut"""


@dataclass
class Level:
    """What came out of one stage."""

    stage: str
    documents: int = 0
    bytes: int = 0
    """UTF-8 bytes of their texts"""
    tokens: int | None = None
    """None where nothing was tokenized"""
    estimated: bool = False
    """whether the tokens are those of a sample, scaled by the bytes of all"""
    counts: dict[str, int] = field(default_factory=dict)
    """what the stage counted besides"""
    reasons: dict[str, Reason] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        return sum(reason.documents for reason in self.reasons.values())

    def saw(self, outcome: Outcome, examples: int) -> None:
        """Adds what the stage made of one batch."""
        self.documents += len(outcome.kept)
        self.bytes += text_bytes(outcome.kept)
        self.count(outcome.counts)
        if not len(outcome.dropped):
            return
        gone = outcome.dropped
        pairs = zip(gone.column("stage").to_pylist(), gone.column("reason").to_pylist(), strict=True)
        # A stage made of several says which of them dropped a document.
        names = [reason if stage == self.stage else f"{stage}: {reason}" for stage, reason in pairs]
        for name in dict.fromkeys(names):
            some = gone.filter(pa.array([other == name for other in names], pa.bool_()))
            drawn = sorted((draw(one), row) for row, one in enumerate(some.column("id").to_pylist()))[:examples]
            shown = [
                {
                    "draw": number,
                    "id": some.column("id")[row].as_py(),
                    "text": excerpt(some.column("text")[row].as_py()),
                }
                for number, row in drawn
            ]
            self._add(name, Reason(len(some), text_bytes(some), shown), examples)

    def count(self, counts: Mapping[str, int]) -> None:
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + int(number)

    def add(self, other: Level, examples: int) -> None:
        """Adds what the same stage made of other documents."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.count(other.counts)
        for reason, found in other.reasons.items():
            self._add(reason, found, examples)

    def _add(self, reason: str, found: Reason, examples: int) -> None:
        mine = self.reasons.setdefault(reason, Reason())
        mine.documents += found.documents
        mine.bytes += found.bytes
        mine.examples = sorted([*mine.examples, *found.examples], key=lambda e: (e["draw"], e["id"]))[:examples]

    def to_json(self) -> dict[str, Any]:
        reasons = sorted(self.reasons.items(), key=lambda item: (-item[1].documents, item[0]))
        return asdict(self) | {
            "counts": dict(sorted(self.counts.items())),
            "reasons": {name: asdict(reason) for name, reason in reasons},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Level:
        reasons = {name: Reason(**reason) for name, reason in values["reasons"].items()}
        return cls(**{**values, "reasons": reasons})


def draw(name: str) -> str:
    """A number that says how early a document is drawn, the same in every run; as text, since JSON has no uint64."""
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def excerpt(text: str, length: int = EXCERPT) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length and len(text) <= 4 * length else f"{line[:length]}…"


def text_bytes(batch: pa.RecordBatch | pa.Table) -> int:
    """UTF-8 bytes of the texts of a batch."""
    return pc.sum(pc.binary_length(batch.column("text"))).as_py() or 0


# The report


def funnel_markdown(title: str, levels: Sequence[Level], problems: Sequence[str] = ()) -> str:
    """The report: a table of all stages, then each stage's reasons with examples."""
    lines = [f"# {title}", "", *_table(levels), ""]
    if any(level.estimated for level in levels):
        lines += ["≈: estimated from the tokens of a sample of the documents and the bytes of all.", ""]
    if problems:
        lines += [f"## Could not be read ({len(problems):,})", "", *(f"- {problem}" for problem in problems), ""]
    for level in levels:
        if level.reasons or level.counts:
            lines += _section(level)
    return "\n".join(lines)


def _table(levels: Sequence[Level]) -> list[str]:
    head = ["stage", "documents", "bytes", "tokens", "dropped", "of those before", "left of all bytes"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for level in levels:
        before = level.documents + level.dropped
        cells = [
            level.stage,
            f"{level.documents:,}",
            f"{level.bytes:,}",
            tokens_text(level),
            f"{level.dropped:,}",
            percent(level.dropped, before),
            percent(level.bytes, levels[0].bytes),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _section(level: Level) -> list[str]:
    lines = [f"## {level.stage}", ""]
    for name, reason in level.reasons.items():
        lines.append(f"- **{name}**: {reason.documents:,} documents, {reason.bytes:,} bytes")
        lines += [f"  - `{example['id']}`: {_quoted(example['text'])}" for example in reason.examples]
    lines += [f"- {name}: {number:,}" for name, number in level.counts.items()]
    return [*lines, ""]


def _quoted(text: str) -> str:
    """Text of others inside a page: as code, in more backticks than it has itself."""
    ticks = "`"
    while ticks in text:
        ticks += "`"
    return f"{ticks} {text} {ticks}" if text else "(empty)"


def tokens_text(level: Level) -> str:
    return "" if level.tokens is None else f"{'≈ ' if level.estimated else ''}{level.tokens:,}"


def percent(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""


def draw_funnel(path: Path, title: str, levels: Sequence[Level]) -> None:
    """The picture: for each stage a bar of what is left of documents, bytes and tokens, in percent of what was read."""
    from jaxllm.pictures import picture

    kinds = [("documents", "#4c72b0"), ("bytes", "#dd8452")]
    if all(level.tokens is not None for level in levels):
        kinds.append(("tokens", "#55a868"))
    with picture(path, width=9, height=1.2 + 0.5 * len(levels)) as figure:
        axes = figure.subplots()
        height = 0.8 / len(kinds)
        for number, (kind, color) in enumerate(kinds):
            values = [getattr(level, kind) for level in levels]
            parts = [100 * value / (values[0] or 1) for value in values]
            places = [row + (number - (len(kinds) - 1) / 2) * height for row in range(len(levels))]
            bars = axes.barh(places, parts, height=height, color=color, label=kind)
            axes.bar_label(bars, [_short(value) for value in values], padding=3, fontsize=7)
        axes.set_yticks(range(len(levels)), [level.stage for level in levels])
        axes.invert_yaxis()
        axes.set_xlim(0, 115)
        axes.set_xlabel("% of what was read")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=len(kinds), fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)


def _short(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


def merged(groups: Iterable[Iterable[Level]], examples: int) -> list[Level]:
    """Levels of the same stages over several shards as one list, in the order of the first group's stages."""
    total: dict[str, Level] = {}
    for levels in groups:
        for level in levels:
            total.setdefault(level.stage, Level(level.stage)).add(level, examples)
    return [Level.from_json(level.to_json()) for level in total.values()]
