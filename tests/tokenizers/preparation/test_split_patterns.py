import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.preparation.split_patterns import (
    KNOWN_PATTERNS,
    SPLIT_PATTERNS,
    SPLIT_SEQUENCES,
    TOTAL_PATTERNS,
    Splitter,
    splitter,
)
from tests.tokenizers.fuzz_texts import fuzz_texts

TEXT = "I'll pay  $1234 or '5'\n\n  He'Sit\tx… MyHTML/a//b!\n/ 漢字・x"
ALL = {name: (pattern,) for name, pattern in SPLIT_PATTERNS.items()} | SPLIT_SEQUENCES
DENSE = st.text(" \r\n\t'sSl1²éaaʰǅ…/・漢\u0301\u3000\x1c😀𝔸")


@pytest.mark.parametrize(
    "split, pieces",
    [
        ("gpt2", "I|'ll| pay| | $|1234| or| '|5|'|\n\n | He|'|Sit|\t|x|…| MyHTML|/|a|//|b|!|\n|/| 漢字|・|x"),
        ("cl100k", "I|'ll| pay| | $|123|4| or| '|5|'\n\n| | He|'S|it|\tx|…| MyHTML|/a|//|b|!\n|/| 漢字|・x"),
        ("qwen2", "I|'ll| pay| | $|1|2|3|4| or| '|5|'\n\n| | He|'S|it|\tx|…| MyHTML|/a|//|b|!\n|/| 漢字|・x"),
        ("o200k", "I'll| pay| | $|123|4| or| '|5|'\n\n| | He'S|it|\tx|…| My|HTML|/a|//|b|!\n/| 漢字|・x"),
        (
            "deepseek-llm",
            "I|'|ll| pay| | $|1|2|3|4| or| '|5|'|\n|\n| | He|'|Sit|\tx|…| MyHTML|/|a|//|b|!|\n|/| |漢字・|x",
        ),
        ("deepseek-v3", "I|'ll| pay| | $|123|4| or| '|5|'\n\n| | He|'Sit|\tx|…| MyHTML|/a|//|b|!\n|/| |漢字|・|x"),
    ],
)
def test_pieces(split, pieces):
    assert splitter(ALL[split])(TEXT) == pieces.split("|")


@pytest.mark.parametrize("name", ALL)
def test_pieces_are_those_of_the_tokenizers_library(name):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    pre = library.pre_tokenizers
    theirs = pre.Sequence([pre.Split(library.Regex(pattern), "isolated") for pattern in ALL[name]])
    ours = splitter(ALL[name])
    for text in fuzz_texts(2000):
        assert ours(text) == [piece for piece, _ in theirs.pre_tokenize_str(text)], text


@pytest.mark.parametrize("pattern", sorted(KNOWN_PATTERNS - set(SPLIT_SEQUENCES["deepseek-llm"])))
def test_the_translation_is_the_pattern(pattern):
    """The same pattern with a group around it is unknown, and goes to another library."""
    ours, theirs = splitter(pattern), splitter(f"(?:{pattern})")
    for text in [TEXT, *fuzz_texts(300, seed=3)]:
        # Both know of the same Unicode only up to a version, so letters assigned since are left out.
        text = "".join(c for c in text if c.isascii() or c.isspace() or c.isalnum())
        assert ours(text) == theirs(text), text


@given(
    st.text(alphabet=" \n\r\t\x0b\x1c\x85\u3000a1'.sé\u0301"),
    st.sampled_from(sorted(KNOWN_PATTERNS - set(SPLIT_SEQUENCES["deepseek-llm"]))),
)
def test_the_quicker_parts_match_the_same(text, pattern):
    assert splitter(pattern)(text) == splitter(f"(?:{pattern})")(text)


@given(st.text() | DENSE, st.sampled_from([*ALL.values(), (r"(a)|b*",), ("",)]))
def test_nothing_is_lost(text, patterns):
    cut = splitter(patterns)
    pieces = cut(text)
    assert "".join(pieces) == text
    assert all(pieces)
    assert [text[begin:end] for begin, end in cut.spans(text)] == pieces


@given(DENSE, st.sampled_from(sorted(TOTAL_PATTERNS)))
def test_characters_beyond_the_first_plane_count_as_their_like(text, pattern):
    """𝔸 is cut as A is, and 😀 as © is."""
    alike = text.replace("𝔸", "A").replace("😀", "©")
    assert list(map(len, splitter(pattern)(text))) == list(map(len, splitter(pattern)(alike)))


def test_lone_surrogates_are_neither_lost_nor_mixed_up():
    text = "a\ud801 \ud800😀b\udfff"
    assert "".join(splitter(SPLIT_PATTERNS["cl100k"])(text)) == text


def test_a_pattern_of_ones_own_cuts_at_its_matches():
    assert splitter(r"(\d)+")("ab12c3") == ["ab", "12", "c", "3"]


def test_copies_cut_alike():
    for patterns in ALL.values():
        cut = pickle.loads(pickle.dumps(Splitter(patterns)))
        assert cut.patterns == patterns and cut(TEXT) == splitter(patterns)(TEXT)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("part", [" ", "a", "A", "\n ", "'", "漢", "1", "é\u0301", "😀", "/"])
def test_long_runs_take_time_in_proportion(name, part):
    assert "".join(splitter(ALL[name])(part * 50_000)) == part * 50_000


def test_no_regular_expression():
    with pytest.raises(ValueError, match=r"^the split pattern '\(a' is not a regular expression: missing \)"):
        splitter("(a")
