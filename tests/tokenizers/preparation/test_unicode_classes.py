import sys
import unicodedata

import pytest
import regex

from jaxllm.tokenizers.preparation.unicode_classes import WHITE_SPACE, class_of, ranges_of

CLASSES = ["L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "P", "S"]
ALL = "".join(chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000)


def characters(ranges) -> set[str]:
    return {chr(i) for first, last in ranges for i in range(first, last + 1)}


@pytest.mark.parametrize("name", "LMNPS")
def test_classes_are_those_of_the_tokenizers_library(name):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    split = library.pre_tokenizers.Split(library.Regex(rf"\p{{{name}}}"), "removed", invert=True)
    assert {piece for piece, _ in split.pre_tokenize_str(ALL)} == characters(ranges_of(name))


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_those_of_tiktoken(name):
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed (make parity)")
    bytes_only = {bytes([byte]): byte for byte in range(256)}
    library = tiktoken.Encoding("", pat_str=rf"\p{{{name}}}", mergeable_ranks=bytes_only, special_tokens={})
    # It drops what doesn't match.
    assert set(library.decode(library.encode_ordinary(ALL))) == characters(ranges_of(name))


def test_white_space_is_unicodes():
    assert set(regex.findall(r"\s", ALL)) == characters(WHITE_SPACE)


def test_classes_agree_with_pythons_where_both_know_a_character():
    for i in range(0, sys.maxunicode, 7):
        category, found = unicodedata.category(chr(i)), class_of(chr(i))
        # U+0295 and a few like it moved from one class of letters to another.
        if category[0] in "LMNPS":
            assert found.upper() == category[0] or (found in "ultmo" and category[0] == "L")


def test_ranges_are_ordered_and_do_not_touch():
    for name in CLASSES:
        ranges = ranges_of(name)
        assert all(first <= last for first, last in ranges)
        assert all(a[1] + 1 < b[0] for a, b in zip(ranges, ranges[1:], strict=False))


def test_an_unknown_class():
    with pytest.raises(ValueError, match=r"^the character class \\p\{Greek\} is not known here; known are L, Lu"):
        ranges_of("Greek")
