from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.training.pair_positions import PairPositions

ALPHABET = {byte: byte - 97 for byte in b"abcd"}


def pairs_of(pieces: dict[str, int], most: int = 50) -> PairPositions:
    return PairPositions(pieces, ALPHABET, most, 2)


@given(st.dictionaries(st.text("abcd", min_size=1, max_size=30), st.integers(1, 4), max_size=10), st.data())
def test_the_most_frequent_pair_is_that_of_counting_anew(pieces, data):
    """After any merges, new symbols or ones that are there already."""
    pairs = pairs_of(pieces)
    words = [([ALPHABET[byte] for byte in piece.encode()], frequency) for piece, frequency in pieces.items()]
    symbols = 4
    for _ in range(12):
        counts: Counter = Counter()
        for word, frequency in words:
            for pair in zip(word, word[1:], strict=False):
                counts[pair] += frequency
        expected = min((pair for pair in counts if counts[pair] >= 2), key=lambda p: (-counts[p], p), default=None)
        assert pairs.pop_most_frequent() == expected
        if expected is None:
            return
        # A symbol that another merge has made may be made again, as "a" + "aa" and "aa" + "a" make one.
        symbol = data.draw(st.sampled_from([symbols, *range(4, symbols)])) if symbols < 50 else 4
        if symbol in expected:
            symbol = symbols
        pairs.merge(expected, symbol, is_new=symbol == symbols)
        symbols += symbol == symbols
        for word, _ in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == expected:
                    word[i : i + 2] = [symbol]
                i += 1


def test_runs_are_merged_from_the_left():
    pairs = pairs_of({"aaaaa": 1, "aaa": 2})
    assert pairs.pop_most_frequent() == (0, 0)
    pairs.merge((0, 0), 4, is_new=True)  # 4 4 0 and 4 0
    assert pairs.pop_most_frequent() == (4, 0)
    pairs.merge((4, 0), 5, is_new=True)  # 4 5 and 5
    assert pairs.pop_most_frequent() is None


def test_pairs_do_not_reach_across_pieces():
    assert pairs_of({"ab": 1, "ba": 1}).pop_most_frequent() is None
    assert not pairs_of({"ab": 1, "ba": 1})._places  # most pairs of a large text are rare
    assert pairs_of({}).pop_most_frequent() is None
    assert pairs_of({"ab": 2, "cd": 2}).pop_most_frequent() == (0, 1)  # of equal ones the lowest
