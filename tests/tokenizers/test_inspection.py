import numpy as np
import pytest

from jaxllm.tokenizers import PipelineTokenizer, load, train_byte_bpe
from jaxllm.tokenizers.inspection import merge_trace, reachability, token_use, undertrained_tokens
from jaxllm.tokenizers.preparation.cuts import WhitespaceSplit
from jaxllm.tokenizers.vocabularies.wordpiece import WordPiece


class Letters:
    """A tokenizer of a few words, as far as these functions look at one: ids 0.. are the words, the last is special."""

    def __init__(self, *words: bytes, never: tuple[bytes, ...] = ()):
        self.words, self.never = words, never
        self.vocab_size = len(words) + 1
        self.special_tokens = {"<end>": len(words)}

    def token_bytes(self, token):
        return (*self.words, b"")[token]

    def encode(self, text):
        data, ids, place = text.encode(), [], 0
        while place < len(data):
            known = [w for w in self.words if data.startswith(w, place) and w not in self.never]
            if not known:
                raise ValueError(f"{data!r} can't be expressed")
            best = max(known, key=len)
            ids.append(self.words.index(best))
            place += len(best)
        return ids


# The trace


def test_the_trace_of_the_classic_example():
    """Of lower x5, lowest x2 and newest x6 the first merge is (w, e), with 13 occurrences."""
    tokenizer = train_byte_bpe([" lower" * 5 + " lowest" * 2 + " newest" * 6], 256 + 6)
    (piece,) = merge_trace(tokenizer, "lower")
    assert piece.symbols == tuple("lower")
    assert (piece.steps[0].rank, piece.steps[0].left, piece.steps[0].right) == (0, "w", "e")
    assert piece.steps[0].tokens == ("l", "o", "we", "r")
    assert [step.rank for step in piece.steps] == sorted(step.rank for step in piece.steps)


def test_a_trace_ends_with_the_tokens_of_the_text(tokenizer, texts):
    text = texts[1][:3000] + " 日本語 é 👍🏽"
    traces = merge_trace(tokenizer, text)
    assert [token for trace in traces for token in trace.tokens] == [
        tokenizer.token_text(i) for i in tokenizer.encode(text)
    ]
    assert sum(len(trace.steps) for trace in traces) > 100
    assert not any(trace.whole for trace in traces)


def test_the_trace_of_a_vocabulary_by_ranks(shared):
    tokenizer = load(shared("tokenizers/tiktoken/r50k_base.tiktoken"))
    text = "unhappiness naïve"
    traces = merge_trace(tokenizer, text)
    assert [token for trace in traces for token in trace.tokens] == [
        tokenizer.token_text(i) for i in tokenizer.encode(text)
    ]
    (whole,) = merge_trace(tokenizer, " the")
    assert (whole.whole, whole.tokens, whole.steps) == (True, ("Ġthe",), ())


def test_vocabularies_without_merges():
    words = PipelineTokenizer(WordPiece({"[UNK]": 0, "a": 1}), decoder=_words())
    with pytest.raises(ValueError, match="a WordPiece vocabulary has no merges"):
        merge_trace(words, "a")


# Use


def test_counts_of_a_corpus():
    tokenizer = Letters(b"a", b"b", b"ab", b"c")
    use = token_use(tokenizer, ["abab", "a", "", "aab"])
    assert use.counts.tolist() == [2, 0, 3, 0, 0]
    assert (use.tokens, use.used, use.unused.tolist()) == (5, 2, [1, 3])
    assert use.most_common(9) == [(2, 3), (0, 2)]


def test_special_tokens_are_not_called_unused(tokenizer, texts):
    use = token_use(tokenizer, texts)
    assert use.tokens == sum(len(tokenizer.encode(text)) for text in texts)
    assert use.used + len(use.unused) == tokenizer.vocab_size - len(tokenizer.special_tokens)
    assert not set(use.unused) & set(tokenizer.special_tokens.values())


def test_an_empty_corpus(tokenizer):
    for corpus in ([], ["", ""]):
        with pytest.raises(ValueError, match="the corpus has no text"):
            token_use(tokenizer, corpus)


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.3])
def test_the_exponent_of_an_exact_power_law(exponent):
    words = [bytes([i]) for i in range(60, 110)]
    counts = [round(2e4 * rank**-exponent) for rank in range(1, 51)]
    use = token_use(Letters(*words), [word.decode() * count for word, count in zip(words, counts, strict=True)])
    found, fit = use.zipf()
    assert found == pytest.approx(exponent, abs=2e-3)
    assert fit == pytest.approx(1, abs=1e-4)


def test_too_little_text_for_a_law():
    with pytest.raises(ValueError, match="too small for Zipf's law"):
        token_use(Letters(b"a", b"b"), ["aaaabbb"]).zipf()


# Reachability


def test_each_kind_of_token():
    tokenizer = Letters(b"a", b"b", b"ab", b"\xe6", b"ba", never=(b"ba",))
    found = reachability(tokenizer)
    assert found.reachable == (0, 1, 2)
    assert found.partial == (3,)
    assert found.unreachable == (4,)


@pytest.mark.parametrize("cuts", [[], [WhitespaceSplit()]])
def test_a_token_that_needs_something_before_it(cuts):
    """WordPiece's ##s is made only inside of a word; [UNK] is what its own text becomes too."""
    tokenizer = PipelineTokenizer(
        WordPiece({"[UNK]": 0, "a": 1, "##s": 2, "s": 3, "##q": 4, "##sq": 5}),
        pre_tokenizer=cuts,
        decoder=_words(),
    )
    assert reachability(tokenizer).reachable == (0, 1, 2, 3, 4, 5)


def test_all_tokens_of_a_trained_vocabulary_can_be_reached(tokenizer):
    found = reachability(tokenizer)
    assert found.unreachable == ()
    assert len(found.reachable) + len(found.partial) == tokenizer.vocab_size - len(tokenizer.special_tokens)


def test_a_real_vocabulary_has_none(shared):
    """GPT-2 has 344 tokens of incomplete characters, among them bytes that are no UTF-8 at all."""
    tokenizer = load(shared("tokenizers/gpt2"))
    found = reachability(tokenizer)
    assert {tokenizer.vocabulary.vocabulary[bytes([byte])] for byte in (0xC0, 0xF5, 0xFF)} <= set(found.partial)
    assert (len(found.reachable), len(found.partial), found.unreachable) == (49_912, 344, ())


def _words():
    from jaxllm.tokenizers import decoders

    return decoders.Decoder([decoders.WordPiece()])


# Embeddings


def embeddings(rows: int, width: int, untrained: list[int], seed: int = 0):
    """Trained rows point everywhere, untrained ones nearly all to one side; all share a large constant part."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, width))
    side = rng.normal(size=width)
    matrix[untrained] = side + 0.05 * rng.normal(size=(len(untrained), width))
    return matrix + 20 * np.ones(width) / np.sqrt(width)


def test_planted_tokens_are_found_by_their_likeness_to_untrained_rows():
    rows = 500
    tokenizer = Letters(*(f"w{i}".encode() for i in range(rows - 1)))
    planted = [7, 77, 177, rows - 2]
    matrix = embeddings(rows, 32, [*planted, 3, 4])
    found = undertrained_tokens(tokenizer, matrix, never_trained=[3, 4], share=4 / (rows - 3))
    assert sorted(found.ids) == planted
    assert found.kind == "cosine distance to untrained rows"
    assert np.all(np.diff(found.indicator) >= 0)
    assert found.indicator.max() < 0.2


def test_the_indicator_equals_its_definition():
    matrix = np.random.default_rng(1).normal(size=(40, 6)) + 1
    found = undertrained_tokens(Letters(*(f"w{i}".encode() for i in range(39))), matrix, never_trained=[5, 6], share=1)
    common = np.linalg.svd(matrix)[2][0]
    own = np.array([row - (row @ common) * common for row in matrix])
    mean = (own[5] + own[6]) / 2
    expected = {i: 1 - row @ mean / np.linalg.norm(row) / np.linalg.norm(mean) for i, row in enumerate(own)}
    assert sorted(found.ids) == sorted(set(range(39)) - {5, 6})
    assert found.indicator == pytest.approx([expected[i] for i in found.ids])


def test_padding_rows_serve_as_untrained_ones():
    tokenizer = Letters(*(f"w{i}".encode() for i in range(499)))
    matrix = embeddings(512, 32, [9, 90, *range(500, 512)])
    assert sorted(undertrained_tokens(tokenizer, matrix, share=2 / 499).ids) == [9, 90]


def test_the_output_rows_count_where_there_are_some():
    tokenizer = Letters(*(f"w{i}".encode() for i in range(499)))
    found = undertrained_tokens(
        tokenizer, embeddings(500, 32, [1, 2]), embeddings(500, 32, [8, 3]), never_trained=[3], share=1 / 498
    )
    assert found.ids.tolist() == [8]


def test_short_rows_without_a_reference():
    tokenizer = Letters(*(f"w{i}".encode() for i in range(99)))
    matrix = np.ones((100, 4))
    matrix[[5, 50]] = [[0.1] * 4, [0.2] * 4]
    found = undertrained_tokens(tokenizer, matrix)
    assert (found.ids.tolist(), found.kind) == ([5, 50], "norm")
    assert found.indicator == pytest.approx([0.2, 0.4])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"embeddings": np.ones((2, 4))}, r"a row for each of 4 ids, got the shapes \(2, 4\) and \(2, 4\)"),
        ({"embeddings": np.ones(8)}, "must have a row for each"),
        ({"unembeddings": np.ones((3, 4))}, r"got the shapes \(4, 4\) and \(3, 4\)"),
        ({"share": 0}, "share must be more than 0 and at most 1, got 0"),
        ({"never_trained": [9]}, "never_trained names the id 9; the embeddings have the rows 0 .. 3"),
    ],
)
def test_what_can_not_be_looked_at(settings, message):
    with pytest.raises(ValueError, match=message):
        undertrained_tokens(Letters(b"a", b"b", b"c"), **({"embeddings": np.eye(4)} | settings))
