from collections import Counter

import pytest

from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS, splitter
from jaxllm.tokenizers.training import counting
from jaxllm.tokenizers.training.counting import count_pieces


def test_counts_are_those_of_the_pieces(texts):
    cut = splitter(SPLIT_PATTERNS["cl100k"])
    assert count_pieces(iter(texts), cut) == Counter(piece for text in texts for piece in cut(text))


def test_processes_and_order_change_nothing(texts, monkeypatch):
    cut = splitter(SPLIT_PATTERNS["o200k"])
    monkeypatch.setattr(counting, "_BATCH_CHARACTERS", 10_000)
    assert count_pieces(texts[::-1], cut, processes=2) == count_pieces(texts, cut) != {}


def test_texts_are_read_one_at_a_time():
    alive = []

    def read():
        for i in range(5):
            alive.append(i)
            yield f"text {i}"

    def cut(text: str) -> list[str]:
        assert text == f"text {alive[-1]}"
        return text.split()

    assert count_pieces(read(), cut)["text"] == 5


def test_no_text_and_no_processes():
    assert count_pieces([], str.split) == {}
    with pytest.raises(ValueError, match="^processes must be at least 1, got 0$"):
        count_pieces(["a"], str.split, processes=0)
