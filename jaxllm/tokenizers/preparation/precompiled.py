"""Normalization by a table of replacements, as SentencePiece compiles it into a model file.

The table is a double-array trie in the layout of darts-clone: 32-bit units, each with the label of the edge that leads
to it, the offset of its children and whether a value hangs below it. It is followed by the replacements, each ended by
a zero byte. Here it is unpacked once into a dict; what a key of it does in a text is then up to who uses the dict.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain

from jaxllm.tokenizers.stages import Span

# SentencePiece's own tables have up to 230,000 keys of up to 20 bytes; in a damaged trie a loop makes them endless.
_MOST_KEYS = 1 << 20
_LONGEST_KEY = 256

# Graphemes from this length on, in bytes, are not looked up as a whole by Hugging Face's normalizer.
_LONG_GRAPHEME = 6


@lru_cache(maxsize=4)
def parse_charsmap(charsmap: bytes) -> Mapping[str, str]:
    """Each string of the table with its replacement. Raises ValueError for a table that is damaged."""
    import numpy as np

    if not charsmap:
        return {}
    size = struct.unpack_from("<I", charsmap)[0] if len(charsmap) > 4 else len(charsmap)
    if size % 4 or not 4 <= size <= len(charsmap) - 4:
        raise ValueError(
            f"the precompiled table of {len(charsmap)} bytes is damaged: its trie should take {size} of them"
        )
    units = np.frombuffer(charsmap, "<u4", size // 4, 4).astype(np.int64)
    replacements = charsmap[4 + size :]
    if replacements and replacements[-1]:
        raise ValueError("the precompiled table is cut off: its last replacement does not end")
    try:
        return {
            key.decode("utf-8"): replacements[begin : replacements.index(0, begin)].decode("utf-8")
            for key, begin in _keys(units).items()
        }
    except ValueError as error:
        raise ValueError(f"the precompiled table is damaged: {error}") from error


def _keys(units) -> dict[bytes, int]:
    """All keys of the trie with their values. Branches of the trie may share their ends."""
    import numpy as np

    def below(nodes):
        """Where the children of nodes begin; the child of a label is there, with its bits flipped by the label."""
        unit = units[nodes]
        return nodes ^ ((unit >> 10) << ((unit & 0x200) >> 6))

    labels = np.arange(1, 256)
    edges: dict[int, list[tuple[bytes, int]]] = {}
    nodes = np.zeros(1, np.int64)
    while nodes.size:
        children = below(nodes)[:, None] ^ labels
        inside = children < len(units)
        parents, places = np.nonzero(inside & (units[np.where(inside, children, 0)] & 0x800000FF == labels))
        found = children[parents, places]
        edges.update((node, []) for node in nodes.tolist())
        for parent, label, child in zip(nodes[parents].tolist(), labels[places].tolist(), found.tolist(), strict=True):
            edges[parent].append((bytes([label]), child))
        nodes = np.array([node for node in np.unique(found).tolist() if node not in edges], np.int64)
    ends = np.array([node for node in edges if units[node] & 0x100], np.int64)
    leaves = below(ends)
    if leaves.size and leaves.max() >= len(units):
        raise ValueError("its trie points outside itself")
    values = dict(zip(ends.tolist(), (units[leaves] & 0x7FFFFFFF).tolist(), strict=True))
    return _spell(edges, values)


def _spell(edges: dict[int, list[tuple[bytes, int]]], values: dict[int, int]) -> dict[bytes, int]:
    keys: dict[bytes, int] = {}
    level = [(b"", 0)]
    for _ in range(_LONGEST_KEY):
        level = [(key + label, child) for key, node in level for label, child in edges[node]]
        keys.update((key, values[node]) for key, node in level if node in values)
        if not level:
            return keys
        if len(level) > _MOST_KEYS:
            break
    raise ValueError("its trie has a loop, or keys beyond measure")


@dataclass(frozen=True)
class Precompiled:
    """Replaces graphemes, and characters of those that are not in the table, as Hugging Face's "Precompiled" does.

    This is not quite what SentencePiece does with the same table (`SentencePieceNormalizer`): a grapheme is replaced
    by what stands for the shortest key that it begins with. Spans are also those of that library: characters are
    matched one by one, what was put in lies with the one before it, and what was taken out lies nowhere.
    """

    charsmap: bytes = field(repr=False)

    def __post_init__(self):
        self._table  # noqa: B018 - a damaged table is found here and not later

    @cached_property
    def _table(self) -> Mapping[str, str]:
        return parse_charsmap(self.charsmap)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._table), default=0)

    @cached_property
    def _graphemes(self):
        import regex

        # Runs of ASCII in which nothing is replaced are taken at once; one before another character may be part of it.
        plain = "".join(f"\\x{code:02x}" for code in range(0x20, 0x7F) if chr(code) not in self._table)
        return regex.compile(rf"[{plain}]+(?![^\x00-\x7f])|\X" if plain else r"\X")

    def __call__(self, text: str) -> str:
        return self._graphemes.sub(lambda match: "".join(new for _, new in self._replaced(match.group())), text)

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        result, spans, begin = [], [], 0
        for old, new in chain.from_iterable(map(self._replaced, self._graphemes.findall(text))):
            result.append(new)
            for i in range(len(new)):
                # What is put in before any character of the text lies with nothing.
                place = begin + min(i, len(old) - 1)
                spans.append((place, place + 1))
            begin += len(old)
        return "".join(result), spans

    def _replaced(self, grapheme: str) -> list[tuple[str, str]]:
        """The parts of a grapheme, or of a run of plain characters, each with what it becomes."""
        if grapheme.isascii() and len(grapheme) > 2:
            return [(character, character) for character in grapheme]
        if (
            len(grapheme.encode("utf-8", "surrogatepass")) < _LONG_GRAPHEME
            and (new := self._found(grapheme)) is not None
        ):
            return [(grapheme, new)]
        return [(c, c if (new := self._found(c)) is None else new) for c in grapheme]

    def _found(self, text: str) -> str | None:
        for end in range(1, min(len(text), self._longest) + 1):
            if (new := self._table.get(text[:end])) is not None:
                return new
        return None
