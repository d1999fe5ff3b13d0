"""Learning a WordPiece vocabulary from the words of a text.

Words begin as characters, those after the first with the prefix. The pair (a, b) is joined whose score

    count(ab) / (count(a) count(b))

is the highest. Its logarithm is, but for a constant, how much likelier an occurrence of the pair becomes by being one
token, under a model of independent tokens (after Schuster and Nakajima 2012). It prefers characters that are seldom
apart to pairs that are merely frequent. Hugging Face's trainer of the same name doesn't do this: it is its byte pair
encoding trainer, which joins the most frequent pair, and only writes the tokens with prefixes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

from jaxllm.tokenizers.vocabularies.wordpiece import WordPiece

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's, in its order."""

Pair = tuple[str, str]
Word = tuple[str, ...]


def train_wordpiece(
    words: Mapping[str, int],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    unk_token: str = "[UNK]",
    prefix: str = "##",
    min_frequency: int = 2,
    limit_alphabet: int | None = 1000,
    max_input_chars_per_word: int = 100,
) -> WordPiece:
    """A vocabulary of exactly vocab_size tokens: the special ones, the characters sorted, the joined ones in turn.

    words: how often each occurs, as cut and normalized. min_frequency: of a pair that is joined. limit_alphabet: only
    so many characters are kept, the most frequent ones; a word with another one will be unknown. The result depends on
    the counts alone. Raises ValueError where vocab_size is too small for the characters, or larger than the words
    support, and says how large it can be.
    """
    if min_frequency < 1 or (limit_alphabet is not None and limit_alphabet < 1):
        raise ValueError(f"min_frequency and limit_alphabet must be at least 1, got {min_frequency}, {limit_alphabet}")
    if unk_token not in special_tokens or len(set(special_tokens)) < len(special_tokens):
        raise ValueError(f"the special tokens must differ and include {unk_token!r}, got {list(special_tokens)}")
    split = split_words(words, prefix, limit_alphabet, max_input_chars_per_word)
    if not split:
        raise ValueError("there are no words to learn a vocabulary from")
    alphabet = sorted({symbol for word in split for symbol in word}.difference(special_tokens))
    fixed = [*special_tokens, *alphabet]
    if vocab_size < len(fixed):
        raise ValueError(
            f"vocab_size must be at least {len(fixed)}, for {len(alphabet)} characters (counted twice if they both "
            f"begin and continue words) and {len(special_tokens)} special tokens, got {vocab_size}; raise it, or lower "
            "limit_alphabet"
        )
    learned = learn_tokens(split, vocab_size - len(fixed), prefix, min_frequency, known=fixed)
    if len(fixed) + len(learned) < vocab_size:
        raise ValueError(
            f"the words support {len(learned):,} joined tokens, so vocab_size can be at most "
            f"{len(fixed) + len(learned):,}, but {vocab_size:,} was asked for; lower it, give more text, or lower "
            f"min_frequency={min_frequency}"
        )
    vocab = {token: i for i, token in enumerate([*fixed, *learned])}
    return WordPiece(vocab, unk_token, prefix, max_input_chars_per_word)


def split_words(words: Mapping[str, int], prefix: str, limit_alphabet: int | None, longest: int) -> dict[Word, int]:
    """Each word as its characters, without the words that the vocabulary won't cover. Ties go to lower code points."""
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    kept = {c for c, _ in sorted(characters.items(), key=lambda item: (-item[1], item[0]))[:limit_alphabet]}
    return {
        (word[0], *(prefix + character for character in word[1:])): count
        for word, count in words.items()
        if 0 < len(word) <= longest and kept.issuperset(word)
    }


def join(left: str, right: str, prefix: str) -> str:
    """The token of two: "he" and "##llo" are "hello"."""
    return left + right[len(prefix) :]


def learn_tokens(
    words: Mapping[Word, int], count: int, prefix: str, min_frequency: int, known: Sequence[str] = ()
) -> list[str]:
    """Up to `count` tokens that are not known yet, fewer where no pair occurs min_frequency times.

    Of the pairs with the highest score, as float64, the more frequent one is joined, and of those the one that is
    first by code points. learn_tokens_slowly is the definition.
    """
    state = _Pairs(words, prefix, min_frequency)
    tokens = dict.fromkeys(known)
    target = len(tokens) + count
    while len(tokens) < target and (pair := state.pop_best()):
        tokens[join(*pair, prefix)] = None
        state.join(pair)
    return list(tokens)[target - count :]


class _Pairs:
    """The words as symbols, how often each symbol and each pair is in them, and in which words."""

    def __init__(self, words: Mapping[Word, int], prefix: str, min_frequency: int):
        self._prefix, self._least = prefix, min_frequency
        self._words = [list(word) for word in words]
        self._frequencies = list(words.values())
        self._symbols: Counter[str] = Counter()
        self._pairs: Counter[Pair] = Counter()
        self._places: dict[Pair, set[int]] = defaultdict(set)  # may name a word that has lost the pair
        self._partners: dict[str, set[Pair]] = defaultdict(set)  # the pairs that a symbol is in, or was
        for place in range(len(self._words)):
            self._count(place, 1)
        # Entries are of any time; one counts while its score and frequency are still those of the pair.
        self._heap = [self._entry(pair) for pair in self._pairs if self._pairs[pair] >= min_frequency]
        heapify(self._heap)

    def _entry(self, pair: Pair) -> tuple[float, int, Pair]:
        count = self._pairs[pair]
        return -score(count, self._symbols[pair[0]], self._symbols[pair[1]]), -count, pair

    def _count(self, place: int, sign: int) -> set[Pair]:
        """Adds a word to all counts, or takes it from them; returns its pairs."""
        word, frequency = self._words[place], sign * self._frequencies[place]
        for symbol in word:
            self._symbols[symbol] += frequency
        pairs = set(zip(word, word[1:], strict=False))
        for pair in zip(word, word[1:], strict=False):
            self._pairs[pair] += frequency
        if sign > 0:
            for pair in pairs:
                self._places[pair].add(place)
                self._partners[pair[0]].add(pair)
                self._partners[pair[1]].add(pair)
        return pairs

    def pop_best(self) -> Pair | None:
        while self._heap:
            entry = heappop(self._heap)
            pair = entry[2]
            if self._pairs[pair] >= self._least and entry == self._entry(pair):
                return pair
        return None

    def join(self, pair: Pair) -> None:
        """Joins the pair in every word, from left to right."""
        symbol = join(*pair, self._prefix)
        changed: set[Pair] = set()
        for place in self._places.pop(pair):
            changed |= self._count(place, -1)
            self._words[place] = _join_in(self._words[place], pair, symbol)
            changed |= self._count(place, 1)
        # Fewer of the two symbols stand alone now, so every pair that one of them is in scores higher.
        for part in (*pair, symbol):
            self._partners[part] = {other for other in self._partners[part] if self._pairs[other] > 0}
            changed |= self._partners[part]
        for other in changed:
            if self._pairs[other] == 0:
                del self._pairs[other]
            elif self._pairs[other] >= self._least:
                heappush(self._heap, self._entry(other))


def score(count: int, left: int, right: int) -> float:
    """Of a pair that occurs `count` times, and whose parts occur so many times."""
    return count / (left * right)


def _join_in(word: Sequence[str], pair: Pair, symbol: str) -> list[str]:
    joined: list[str] = []
    for part in word:
        if joined and joined[-1] == pair[0] and part == pair[1]:
            joined[-1] = symbol
        else:
            joined.append(part)
    return joined


def learn_tokens_slowly(
    words: Mapping[Word, int], count: int, prefix: str, min_frequency: int, known: Sequence[str] = ()
) -> Iterator[str]:
    """The definition: everything is counted anew for each token."""
    split, seen = {word: list(word) for word in words}, set(known)
    while count:
        symbols: Counter[str] = Counter()
        pairs: Counter[Pair] = Counter()
        for word, parts in split.items():
            for symbol in parts:
                symbols[symbol] += words[word]
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] += words[word]
        entries = [(-score(n, symbols[a], symbols[b]), -n, (a, b)) for (a, b), n in pairs.items() if n >= min_frequency]
        if not entries:
            return
        pair = min(entries)[2]
        token = join(*pair, prefix)
        split = {word: _join_in(parts, pair, token) for word, parts in split.items()}
        if token not in seen:
            seen.add(token)
            count -= 1
            yield token
