import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.preparation.cuts import (
    Behavior,
    BertPreTokenizer,
    ByteLevel,
    CharDelimiterSplit,
    Digits,
    FixedLength,
    PrefixSpace,
    Punctuation,
    Split,
    Whitespace,
    WhitespaceSplit,
)
from jaxllm.tokenizers.preparation.patterns import Regex, String
from jaxllm.tokenizers.preparation.split_patterns import KNOWN_PATTERNS
from tests.tokenizers.awkward_texts import awkward_texts

BEHAVIORS = get_args(Behavior)
PATTERNS = [
    *map(String, (" ", "a", "")),
    *map(Regex, (r"\s+", r"\s", "a*", "|a", "(?=b)", "$", r"(?<=a)|b", "(a)|(b)", r"\p{N}{1,3}")),
]
CUTS = [
    *(Split(pattern, behavior, invert) for pattern in PATTERNS for behavior in BEHAVIORS for invert in (False, True)),
    *(Split(Regex(known), behavior) for known in sorted(KNOWN_PATTERNS) for behavior in ("Isolated", "Removed")),
    *map(Punctuation, BEHAVIORS),
    *(Whitespace(), WhitespaceSplit(), BertPreTokenizer(), Digits(True), Digits(False), CharDelimiterSplit("a")),
    FixedLength(3),
]


def snake(behavior: str) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", behavior).lower()


def theirs(library, cut):
    pre = library.pre_tokenizers
    match cut:
        case Split(String(text), behavior, invert):
            return pre.Split(text, snake(behavior), invert)
        case Split(Regex(source), behavior, invert):
            return pre.Split(library.Regex(source), snake(behavior), invert)
        case Punctuation(behavior):
            return pre.Punctuation(snake(behavior))
    return getattr(pre, type(cut).__name__)(*vars(cut).values())


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_pieces_and_offsets_are_those_of_the_tokenizers_library(cut):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    other = theirs(library, cut)
    for text in awkward_texts(160, longest=16):
        expected = other.pre_tokenize_str(text)
        assert cut(text) == [piece for piece, _ in expected], ascii(text)
        assert cut.spans(text) == [span for _, span in expected], ascii(text)


@given(st.text("ab 1,\n"), st.sampled_from(CUTS))
def test_pieces_lie_where_their_spans_say_and_none_is_empty(text, cut):
    spans = cut.spans(text)
    assert cut(text) == [text[begin:end] for begin, end in spans]
    assert all(begin < end for begin, end in spans)
    assert all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))


@given(st.text("ab 1,\n"), st.sampled_from([cut for cut in CUTS if getattr(cut, "behavior", "Removed") != "Removed"]))
def test_nothing_is_lost_unless_matches_are_removed(text, cut):
    assert "".join(cut(text)) == text


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("use_regex", [False, True])
def test_byte_level_steps_are_those_of_the_tokenizers_library(prefix, use_regex):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    other = library.pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)
    decoder = library.decoders.ByteLevel()
    for text in awkward_texts(300):
        pieces = [text]
        for step in ByteLevel(prefix, use_regex=use_regex).steps:
            pieces = [step(pieces[0])] if isinstance(step, PrefixSpace) else step(pieces[0])
        expected = [decoder.decode([piece]) for piece, _ in other.pre_tokenize_str(text)]
        assert [piece for piece in pieces if piece] == expected, ascii(text)


def test_a_prefix_space_belongs_to_no_character():
    assert PrefixSpace().aligned("ab") == (" ab", [(0, 0), (0, 1), (1, 2)])
    assert PrefixSpace().aligned(" ab") == (" ab", [(0, 1), (1, 2), (2, 3)])
    assert PrefixSpace().aligned("") == ("", [])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Split(String(" "), "removed"), "the behavior of a split must be one of Removed, .* got 'removed'"),
        (lambda: Punctuation("Merged"), "the behavior of a split must be one of Removed, .* got 'Merged'"),
        (lambda: CharDelimiterSplit("ab"), "the delimiter must be one character, got 'ab'"),
        (lambda: FixedLength(0), "the length of a piece must be at least 1, got 0"),
    ],
)
def test_settings_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
