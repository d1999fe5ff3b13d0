"""Stop strings and torn characters, wherever the pieces are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm import tokenizers
from jaxllm.inference.stopping import StopScanner, TextStream

# Two letters and short stop strings: nearly every text has false beginnings, overlaps and stops within stops.
texts = st.text("ab", max_size=12)
stops = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def cut(text, stops):
    """The slow twin: letter by letter, until the text ends in a stop string."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


@given(st.lists(texts, max_size=6), stops)
def test_pieces_give_what_the_whole_text_gives(pieces, stops):
    scanner, seen, shown = StopScanner(stops), "", ""
    for piece in pieces:
        shown += scanner.push(piece)
        seen += piece
        held = seen[len(shown) :]
        if not scanner.stopped:
            assert seen.startswith(shown)
            assert not held or any(stop.startswith(held) and stop != held for stop in stops), (
                "held back without a reason"
            )
    shown += scanner.flush()
    assert (shown, scanner.stopped) == cut(seen, stops)


def test_every_text_of_seven_letters_letter_by_letter():
    for stops in itertools.combinations(("b", "ab", "bb", "aab", "abab", "babb"), 2):
        for letters in itertools.product("ab", repeat=7):
            scanner = StopScanner(stops)
            shown = "".join(map(scanner.push, letters)) + scanner.flush()
            assert (shown, scanner.stopped) == cut("".join(letters), stops), (letters, stops)


def test_nothing_of_a_stop_string_is_shown_before_it_is_clear():
    scanner = StopScanner(["END"])
    assert [scanner.push(piece) for piece in ("so E", "N", "ough EN", "D and more", "E")] == [
        "so ",
        "",
        "ENough ",
        "",
        "",
    ]
    assert scanner.stopped
    assert scanner.flush() == ""


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="a stop string is empty"):
        StopScanner(["\n", ""])


@pytest.fixture(scope="module")
def byte_tokenizer():
    return tokenizers.train(tokenizers.TokenizerConfig(kind="byte"), [])


@given(st.binary(max_size=24))
def test_any_bytes_give_the_text_they_decode_to_and_no_half_character(byte_tokenizer, content):
    stream = TextStream(byte_tokenizer)
    pieces = [stream.push(byte) for byte in content] + [stream.flush()]
    assert "".join(pieces) == content.decode(errors="replace")


def test_a_stop_string_of_several_bytes_a_character(byte_tokenizer):
    stream = TextStream(byte_tokenizer, ["→é"])
    pieces = [stream.push(byte) for byte in "日→→é!".encode()]
    assert "".join(pieces) + stream.flush() == "日→"
    assert "�" not in "".join(pieces)
    assert stream.stopped
