from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxllm.tokenizers import piece_cache
from jaxllm.tokenizers.piece_cache import PieceCache


class Letters:
    """A vocabulary of code points that counts what it is asked."""

    def __init__(self):
        self.asked = []

    def encode_piece(self, piece):
        self.asked.append(piece)
        if "?" in piece:
            raise ValueError("no question marks")
        return tuple(map(ord, piece))


TEXTS = [["ab", "c", "ab"], [], ["c", "de"]]
IDS = [[97, 98, 99, 97, 98], [], [99, 100, 101]]


def test_each_piece_is_encoded_once():
    vocabulary = Letters()
    cache = PieceCache(vocabulary)
    assert cache["ab"] == (97, 98)
    assert cache.ids_of_texts(TEXTS) == cache.ids_of_texts(map(iter, TEXTS)) == IDS
    assert vocabulary.asked == ["ab", "c", "de"]


def test_an_error_leaves_nothing_behind():
    cache = PieceCache(Letters())
    for _ in range(2):
        with pytest.raises(ValueError, match="^no question marks$"):
            cache.ids_of_texts([["a", "?"]])
    assert cache["a"] == (97,)
    with pytest.raises(ZeroDivisionError):
        cache.ids_of_texts(["b"] if x else 1 / x for x in (1, 0))
    assert cache["b"] == (98,)


def test_it_stays_small(monkeypatch):
    monkeypatch.setattr(piece_cache, "_MOST", 10)
    cache = PieceCache(Letters())
    pieces = [chr(97 + i) * (1 + i % 3) for i in range(26)]
    for piece in pieces:
        assert cache.ids_of_texts([[piece, "x", piece]]) == [[*map(ord, piece), 120, *map(ord, piece)]]
        assert len(cache) <= 10
    assert cache["y" * 64] and cache["z" * 65]
    assert "y" * 64 in cache and "z" * 65 not in cache


def test_threads_do_not_disturb_each_other():
    """While one thread has pieces waiting, another that asks for the same gets their ids."""
    cache = PieceCache(Letters())
    with ThreadPoolExecutor(1) as other:

        def pieces():
            yield "ab"
            assert other.submit(cache.__getitem__, "ab").result() == (97, 98)
            assert other.submit(cache.ids_of_texts, TEXTS).result() == IDS
            yield "cd"

        assert cache.ids_of_texts([pieces()]) == [[97, 98, 99, 100]]
