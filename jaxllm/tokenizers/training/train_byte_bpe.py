"""Learning the merges of a byte-level BPE from text.

Only the distinct pieces of the text and their counts matter. The adjacent pair of tokens that occurs most often in them
is merged into a new token, until there are enough of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS, splitter
from jaxllm.tokenizers.protocol import END_OF_TEXT
from jaxllm.tokenizers.training.counting import count_pieces
from jaxllm.tokenizers.training.pair_positions import PairPositions
from jaxllm.tokenizers.vocabularies.byte_alphabet import BYTE_ORDER
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.byte_level import byte_level_tokenizer

# A pair that occurs once is no regularity, and the model would see its token in one place only.
MIN_COUNT = 2

Merge = tuple[bytes, bytes]


def train_byte_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    split_pattern: str | Sequence[str] = SPLIT_PATTERNS["cl100k"],
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    processes: int = 1,
) -> PipelineTokenizer:
    """A tokenizer of exactly `vocab_size` ids: 256 bytes, the learned tokens, and the special tokens last.

    The same texts in any order, and any number of processes, give the same tokenizer. Memory grows with the distinct
    pieces, not with the text. Raises ValueError if the texts don't have enough regularity for so many tokens, and says
    how many they have.
    """
    fixed = len(BYTE_ORDER) + len(special_tokens)
    if vocab_size < fixed:
        raise ValueError(f"vocab_size must be at least {fixed}, for all bytes and special tokens, got {vocab_size}")
    pieces = count_pieces(texts, splitter(split_pattern), processes)
    vocabulary = learn_byte_bpe(pieces, vocab_size - len(special_tokens))
    special = {name: len(vocabulary.vocabulary) + i for i, name in enumerate(special_tokens)}
    return byte_level_tokenizer(vocabulary, split_pattern, special)


def learn_byte_bpe(pieces: Mapping[str, int], vocab_size: int) -> ByteLevelBPE:
    """A vocabulary of exactly `vocab_size` ids: 256 bytes and the learned tokens. pieces: how often each occurs.

    Raises ValueError if the pieces don't have enough regularity for so many tokens, and says how many they have.
    """
    learned, merges = learn_merges(pieces, vocab_size - len(BYTE_ORDER))
    if learned < vocab_size - len(BYTE_ORDER):
        raise ValueError(
            f"the text supports {learned:,} merges, so tokenizer.vocab_size can be at most "
            f"{len(BYTE_ORDER) + learned:,} and the special tokens, but {vocab_size:,} and these were asked for; "
            "lower it, or give more text"
        )
    return ByteLevelBPE.from_merges(merges)


def learn_merges(pieces: Mapping[str, int], count: int) -> tuple[int, list[Merge]]:
    """Merges that make `count` new tokens, or fewer where no pair is left that occurs MIN_COUNT times.

    Of the pairs that occur most often, the one with the lower ids is merged: first by the left token's id, then by
    the right one's. Ids are those of ByteLevelBPE.from_merges. Returns the number of new tokens and the merges; these
    are more in the rare case that two merges make the same token.
    """
    tokens = {bytes([byte]): i for i, byte in enumerate(BYTE_ORDER)}
    of_symbol = list(tokens)
    most = len(BYTE_ORDER) + count
    pairs = PairPositions(pieces, {token[0]: i for token, i in tokens.items()}, most, MIN_COUNT)
    merges: list[Merge] = []
    while len(tokens) < most and (pair := pairs.pop_most_frequent()):
        left, right = of_symbol[pair[0]], of_symbol[pair[1]]
        symbol = tokens.setdefault(left + right, len(tokens))
        is_new = symbol == len(of_symbol)
        if is_new:
            of_symbol.append(left + right)
        merges.append((left, right))
        pairs.merge(pair, symbol, is_new)
    return len(tokens) - len(BYTE_ORDER), merges


def learn_merges_slowly(pieces: Mapping[str, int], count: int) -> list[Merge]:
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
