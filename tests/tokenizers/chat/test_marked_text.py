"""Every character of a result is one of those that went in, with its own mark, or has the marks of all."""

import pickle
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.chat.marked_text import MarkedText, join, mark_of, marks_of, spread

# Each character tells which mark it has, so that results can be looked at one by one: 0 to 3 from left to right.
ALPHABET = {"a": 0, "B": 1, " ": 2, "\n": 3, "c": 2, "-": 1}
texts = st.text("".join(ALPHABET), max_size=12)

PRECISE = {
    "strip": lambda s: s.strip(),
    "lstrip": lambda s: s.lstrip("a \n"),
    "rstrip": lambda s: s.rstrip("a-"),
    "removeprefix": lambda s: s.removeprefix("a"),
    "removesuffix": lambda s: s.removesuffix("B"),
    "nothing removed": lambda s: s.removesuffix(""),
    "slice": lambda s: s[1:-1],
    "backwards": lambda s: s[::-1],
    "item": lambda s: s[0] if s else s,
    "split": lambda s: s.split("-"),
    "split by two": lambda s: s.split("a-", 1),
    "rsplit": lambda s: s.rsplit("-", 1),
    "splitlines": lambda s: s.splitlines(),
    "splitlines with ends": lambda s: s.splitlines(True),
    "partition": lambda s: s.partition("-"),
    "rpartition": lambda s: s.rpartition("a"),
    "delete": lambda s: s.replace("a", ""),
    "delete twice": lambda s: s.replace("B", "", 2),
    "list": lambda s: list(s),
    "add": lambda s: s + s,
    "join": lambda s: s.join([s, s]),
    "reversed": lambda s: list(reversed(s)),
}
ROUGH = {
    "split at spaces": lambda s: s.split(),
    "rsplit at spaces": lambda s: s.rsplit(None, 1),
    "replace nothing": lambda s: s.replace("", "a", 1),
}
SAME_PLACES = {
    name: (lambda s, name=name: getattr(s, name)())
    for name in ("lower", "upper", "title", "capitalize", "swapcase", "casefold")
}


def marked(text: str) -> MarkedText:
    return MarkedText(text, bytes(ALPHABET[character] for character in text))


def strings(value) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


@given(texts)
@pytest.mark.parametrize("name", PRECISE)
def test_each_character_keeps_its_mark(name, text):
    result = PRECISE[name](marked(text))
    assert result == PRECISE[name](text)
    for part in strings(result):
        assert marks_of(part) == bytes(ALPHABET[character] for character in part)


@given(texts)
@pytest.mark.parametrize("name", ROUGH)
def test_what_can_not_be_placed_has_all_marks(name, text):
    result = ROUGH[name](marked(text))
    assert result == ROUGH[name](text)
    for part in strings(result):
        assert all(mark == mark_of(marked(text)) for mark in marks_of(part))


@given(st.text(max_size=12))
@pytest.mark.parametrize("name", SAME_PLACES)
def test_other_cases_of_letters(name, text):
    """A letter may become two, as ß does; then no place is known."""
    marks = bytes(i % 4 for i in range(len(text)))
    result = SAME_PLACES[name](MarkedText(text, marks))
    assert result == SAME_PLACES[name](text)
    if len(result) == len(text):
        assert marks_of(result) == marks
    else:
        assert set(marks_of(result)) == {mark_of(MarkedText(text, marks))}


def test_a_plain_string_takes_part_with_no_marks():
    data = spread("ab", 1)
    assert (marks_of("<" + data), marks_of(data + ">")) == (b"\0\1\1", b"\1\1\0")
    assert marks_of(join(", ", [data, "c"])) == b"\1\1\0\0\0"
    assert marks_of(data.replace("b", "xy")) == b"\1\0\0"
    assert type(join("", ["a", "b"])) is str


def test_it_is_a_string_in_every_other_way():
    data = spread("key", 1)
    assert {"key": 1}[data] == 1
    assert {data: 1}["key"] == 1
    assert str(data) is data
    assert type(str.__str__(data)) is str
    copied = pickle.loads(pickle.dumps(data))
    assert (copied, copied.marks) == (data, data.marks)


def test_marks_of_nested_values():
    value = {"a": [spread("x", 1), ("y", spread("z", 4))], spread("k", 2): 5}
    assert mark_of(value) == 7
    assert mark_of([1, None, "plain"]) == 0
    assert mark_of(MarkedText("abc", b"\1\0\4")) == 5
    everything = spread(value, 8)
    assert mark_of(everything) == 15
    assert everything == value
    assert spread(value, 0) is value


def test_every_character_needs_a_mark():
    with pytest.raises(ValueError, match="3 characters need as many marks, got 2"):
        MarkedText("abc", b"\0\0")


def test_no_method_that_makes_strings_loses_marks_unnoticed():
    """Of the methods that are not overridden, templates may call only those whose results template_strings marks."""
    from jaxllm.tokenizers.chat.template_strings import _METHODS

    guarded = {"center", "ljust", "rjust", "zfill", "format"}
    text = spread("Ab c", 1)
    arguments = {"join": [["x"]], "replace": ["b", "d"], "partition": [" "], "rpartition": [" "]}
    arguments |= dict.fromkeys(("removeprefix", "removesuffix", "count", "find", "index", "rfind", "rindex"), ["b"])
    arguments |= dict.fromkeys(("startswith", "endswith"), ["b"])
    for name in set(_METHODS[str].split()) - guarded:
        assert set(name) <= set(string.ascii_lowercase)
        for part in strings(made) if not isinstance(made := getattr(text, name)(*arguments.get(name, ())), int) else ():
            assert isinstance(part, MarkedText), name
