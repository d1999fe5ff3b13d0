import math
import random
from collections import Counter
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.evaluate.byte_ngram import MAX_ORDER, ByteNGram, uniform_bits_per_byte

TEXTS = [topics[name].encode() for name in ("for", "if", "while", "try", "function")]
SMALL = [b"abracadabra", b"abba", b"bbbbbb", b"cab", b"", b"a"]


def reference(documents: list[bytes], order: int):
    """p(byte | context) by dictionaries; -1 stands for the start of a document."""

    def padded(document: bytes) -> tuple[int, ...]:
        return (-1,) * order + tuple(document)

    ngrams = [padded(d)[i : i + order + 1] for d in documents for i in range(len(d))]
    counts = {order + 1: Counter(ngrams)}
    for length in range(order, 0, -1):
        counts[length] = Counter(longer[1:] for longer in counts[length + 1])

    def discount(length: int, count: int) -> float:
        having = Counter(counts[length].values())
        kind = min(count, 3)
        if not having[1] or not having[kind]:
            return 0.5
        share = having[1] / (having[1] + 2 * having[2])
        return min(max(kind - (kind + 1) * share * having[kind + 1] / having[kind], 0.05), kind)

    def probability(byte: int, context: tuple[int, ...]) -> float:
        lower = probability(byte, context[1:]) if context else 1 / 256
        level = counts[len(context) + 1]
        after = {ngram[-1]: count for ngram, count in level.items() if ngram[:-1] == context}
        if not after:
            return lower
        freed = sum(discount(len(context) + 1, count) for count in after.values())
        kept = after[byte] - discount(len(context) + 1, after[byte]) if byte in after else 0
        return (kept + freed * lower) / sum(after.values())

    return probability, padded


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("documents", [SMALL, [TEXTS[0][:1500], TEXTS[1][:500]]], ids=["small", "real"])
def test_probabilities_are_those_of_the_definition(documents, order):
    model = ByteNGram.fit(documents, order)
    probability, padded = reference(documents, order)
    scored = [b"abacus", b"\xffb", TEXTS[2][:40]]
    bits = [-math.log2(probability(byte, padded(d)[i : i + order])) for d in scored for i, byte in enumerate(d)]
    assert model.bits_per_byte(scored) == pytest.approx(sum(bits) / len(bits), rel=1e-12)
    for context in (b"", b"a", b"abr", b"zz the"):
        expected = [probability(byte, padded(context)[len(context) :]) for byte in range(256)]
        np.testing.assert_allclose(model.distribution(context), expected, rtol=1e-12)


@pytest.mark.parametrize("order", range(MAX_ORDER + 1))
def test_probabilities_are_positive_and_sum_to_one(order):
    model = ByteNGram.fit(TEXTS, order)
    assert model.order == order
    choose = random.Random(order)
    seen = [TEXTS[0][:i] for i in (0, 1, 2, 5, 6, 7, 100, 1000)]
    for context in [*seen, *(choose.randbytes(choose.randrange(9)) for _ in range(30))]:
        distribution = model.distribution(context)
        assert distribution.shape == (256,) and distribution.min() > 0
        assert distribution.sum() == pytest.approx(1, abs=1e-12)


@given(st.lists(st.binary(max_size=12), min_size=1).filter(any), st.integers(0, MAX_ORDER), st.binary(max_size=8))
def test_probabilities_sum_to_one_on_any_text(documents, order, context):
    distribution = ByteNGram.fit(documents, order).distribution(context)
    assert distribution.min() > 0
    assert distribution.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("order", [0, 1, 3, 6])
def test_documents_are_scored_by_their_distributions(order):
    model = ByteNGram.fit(TEXTS, order)
    documents = [TEXTS[0][:50], b"unseen \x00\xff", b"x"]
    bits = [-math.log2(model.distribution(d[:i])[byte]) for d in documents for i, byte in enumerate(d)]
    assert model.bits_per_byte(iter(documents)) == pytest.approx(sum(bits) / len(bits), rel=1e-12)


def test_documents_do_not_see_each_other():
    model = ByteNGram.fit([b"ab" * 50, b"ba" * 50], order=2)
    one, other = b"ab" * 9, b"ba" * 9
    assert model.bits_per_byte([one, other]) == pytest.approx(model.bits_per_byte([other, one]), rel=1e-12)
    assert model.bits_per_byte([one + other]) > model.bits_per_byte([one, other])
    # Nothing is counted across the border either: after "ab" comes "a", whatever document is next.
    assert np.array_equal(model.distribution(b"xab"), ByteNGram.fit([b"ba" * 50, b"ab" * 50], 2).distribution(b"xab"))
    assert ByteNGram.fit([b"ab", b"cd"] * 50, 1).distribution(b"ab")[ord("c")] < 0.1


def test_a_longer_memory_helps_on_real_text():
    bits = [ByteNGram.fit(TEXTS[:4], order).bits_per_byte(TEXTS[4:]) for order in range(4)]
    assert uniform_bits_per_byte() == 8.0 > bits[0] > bits[1] > bits[2] > bits[3] > 1
    # Order 0 can't beat the entropy of the bytes that it predicts.
    counts = np.array(list(Counter(TEXTS[4]).values())) / len(TEXTS[4])
    assert bits[0] >= -(counts * np.log2(counts)).sum()


@pytest.mark.parametrize("order", [-1, MAX_ORDER + 1])
def test_impossible_orders(order):
    with pytest.raises(ValueError, match=f"^the order of an n-gram model must lie in 0 .. 6, got {order}$"):
        ByteNGram.fit([b"text"], order)


@pytest.mark.parametrize("documents", [[], [b"", b""]])
@pytest.mark.parametrize("order", [0, 3])
def test_no_bytes(documents, order):
    with pytest.raises(ValueError, match="^there are no bytes to fit an n-gram model to"):
        ByteNGram.fit(iter(documents), order)
    with pytest.raises(ValueError, match="^there are no bytes to score"):
        ByteNGram.fit([b"a"], order).bits_per_byte(iter(documents))
