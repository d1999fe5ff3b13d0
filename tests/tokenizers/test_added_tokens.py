import random

import pytest

from jaxllm.tokenizers.added_tokens import AddedToken, AddedTokenFinder


def found(text, *tokens):
    return [(part.token and part.token.id, text[part.begin : part.end]) for part in AddedTokenFinder(tokens)(text)]


def test_the_longest_of_those_that_begin_alike():
    tokens = AddedToken("<a>", 1), AddedToken("<a><b>", 2)
    assert found("x<a><b><a>y", *tokens) == [(None, "x"), (2, "<a><b>"), (1, "<a>"), (None, "y")]


def test_white_space_goes_with_tokens_that_take_it():
    assert found("x  <l>  y", AddedToken("<l>", 1, lstrip=True)) == [(None, "x"), (1, "  <l>"), (None, "  y")]
    assert found("x  <r>  y", AddedToken("<r>", 1, rstrip=True)) == [(None, "x  "), (1, "<r>  "), (None, "y")]


def test_single_words_touch_no_word():
    token = AddedToken("cat", 1, special=False, single_word=True)
    assert found("cat, a cat", token) == [(1, "cat"), (None, ", a "), (1, "cat")]
    assert found("cats concat cat_ écat", token) == [(None, "cats concat cat_ écat")]


def test_nothing_to_find():
    assert found("text") == [(None, "text")]
    assert found("", AddedToken("x", 1)) == []
    assert not AddedTokenFinder([])


def test_an_empty_token_is_refused():
    with pytest.raises(ValueError, match="the added token of id 7 has no content"):
        AddedToken("", 7)


@pytest.mark.parametrize(
    "flags", [{}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"lstrip": True, "rstrip": True}]
)
def test_the_tokenizers_library_finds_the_same(flags):
    hf = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    contents = ["<s>", "<s>x", "ab", "abc", "q"]
    library = hf.Tokenizer(hf.models.WordLevel({"?": 0}, unk_token="?"))
    library.add_special_tokens([hf.AddedToken(content, normalized=False, **flags) for content in contents])
    tokens = [AddedToken(content, library.token_to_id(content), **flags) for content in contents]
    choose = random.Random(0)
    for _ in range(3000):
        text = "".join(choose.choices(["<s>", "x", "ab", "c", " ", "  ", "q", "é", "\n", "-"], k=choose.randint(0, 12)))
        encoding = library.encode(text)
        expected = [(i, span) for i, span in zip(encoding.ids, encoding.offsets, strict=True) if i]
        assert [(p.token.id, (p.begin, p.end)) for p in AddedTokenFinder(tokens)(text) if p.token] == expected, repr(
            text
        )
