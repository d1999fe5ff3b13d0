"""Which special tokens stand around a text, or around a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Place = int | Literal["A", "B"]
"""The id of a special token, or one of the two texts."""


@dataclass(frozen=True)
class Template:
    """The order of special tokens and texts; each place also has a type, which BERT calls the segment."""

    single: tuple[tuple[Place, int], ...] = (("A", 0),)
    pair: tuple[tuple[Place, int], ...] = (("A", 0), ("B", 1))

    def __post_init__(self):
        for name, places, texts in (("single", self.single, ["A"]), ("pair", self.pair, ["A", "B"])):
            if sorted(place for place, _ in places if isinstance(place, str)) != texts:
                raise ValueError(f"the template for {name} must have each of {texts} once, got {places}")

    def apply(self, ids: Sequence[int], second: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """The ids with the special tokens around them, and the type of each."""
        texts = {"A": ids, "B": second}
        joined, types = [], []
        for place, kind in self.single if second is None else self.pair:
            part = texts[place] if isinstance(place, str) else [place]
            joined += part
            types += [kind] * len(part)
        return joined, types

    def around(self) -> tuple[list[int], list[int]]:
        """The ids of the special tokens before and after a single text."""
        places = [place for place, _ in self.single]
        at = places.index("A")
        return places[:at], places[at + 1 :]


def bert_template(cls: int, sep: int) -> Template:
    """BERT's order: [CLS] A [SEP], and [CLS] A [SEP] B [SEP] whose second text is another segment."""
    head = ((cls, 0), ("A", 0), (sep, 0))
    return Template(head, (*head, ("B", 1), (sep, 1)))


def simple_template(begin: int | None, end: int | None) -> Template | None:
    """These tokens before and behind each text, None for none."""
    head, tail = ([] if token is None else [token] for token in (begin, end))
    if not head and not tail:
        return None
    around = lambda text, kind: tuple((place, kind) for place in (*head, text, *tail))  # noqa: E731
    first, second = around("A", 0), around("B", 1)
    return Template(first, first + second)
