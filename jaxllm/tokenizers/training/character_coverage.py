"""The characters that get tokens of their own: those that almost all of the text consists of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby


def covered_characters(pieces: Mapping[str, int], coverage: float) -> list[str]:
    """The characters that make up so much of the text, the most frequent first; of equal ones the lower code."""
    counts: Counter[str] = Counter()
    for piece, count in pieces.items():
        for character in piece:
            counts[character] += count
    total, covered, chosen = sum(counts.values()), 0, []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= coverage * total:
            break
        chosen.append(character)
        covered += count
    return chosen


def cut_at_others(pieces: Mapping[str, int], characters: Sequence[str]) -> Counter[str]:
    """The parts of the pieces that consist of these characters, with their counts."""
    known, found = set(characters), Counter()
    for piece, count in pieces.items():
        if known.issuperset(piece):
            found[piece] += count
        else:
            for inside, part in groupby(piece, known.__contains__):
                if inside:
                    found["".join(part)] += count
    return found
