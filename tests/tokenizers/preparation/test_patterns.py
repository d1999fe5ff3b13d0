import re
import time

import pytest

from jaxllm.tokenizers.preparation import patterns
from jaxllm.tokenizers.preparation.patterns import LARGEST, LONGEST, Regex, String, translate
from jaxllm.tokenizers.preparation.split_patterns import KNOWN_PATTERNS
from tests.tokenizers.awkward_texts import awkward_texts

SOURCES = [
    *(r"\s+", r"\s", "a*", "|a", "(?=b)", "$", "^", r"(?<=a)|b", r"a\Z", r"a\z", r"\A.", "(?m:a.)", "(?i:b)c?"),
    *(r"\p{N}{1,3}+", r"a{0,2}+", r"\p{N}{1,3}", r"\h+", r"\H+", r"[\h,]+", "[!--]", "[a||b]", "[b~~]", "[a-z&&[^b]]+"),
    *(
        r"\x{61}+",
        r"(a)|(b)",
        r"\p{Lu}\p{Ll}*",
        r"[[:punct:]]+",
        r"[[:^punct:]]+",
        "[[:alnum:]]+",
        "[[:digit:],]+",
        r"\w+",
        r"[\w,]+",
        r"\W+",
        r"[\W,]+",
        "[[:word:]]+",
        r"\b",
        r"\B",
        r"[\H]+",
        r"[^\h]",
        "[]a]",
        r"x(?#c)|(?x: a b )",
        r"[^\s\p{L}]++",
    ),
    *sorted(KNOWN_PATTERNS),
]


@pytest.mark.parametrize("source", SOURCES)
def test_matches_are_those_of_oniguruma(source):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    split = library.pre_tokenizers.Split(library.Regex(source), "isolated")
    replace = library.normalizers.Replace(library.Regex(source), "<\\1>")
    found = Regex(source)
    for text in awkward_texts(400, longest=16):
        expected = [span for _, span in split.pre_tokenize_str(text)]
        cuts = sorted({0, len(text), *(place for span in found.find(text) for place in span)})
        assert [(a, b) for a, b in zip(cuts, cuts[1:], strict=False)] == expected, text
        assert found.replace(text, "<\\1>") == replace.normalize_str(text), text


@pytest.mark.parametrize("text", ["a", "aa", "ab", " "])
def test_a_string_is_found_as_the_library_finds_it(text):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    replace = library.normalizers.Replace(text, "$1")
    for other in ["", "a", "aaa", "xaab", " a b ", "b"]:
        assert String(text).replace(other, "$1") == replace.normalize_str(other)
        assert [other[begin:end] for begin, end in String(text).find(other)] == [text] * other.count(text)


def test_the_empty_string_is_found_everywhere():
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    assert String("").replace("ab", "-") == library.normalizers.Replace("", "-").normalize_str("ab") == "-a-b-"
    assert String("").find("ab") == [(0, 0), (1, 1), (2, 2)]
    assert String("").replace("", "-") == library.normalizers.Replace("", "-").normalize_str("") == ""


def test_cover_gives_the_matches_only_where_they_are_the_whole_text():
    assert Regex(r"\w+|\W").cover("ab, c") == ["ab", ",", " ", "c"]
    assert Regex(r"\w+").cover("ab, c") is None
    assert Regex(r"\w*").cover("ab") is None  # the empty match at the end
    assert Regex(r"(\w)+|\W").cover("ab") is None  # of a group, only the last match would be seen
    assert Regex(r"\w").cover("") == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("(", "'(' is not a regular expression: missing )"),
        ("[a", "is not a regular expression"),
        ("(?s:.)", "the options '(?s:' of a regular expression are not supported; there are i"),
        (r"a{2}+", "the repeat '{2}+' of a regular expression is not supported; put (?:...)+ around it"),
        (r"\x{110000}", r"\x{110000} in a regular expression is no character"),
        ("(" * 5000 + ")" * 5000, "is nested too deeply"),
        ("a" * (LONGEST + 1), f"a regular expression of {LONGEST + 1:,} characters is too long; the limit is"),
        ("(?:(?:(?:a{1000}){1000}){1000}){1000}", f"more than {LARGEST:,} characters"),
        ("(?:[ab]|c{50}){3000}", f"more than {LARGEST:,} characters"),
    ],
)
def test_expressions_that_are_refused(source, message):
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=re.escape(message)):
        Regex(source)
    assert time.perf_counter() - begin < 5


def test_the_size_counts_what_repeats_write_out():
    Regex("(?:ab){100}c{0,1000}[^xyz]{1,}")
    assert translate("(?:(?:ab){10}|c){10}") == "(?:(?:ab){10}|c){10}"


@pytest.mark.parametrize("use", [Regex.find, Regex.cover, lambda regex, text: regex.replace(text, "")])
def test_an_expression_that_tries_too_many_ways_is_stopped(use, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.2)
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=r"aa\)\+\$' was stopped after .* on a text of 61 characters"):
        # Without a group, cover() has no reason to leave it to find().
        use(Regex("(?:a|aa)+$" if use is Regex.cover else "(a|aa)+$"), "a" * 60 + "b")
    assert time.perf_counter() - begin < 5
