"""The language model against the definitions, written out, and a filter that uses it."""

import math
from collections import defaultdict

import numpy as np
import pytest

from jaxllm.data.documents import Document
from jaxllm.data.quality.kneser_ney import KneserNey, load_kneser_ney, train_kneser_ney
from jaxllm.data.quality.model_file import ModelFileError, save_arrays
from jaxllm.data.quality.perplexity import Perplexity, perplexity_cutoff
from jaxllm.data.records import records

MARKS = ["<unk>", "<s>", "</s>"]


class Definition:
    """Interpolated modified Kneser-Ney as its equations say, with sets and loops: the slow twin."""

    def __init__(self, sentences, order, discounts=None):
        framed = [["<s>", *sentence, "</s>"] for sentence in sentences]
        self.order = order
        self.outcomes = sorted({word for sentence in framed for word in sentence} - {"<s>"}) + ["<unk>"]
        raw, before = defaultdict(int), defaultdict(set)
        for sentence in framed:
            for n in range(1, order + 1):
                for i in range(len(sentence) - n + 1):
                    ngram = tuple(sentence[i : i + n])
                    raw[ngram] += 1
                    if i:
                        before[ngram].add(sentence[i - 1])
        self.counts = {
            ngram: raw[ngram] if len(ngram) == order or ngram[0] == "<s>" else len(before[ngram])
            for ngram in raw
            if ngram != ("<s>",)
        }
        self.after = defaultdict(dict)
        for ngram, count in self.counts.items():
            self.after[ngram[:-1]][ngram[-1]] = count
        self.discounts = discounts
        self.times = {}

    def discount(self, n, count):
        if self.discounts:
            return self.discounts[min(count, 3) - 1]
        if n not in self.times:
            self.times[n] = [0] + [
                sum(c == k for ngram, c in self.counts.items() if len(ngram) == n) for k in (1, 2, 3, 4)
            ]
        t, k = self.times[n], min(count, 3)
        return k - (k + 1) * t[1] / (t[1] + 2 * t[2]) * t[k + 1] / t[k]

    def probability(self, context, word):
        context = tuple(context)[-(self.order - 1) :] if self.order > 1 else ()
        shorter = self.probability(context[1:], word) if context else 1 / len(self.outcomes)
        after = self.after.get(context)
        if not after:
            return shorter
        total, n = sum(after.values()), len(context) + 1
        seen = after.get(word, 0)
        kept = (seen - self.discount(n, seen)) / total if seen else 0
        return kept + sum(self.discount(n, c) for c in after.values()) / total * shorter


def random_sentences(seed, sentences=80, words=100):
    generator = np.random.default_rng(seed)
    weights = np.arange(1, words + 1) ** -1.3
    return [
        list(generator.choice([f"w{i}" for i in range(words)], generator.integers(1, 12), p=weights / weights.sum()))
        for _ in range(sentences)
    ]


def probabilities(model: KneserNey, context):
    """Of every word of the vocabulary after a context that begins a sequence with <s>."""
    ids = model.encode(context)
    scored, starts = model.score([[*ids, word] for word in range(len(model.vocabulary))])
    return np.exp(scored[starts + len(ids)])


@pytest.mark.parametrize("order, discounts", [(1, (0.5, 1, 1.5)), (2, None), (3, None), (4, (0.4, 0.9, 1.3))])
def test_every_probability_is_as_defined(order, discounts):
    sentences = random_sentences(order)
    definition = Definition(sentences, order, discounts)
    model = train_kneser_ney(map(" ".join, sentences), order=order, discounts=discounts, words_as="spaces", fold=False)
    contexts = [
        [],
        ["w0"],
        ["w0", "w1"],
        ["w3", "never", "w1"],
        *(s[: 1 + i % 4] for i, s in enumerate(sentences[:25])),
    ]
    for context in contexts:
        found = probabilities(model, context)
        for word, p in zip(model.vocabulary, found, strict=True):
            if word not in ("<s>", "</s>"):
                assert p == pytest.approx(definition.probability(["<s>", *context], word), rel=1e-5), (context, word)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_every_context_has_a_distribution(order):
    sentences = random_sentences(10 + order, sentences=200)
    model = train_kneser_ney(map(" ".join, sentences), order=order, discounts=(0.5, 1, 1.5), words_as="spaces")
    for context in [[], ["w0", "w1", "w0", "w0"], ["never"], *sentences[:15]]:
        found = probabilities(model, context)
        ends = model.score([model.encode(context)])[0][-1]
        found[1:3] = 0, np.exp(ends)  # <s> can't follow; the end is the last that is scored
        assert found.sum() == pytest.approx(1, abs=1e-5)


def test_perplexity_of_a_toy_corpus_by_hand():
    """Texts "a b", "a b", "a c", bigrams, discounts 0.5, 1, 1.5; what follows is the arithmetic on paper.

    Followers: <s>: a 3; a: b 2, c 1; b: </s> 2; c: </s> 1. Words by how many different ones they follow: a 1, b 1,
    c 1, </s> 2, in all 5; five outcomes with <unk>.
    """
    model = train_kneser_ney(["a b", "a b", "a c"], order=2, discounts=(0.5, 1, 1.5))
    left = (3 * 0.5 + 1) / 5
    p_a, p_b, p_end = 0.5 / 5 + left / 5, 0.5 / 5 + left / 5, 1 / 5 + left / 5
    a = 1.5 / 3 + 1.5 / 3 * p_a
    b = 1 / 3 + 1.5 / 3 * p_b
    end = 1 / 2 + 1 / 2 * p_end
    [found] = model.perplexities([["a", "b"]])
    assert found == pytest.approx((a * b * end) ** (-1 / 3), rel=1e-6)
    # An unknown word after a: what a leaves, of what all words leave; after it every context is new.
    [found] = model.perplexities([["a", "x"]])
    assert found == pytest.approx((a * (1.5 / 3 * left / 5) * p_end) ** (-1 / 3), rel=1e-6)


def test_uniform_words_have_the_perplexity_of_their_number():
    """A model of one word order, of words that are all equally frequent, is uniform over them and the end."""
    words = [f"w{i}" for i in range(50)]
    model = train_kneser_ney([" ".join(words)] * 3, order=1, discounts=(0, 0, 0), words_as="spaces", fold=False)
    [found] = model.perplexities([words[:20]])
    assert found == pytest.approx(51, rel=1e-5)


def test_texts_together_are_as_texts_alone():
    sentences = random_sentences(3)
    model = train_kneser_ney(map(" ".join, sentences), order=3, discounts=(0.5, 1, 1.5), words_as="spaces")
    texts = [*sentences[:20], [], ["w1"], ["x"] * 30]
    together = model.perplexities(texts)
    assert together.tolist() == pytest.approx([model.perplexities([text])[0] for text in texts], rel=1e-12)
    assert model.perplexities([]).shape == (0,)


def test_an_order_that_no_text_is_long_enough_for():
    long = train_kneser_ney(["a b", "a c"], order=9, discounts=(0.5, 1, 1.5))
    enough = train_kneser_ney(["a b", "a c"], order=4, discounts=(0.5, 1, 1.5))
    text = ["a", "b", "a", "c", "a", "b", "a", "c", "a", "b", "a", "c"]
    assert long.perplexities([text]).tolist() == enough.perplexities([text]).tolist()


def test_saved_and_loaded_is_the_same(tmp_path):
    model = train_kneser_ney(map(" ".join, random_sentences(4)), order=3, discounts=(0.5, 1, 1.5))
    model.save(tmp_path / "m.npz")
    again = load_kneser_ney(tmp_path / "m.npz")
    texts = random_sentences(5, sentences=10)
    assert again.perplexities(texts).tolist() == model.perplexities(texts).tolist()
    assert load_kneser_ney(tmp_path / "m.npz") is again
    assert [file.name for file in tmp_path.iterdir()] == ["m.npz"]
    train_kneser_ney(["a b"], order=1, discounts=(0.5, 1, 1.5)).save(tmp_path / "m.npz")
    assert load_kneser_ney(tmp_path / "m.npz").order == 1


def test_rare_words_become_unknown_and_letters_are_folded():
    model = train_kneser_ney(["The cat 12", "the dog 34"], order=1, min_count=2, discounts=(0.5, 1, 1.5))
    assert model.vocabulary == [*MARKS, "00", "the"]
    assert model.encode(["THE", "cat", "99"]) == [4, 0, 3]


def batch_of(*texts):
    [batch] = records([Document(str(i), text) for i, text in enumerate(texts)], "s")
    return batch


def test_filter_drops_what_is_surprising(tmp_path):
    sentences = [" ".join(s) for s in random_sentences(6, sentences=300)]
    path = str(tmp_path / "m.npz")
    train_kneser_ney(sentences, order=3, discounts=(0.5, 1, 1.5)).save(path)
    cutoff = perplexity_cutoff(path, sentences, 0.1)
    values = load_kneser_ney(path).perplexities([s.split() for s in sentences])
    assert 15 <= sum(values > cutoff) <= 30  # short texts are often equal, and none of them is above itself
    outcome = Perplexity(path, max_perplexity=cutoff, note="surprise")(batch_of("w0 w1 w0", "zz yy xx ww vv uu"))
    assert outcome.kept.column("id").to_pylist() == ["s/0"]
    assert outcome.dropped.column("reason").to_pylist() == [f"perplexity above {cutoff}"]
    assert '"surprise": ' in outcome.kept.column("metadata")[0].as_py()
    low = Perplexity(path, max_perplexity=math.inf, min_perplexity=1e9)(batch_of("w0"))
    assert low.dropped.column("reason").to_pylist() == ["perplexity below 1000000000.0"]


def test_what_can_go_wrong_is_said(tmp_path):
    with pytest.raises(ValueError, match="have no words"):
        train_kneser_ney(["", "  "])
    with pytest.raises(ValueError, match="too small to estimate discounts.*give it more text, or give discounts"):
        train_kneser_ney(["a b c"])
    with pytest.raises(ValueError, match="order must be at least 1"):
        train_kneser_ney(["a"], order=0)
    missing = str(tmp_path / "none.npz")
    with pytest.raises(ModelFileError, match="none.npz: there is no such file; train a Kneser-Ney model"):
        Perplexity(missing, 10.0)(batch_of("a"))
    other = tmp_path / "other.npz"
    save_arrays(other, "cake", {"x": np.zeros(1)})
    with pytest.raises(ModelFileError, match="expected a Kneser-Ney model, found a cake"):
        load_kneser_ney(other)
    other.write_bytes(other.read_bytes()[:100])
    with pytest.raises(ModelFileError, match="damaged"):
        load_kneser_ney(other)
    train_kneser_ney(["a b"], order=1, discounts=(0.5, 1, 1.5)).save(other)
    for drop in (0, 1, 1.5):
        with pytest.raises(ValueError, match="drop must be between 0 and 1"):
            perplexity_cutoff(other, ["a"], drop)
    with pytest.raises(ValueError, match="no texts"):
        perplexity_cutoff(other, [], 0.5)
