"""Learning the merges of a byte-level BPE from text.

Each distinct piece of the text is kept once, with its count, as a string in which chr(i) stands for the token of id i.
The pair that occurs most often is merged into a new token, until there are enough of them. Counts are changed only for
the pieces that contain the merged pair; an index says which these are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from operator import add

from jaxllm.tokenizers.byte_alphabet import BYTE_ORDER
from jaxllm.tokenizers.byte_bpe import ByteBPE
from jaxllm.tokenizers.protocol import END_OF_TEXT
from jaxllm.tokenizers.split_patterns import SPLIT_PATTERNS, splitter

# A pair that occurs once is no regularity, and the model would see its token in one place only.
MIN_COUNT = 2

Merge = tuple[bytes, bytes]


def train_byte_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    split_pattern: str = SPLIT_PATTERNS["cl100k"],
    special_tokens: Sequence[str] = (END_OF_TEXT,),
) -> ByteBPE:
    """A tokenizer of exactly `vocab_size` ids: 256 bytes, the learned tokens, and the special tokens last.

    The same texts in any order give the same tokenizer. Memory grows with the distinct pieces, not with the text.
    Raises ValueError if the texts don't have enough regularity for so many tokens, and says how many they have.
    """
    fixed = len(BYTE_ORDER) + len(special_tokens)
    if vocab_size < fixed:
        raise ValueError(f"vocab_size must be at least {fixed}, for all bytes and special tokens, got {vocab_size}")
    pieces = count_pieces(texts, split_pattern)
    learned, merges = learn_merges(pieces, vocab_size - fixed)
    if learned < vocab_size - fixed:
        raise ValueError(
            f"the text supports {learned:,} merges, so tokenizer.vocab_size can be at most {fixed + learned:,} "
            f"(256 bytes, the merges and {len(special_tokens)} special), but {vocab_size:,} was asked for; "
            "lower it, or give more text"
        )
    return ByteBPE.from_merges(merges, split_pattern, special_tokens)


def count_pieces(texts: Iterable[str], split_pattern: str) -> Counter[str]:
    """How often each piece occurs in the texts."""
    split, counts = splitter(split_pattern), Counter()
    for text in texts:
        counts.update(split(text))
    return counts


def learn_merges(pieces: Counter[str], count: int) -> tuple[int, list[Merge]]:
    """Merges that make `count` new tokens, or fewer where no pair is left that occurs MIN_COUNT times.

    Of the pairs that occur most often, the one with the lower ids is merged: first by the left token's id, then by
    the right one's. Ids are those of ByteBPE.from_merges. Returns the number of new tokens and the merges; these are
    more in the rare case that two merges make the same token.
    """
    state = _Pairs(pieces)
    tokens = {bytes([byte]): i for i, byte in enumerate(BYTE_ORDER)}
    of_symbol = {chr(i): token for token, i in tokens.items()}
    merges: list[Merge] = []
    while len(tokens) < len(BYTE_ORDER) + count and (pair := state.pop_most_frequent()):
        left, right = of_symbol[pair[0]], of_symbol[pair[1]]
        symbol = chr(tokens.setdefault(left + right, len(tokens)))
        of_symbol[symbol] = left + right
        merges.append((left, right))
        state.merge(pair, symbol)
    return len(tokens) - len(BYTE_ORDER), merges


class _Pairs:
    """The pieces as symbols, how often each pair of symbols is in them, and where."""

    def __init__(self, pieces: Counter[str]):
        symbols = {byte: chr(i) for i, byte in enumerate(BYTE_ORDER)}
        self._words = [piece.encode("utf-8").decode("latin-1").translate(symbols) for piece in pieces]
        self._frequencies = list(pieces.values())
        self._counts: dict[str, int] = defaultdict(int)
        self._places: dict[str, list[int]] = defaultdict(list)  # may name a word twice, or one that lost the pair
        for place, (word, frequency) in enumerate(zip(self._words, self._frequencies, strict=True)):
            for pair in map(add, word, word[1:]):
                self._counts[pair] += frequency
            for pair in set(map(add, word, word[1:])):
                self._places[pair].append(place)
        # A heap of (-count, pair): pairs compare as their ids do. A count is put right when it comes to the top.
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapify(self._heap)

    def pop_most_frequent(self) -> str | None:
        """The pair that occurs most often, if at least MIN_COUNT times."""
        while self._heap:
            negative, pair = heappop(self._heap)
            count = self._counts.get(pair, 0)
            if count < MIN_COUNT:
                continue
            if count == -negative:
                return pair
            if count < -negative:
                heappush(self._heap, (-count, pair))
            # An entry that is too low is old: the pair got a new one when its count rose.
        return None

    def merge(self, pair: str, symbol: str) -> None:
        """Replaces the pair, from left to right, by one symbol in every word."""
        counts, risen = self._counts, set()
        for place in self._places.pop(pair):
            word = self._words[place]
            if pair not in word:
                continue
            self._words[place] = changed = word.replace(pair, symbol)
            frequency = self._frequencies[place]
            for old in map(add, word, word[1:]):
                counts[old] -= frequency
            for new in map(add, changed, changed[1:]):
                counts[new] += frequency
            made = {new for new in map(add, changed, changed[1:]) if symbol in new}
            for new in made:
                self._places[new].append(place)
            risen |= made
        counts.pop(pair, None)
        for new in risen:
            heappush(self._heap, (-counts[new], new))


def learn_merges_slowly(pieces: Counter[str], count: int) -> list[Merge]:
    """The definition: all pairs are counted anew for each merge."""
    ids = {bytes([byte]): i for i, byte in enumerate(BYTE_ORDER)}
    words = {piece: [bytes([byte]) for byte in piece.encode("utf-8")] for piece in pieces}
    merges: list[Merge] = []
    while len(ids) < len(BYTE_ORDER) + count:
        counts: Counter[Merge] = Counter()
        for piece, word in words.items():
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += pieces[piece]
        frequent = [pair for pair in counts if counts[pair] >= MIN_COUNT]
        if not frequent:
            break
        left, right = min(frequent, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        merges.append((left, right))
        ids.setdefault(left + right, len(ids))
        for word in words.values():
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == (left, right):
                    word[i : i + 2] = [left + right]
                i += 1
    return merges
