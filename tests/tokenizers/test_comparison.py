import pytest

from jaxllm.tokenizers import load
from jaxllm.tokenizers.comparison import NUMBERS, WHITESPACE_RUNS, compare, plot, vocabulary_cost


class Pairs:
    """Two characters a token, but a digit or white space alone; the vocabulary is whatever has been seen."""

    vocab_size = 1000

    def __init__(self, numbers: int = 1):
        self._numbers = numbers
        self._seen: list[str] = []

    def encode_batch(self, texts, processes=1):
        return [self._encode(text) for text in texts]

    def _encode(self, text):
        size = self._numbers if text.isdigit() else 2
        parts = [text[i : i + size] for i in range(0, len(text), size)]
        self._seen += [part for part in dict.fromkeys(parts) if part not in self._seen]
        return [self._seen.index(part) for part in parts]

    def token_bytes(self, token):
        return self._seen[token].encode()


def test_figures_of_a_text():
    row = compare({"pairs": Pairs()}, {"text": "né né xy"}).row("pairs", "text")
    assert (row.bytes, row.characters, row.words, row.tokens, row.distinct) == (10, 8, 3, 4, 4)
    assert row.bytes_per_token == 2.5
    assert row.compression == 0.4
    assert row.tokens_per_character == 0.5
    assert row.fertility == pytest.approx(4 / 3)


def test_several_texts_are_counted_together():
    whole = compare({"pairs": Pairs()}, {"text": ["abcd", "ab", ""]}).row("pairs", "text")
    assert (whole.bytes, whole.words, whole.tokens, whole.distinct) == (6, 2, 3, 2)


def test_tokenizers_and_samples_keep_their_order():
    compared = compare({"b": Pairs(), "a": Pairs()}, {"z": "x", "y": "xyzw"})
    assert compared.names() == ["b", "a"]
    assert compared.sample_names() == ["z", "y"]
    assert [(row.tokenizer, row.sample) for row in compared.samples] == [("b", "z"), ("b", "y"), ("a", "z"), ("a", "y")]
    assert compared.premium("a", "y", "z") == 2
    with pytest.raises(ValueError, match=r"there is no 'a' on 'x'; choose from \['b', 'a'\] on \['z', 'y'\]"):
        compared.row("a", "x")


def test_numbers_and_white_space():
    assert (len(NUMBERS), NUMBERS[0], NUMBERS[-1], len(WHITESPACE_RUNS)) == (10_000, "0", "9999", 48)
    rows = compare({str(n): Pairs(n) for n in (1, 2, 3, 4)}, {"text": "a"}).vocabularies
    assert [row.single_token_numbers for row in rows] == [0.001, 0.01, 0.1, 1.0]
    assert {row.single_token_whitespace for row in rows} == {6 / 48}


def test_an_unknown_token_is_no_number():
    class Unknown(Pairs):
        def encode_batch(self, texts, processes=1):
            return [[0] for _ in texts]

        def token_bytes(self, token):
            return b"?"

    assert compare({"u": Unknown()}, {"text": "a"}).vocabularies[0].single_token_numbers == 0


def test_real_vocabularies(shared):
    """cl100k has all numbers of up to three digits as tokens, and none longer; GPT-2 has the 907 most frequent."""
    tokenizers = {
        "gpt2": load(shared("tokenizers/gpt2")),
        "cl100k": load(shared("tokenizers/tiktoken/cl100k_base.tiktoken")),
    }
    compared = compare(tokenizers, {"code": "    def f(x):\n        return x\n" * 20})
    vocabularies = {row.tokenizer: row for row in compared.vocabularies}
    assert (vocabularies["gpt2"].single_token_numbers, vocabularies["cl100k"].single_token_numbers) == (0.0907, 0.1)
    for name, tokenizer in tokenizers.items():
        single = [n for n in NUMBERS if len(tokenizer.encode(n)) == 1]
        assert vocabularies[name].single_token_numbers == len(single) / 10_000
    assert vocabularies["cl100k"].single_token_whitespace > vocabularies["gpt2"].single_token_whitespace
    assert compared.row("cl100k", "code").tokens < compared.row("gpt2", "code").tokens


@pytest.mark.parametrize("tokenizers, samples", [({}, {"text": "a"}), ({"a": Pairs()}, {})])
def test_nothing_to_compare(tokenizers, samples):
    with pytest.raises(ValueError, match="at least one tokenizer and one sample"):
        compare(tokenizers, samples)


@pytest.mark.parametrize("sample", ["", " \n", [], ["", " "]])
def test_a_sample_without_words(sample):
    with pytest.raises(ValueError, match="the sample 'text' has no words"):
        compare({"a": Pairs()}, {"text": sample})


def test_the_cost_of_a_vocabulary():
    """The published sizes of Llama 2 and 3: 32,000 and 128,000 rows of 4,096."""
    settings = {"width": 4096, "body_parameters": 6_476_271_616, "text_bytes": 4e9}
    small = vocabulary_cost(32_000, 4.0, tied=True, **settings)
    large = vocabulary_cost(128_000, 5.0, tied=False, **settings)
    assert (small.embedding_parameters, large.embedding_parameters) == (131_072_000, 2 * 524_288_000)
    assert (small.tokens, large.tokens) == (1e9, 8e8)
    assert small.embedding_share == pytest.approx(131_072_000 / 6_607_343_616)
    assert small.training_flops == pytest.approx(6 * 1e9 * 6_607_343_616)
    assert large.training_flops == pytest.approx(6 * 8e8 * 7_000_559_616)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vocab_size": 0}, "vocab_size must be more than 0, got 0"),
        ({"width": -1}, "width must be more than 0, got -1"),
        ({"bytes_per_token": 0.0}, "bytes_per_token must be more than 0"),
        ({"body_parameters": -1}, "can't be negative"),
    ],
)
def test_costs_that_can_not_be(change, message):
    settings = {
        "vocab_size": 9,
        "bytes_per_token": 3.0,
        "width": 8,
        "body_parameters": 9,
        "tied": True,
        "text_bytes": 9,
    }
    with pytest.raises(ValueError, match=message):
        vocabulary_cost(**(settings | change))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_plot(tmp_path, suffix):
    compared = compare({"one": Pairs(), "two": Pairs(3)}, {"a text": "some words", "numbers": "1 2 3"})
    drawn = plot(compared, tmp_path / f"bars{suffix}")
    assert drawn == tmp_path / f"bars{suffix}"
    assert [path.name for path in tmp_path.iterdir()] == [f"bars{suffix}"]
    begin = drawn.read_bytes()[:200]
    assert begin.startswith(b"\x89PNG") if suffix == ".png" else b"<?xml" in begin


def test_plots_that_can_not_be_written(tmp_path):
    compared = compare({"one": Pairs()}, {"text": "a"})
    with pytest.raises(ValueError, match="its name must end in .png, .svg, .pdf"):
        plot(compared, tmp_path / "bars.txt")
    with pytest.raises(ValueError, match="can't write .*bars.png: No such file or directory"):
        plot(compared, tmp_path / "missing" / "bars.png")
    assert list(tmp_path.iterdir()) == []
