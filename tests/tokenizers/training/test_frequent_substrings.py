from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.training.frequent_substrings import frequent_substrings, frequent_substrings_slowly, lay_out

_WORDS = st.dictionaries(st.text("ab\0漢", min_size=1, max_size=12), st.integers(1, 3), max_size=8)


@given(_WORDS, st.sampled_from([1, 2, 3, 5, 16]), st.sampled_from([1, 2, 4]))
def test_they_are_those_of_the_definition(words, longest, min_count):
    laid_out = lay_out(words)
    found = {}
    for part in frequent_substrings(laid_out, longest, min_count):
        texts = [laid_out.text(place, part.length) for place in part.places]
        assert texts == sorted(set(texts))
        found |= dict(zip(texts, part.counts, strict=True))
    assert found == frequent_substrings_slowly(words, longest, min_count)


@given(_WORDS)
def test_all_their_places_are_known(words):
    laid_out = lay_out(words)
    for part in frequent_substrings(laid_out, 4):
        texts = [laid_out.text(place, part.length) for place in part.places]
        there = {place: texts[i] for place, i in zip(part.all_places.tolist(), part.which.tolist(), strict=True)}
        for place in range(len(laid_out.codes)):
            inside = laid_out.left[place] >= part.length
            text = laid_out.text(place, part.length) if inside else ""
            assert there.get(place) == (text if text in texts else None)


@given(_WORDS)
def test_words_are_laid_out_in_order(words):
    laid_out = lay_out(words)
    assert laid_out.texts == sorted(words)
    assert [laid_out.text(a, b - a) for a, b in zip(laid_out.begins, laid_out.ends, strict=True)] == sorted(words)
    assert [words[text] for text in laid_out.texts] == laid_out.counts.tolist()


def test_what_always_goes_on_in_the_same_way_is_left_out():
    words = lay_out({"nigram": 3, "unigram": 2})
    found = {
        words.text(p, part.length): c
        for part in frequent_substrings(words, 16)
        for p, c in zip(part.places, part.counts, strict=True)
    }
    assert found == {"am": 5, "ram": 5, "gram": 5, "igram": 5, "nigram": 5, "unigram": 2}
