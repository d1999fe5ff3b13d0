import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.split_patterns import SPLIT_PATTERNS, splitter

TEXT = "I'll pay  $1234 or '5'\n\n  He'Sit\tx…"


@pytest.mark.parametrize(
    "split, pieces",
    [
        ("gpt2", "I|'ll| pay| | $|1234| or| '|5|'|\n\n | He|'|Sit|\t|x|…"),
        ("cl100k", "I|'ll| pay| | $|123|4| or| '|5|'\n\n| | He|'S|it|\tx|…"),
    ],
)
def test_pieces(split, pieces):
    assert splitter(SPLIT_PATTERNS[split])(TEXT) == pieces.split("|")


@given(st.text() | st.text(" \r\n\t'sSl1²éaa…\u3000\x1c"), st.sampled_from([*SPLIT_PATTERNS.values(), r"(a)|b*", ""]))
def test_nothing_is_lost(text, pattern):
    pieces = splitter(pattern)(text)
    assert "".join(pieces) == text
    assert all(pieces)


def test_a_pattern_of_ones_own_cuts_at_its_matches():
    assert splitter(r"(\d)+")("ab12c3") == ["ab", "12", "c", "3"]
    # The quick way for the known patterns is this way, which spelling one differently asks for.
    for pattern in SPLIT_PATTERNS.values():
        assert splitter(f"(?:{pattern})")(TEXT) == splitter(pattern)(TEXT)


def test_no_regular_expression():
    with pytest.raises(ValueError, match=r"^the split pattern '\(a' is not a regular expression: missing \)"):
        splitter("(a")
