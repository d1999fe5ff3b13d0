"""Learning byte pair encoding on characters, as SentencePiece does it.

Each different piece is kept once, as a string in which every token is one symbol. The pair of symbols that
occurs most often becomes a new token, until there are enough of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from operator import add

from jaxllm.tokenizers.training.character_coverage import covered_characters, cut_at_others
from jaxllm.tokenizers.vocabularies.byte_tokens import BYTE_TOKENS
from jaxllm.tokenizers.vocabularies.scored_bpe import ScoredBPE

# A pair that occurs once is no regularity.
MIN_COUNT = 2

_RANGE = 0x110000


def learn_character_bpe(
    pieces: Mapping[str, int],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = ("<unk>", "<s>", "</s>"),
    byte_fallback: bool = False,
    character_coverage: float = 0.9995,
    max_piece_length: int = 16,
) -> ScoredBPE:
    """A vocabulary of `vocab_size` tokens for pieces that were counted: the special ones, bytes, merges, characters.

    special_tokens: the first is for what is unknown; no text becomes the others. byte_fallback: adds tokens for the 256
    bytes. character_coverage: so much of the text consists of the characters that get a token. max_piece_length: of a
    token, in characters. Of pairs that occur equally often, the one whose token is shorter is merged, then the
    one whose token comes first in the alphabet, then the one whose left half is shorter.

    The result depends on the counts only, not on their order. Raises ValueError if the characters need more tokens than
    asked for, if the text does not support so many, and if there is none.
    """
    if not special_tokens:
        raise ValueError("special_tokens must name at least the token for what is unknown")
    fixed = [*special_tokens, *(BYTE_TOKENS if byte_fallback else ())]
    characters = covered_characters(pieces, character_coverage)
    if not characters:
        raise ValueError("there is no text to learn from: all pieces are empty")
    needed = len(fixed) + len(characters)
    if vocab_size < needed:
        raise ValueError(
            f"vocab_size must be at least {needed:,}, for {len(characters):,} characters and {len(fixed)} special "
            f"tokens and bytes, got {vocab_size:,}; lower character_coverage, or ask for more"
        )
    if vocab_size > _RANGE:
        raise ValueError(f"vocab_size can be at most {_RANGE:,}, got {vocab_size:,}")
    merged = _learn(cut_at_others(pieces, characters), characters, vocab_size - needed, max_piece_length, set(fixed))
    if len(merged) < vocab_size - needed:
        raise ValueError(
            f"the text supports {len(merged):,} merges, so vocab_size can be at most {needed + len(merged):,}, but "
            f"{vocab_size:,} was asked for; lower it, or give more text"
        )
    scored = [(token, -float(rank)) for rank, token in enumerate([*merged, *characters])]
    return ScoredBPE([(token, 0.0) for token in fixed] + scored, 0, byte_fallback, excluded=range(len(fixed)))


def _learn(words: Mapping[str, int], characters: Sequence[str], count: int, longest: int, taken: set[str]) -> list[str]:
    state = _Pairs(words, characters, longest, taken)
    merged: list[str] = []
    while len(merged) < count and (pair := state.pop_most_frequent()):
        if (token := state.merge(pair)) is not None:
            merged.append(token)
    return merged


class _Pairs:
    """The words as symbols, how often each pair of symbols is in them, and where."""

    def __init__(self, words: Mapping[str, int], characters: Sequence[str], longest: int, taken: set[str]):
        self._longest, self._taken = longest, taken
        self._texts = list(characters)
        self._symbols = {character: chr(i) for i, character in enumerate(characters)}
        table = {ord(character): symbol for character, symbol in self._symbols.items()}
        self._words = [word.translate(table) for word in sorted(words)]
        self._frequencies = [words[word] for word in sorted(words)]
        self._counts: Counter[str] = Counter()
        self._places: dict[str, list[int]] = {}  # may name a word twice, or one that lost the pair
        for place, word in enumerate(self._words):
            for pair, times in Counter(map(add, word, word[1:])).items():
                self._counts[pair] += times * self._frequencies[place]
                self._places.setdefault(pair, []).append(place)
        self._heap = [entry for pair in self._counts if (entry := self._entry(pair))]
        heapify(self._heap)

    def _text(self, pair: str) -> str:
        return self._texts[ord(pair[0])] + self._texts[ord(pair[1])]

    def _entry(self, pair: str) -> tuple[int, int, str, int, str] | None:
        """The order of merging: by count, length, alphabet, and length of the left half."""
        text = self._text(pair)
        if len(text) > self._longest or text in self._taken:
            return None
        return -self._counts[pair], len(text), text, len(self._texts[ord(pair[0])]), pair

    def pop_most_frequent(self) -> str | None:
        """The pair that is merged next, if it occurs at least MIN_COUNT times."""
        while self._heap:
            entry = heappop(self._heap)
            pair, count = entry[-1], self._counts.get(entry[-1], 0)
            if count < MIN_COUNT:
                continue
            if count == -entry[0]:
                return pair
            if count < -entry[0]:
                heappush(self._heap, self._entry(pair))
            # An entry that is too low is old: the pair got a new one when its count rose.
        return None

    def merge(self, pair: str) -> str | None:
        """Replaces the pair, from left to right, in every word; gives its token if it is a new one."""
        text = self._text(pair)
        new = text not in self._symbols
        if new:
            self._symbols[text] = chr(len(self._texts))
            self._texts.append(text)
        symbol, risen = self._symbols[text], set()
        for place in self._places.pop(pair):
            word = self._words[place]
            if pair not in word:
                continue
            self._words[place] = changed = word.replace(pair, symbol)
            frequency = self._frequencies[place]
            for old in map(add, word, word[1:]):
                self._counts[old] -= frequency
            for pair_made in map(add, changed, changed[1:]):
                self._counts[pair_made] += frequency
            made = {pair_made for pair_made in map(add, changed, changed[1:]) if symbol in pair_made}
            for pair_made in made:
                self._places.setdefault(pair_made, []).append(place)
            risen |= made
        self._counts.pop(pair, None)
        for pair_made in risen:
            if entry := self._entry(pair_made):
                heappush(self._heap, entry)
        return text if new else None


def learn_slowly(words: Mapping[str, int], count: int, longest: int) -> list[str]:
    """The definition: all pairs are counted anew for each merge."""
    parts = {word: list(word) for word in words}
    made: dict[str, None] = {}
    while len(made) < count:
        counts: Counter[tuple[str, str]] = Counter()
        for word, symbols in parts.items():
            for pair in zip(symbols, symbols[1:], strict=False):
                counts[pair] += words[word]
        found = [pair for pair, times in counts.items() if times >= MIN_COUNT and len(pair[0] + pair[1]) <= longest]
        if not found:
            break
        left, right = min(
            found, key=lambda pair: (-counts[pair], len(pair[0] + pair[1]), pair[0] + pair[1], len(pair[0]))
        )
        made[left + right] = None
        for symbols in parts.values():
            place = 0
            while place < len(symbols) - 1:
                if (symbols[place], symbols[place + 1]) == (left, right):
                    symbols[place : place + 2] = [left + right]
                place += 1
    return list(made)
