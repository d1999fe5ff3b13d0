import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data.dedup import ExactDocuments, ExactParagraphs
from jaxllm.data.dedup import exact as exact_module

from .small_engine import batch_of, left, resolved


@given(st.lists(st.text("ab \n", max_size=4), max_size=20), st.integers(1, 7), st.integers(1, 3))
def test_one_of_equal_texts_stays(texts, rows, partitions):
    kept = left(ExactDocuments(), texts, rows, partitions)
    assert list(kept.values()) == list(dict.fromkeys(texts))


def test_equal_words():
    texts = ["A b, c", "a  B c!", "a b c d", "...", "!!!", "...", "a bc"]
    assert list(left(ExactDocuments(same="words"), texts).values()) == ["A b, c", "a b c d", "...", "!!!", "a bc"]
    assert len(left(ExactDocuments(), texts)) == 6
    longest = left(ExactDocuments(same="words", keep="longest"), texts)
    assert list(longest.values())[0] == "a  B c!"


def test_digests_that_agree_in_their_first_half_are_told_apart(monkeypatch):
    whole = exact_module._digests
    monkeypatch.setattr(exact_module, "_digests", lambda *a: (whole(*a)[0] & 1, whole(*a)[1]))
    texts = [f"text {number % 7}" for number in range(40)]
    assert list(left(ExactDocuments(), texts).values()) == texts[:7]


def test_two_documents_of_one_id_are_refused():
    with pytest.raises(ValueError, match="several documents have the id 'x'"):
        resolved(ExactDocuments(), [batch_of(["t", "t", "u"], ["x", "x", "y"])])


@given(st.lists(st.lists(st.sampled_from(["één lang stuk", "two two two", "x", ""]), max_size=5), max_size=6))
def test_paragraphs_stay_where_they_are_first(documents):
    texts = ["\n\n".join(one) for one in documents]
    kept = left(ExactParagraphs(shortest=5, same="bytes"), texts, rows=2, partitions=3)
    seen, expected = set(), {}
    for row, text in enumerate(texts):
        pieces, rest = [], text
        while rest:
            end = len(rest) if "\n" not in rest else rest.index("\n")
            after = end + len(rest[end:]) - len(rest[end:].lstrip("\n"))
            paragraph = rest[:end]
            if len(paragraph.encode()) < 5 or paragraph not in seen:
                pieces.append(rest[:after])
            if len(paragraph.encode()) >= 5:
                seen.add(paragraph)
            rest = rest[after:]
        if (joined := "".join(pieces)).strip():
            expected[f"d{row:06d}"] = joined
    assert kept == expected


def test_paragraphs_of_the_shortest_length_count():
    texts = ["a long line\nx1", "a long line\nx2"]
    assert left(ExactParagraphs(shortest=11), texts) == {"d000000": texts[0], "d000001": "x2"}
    assert list(left(ExactParagraphs(shortest=12), texts).values()) == texts


def test_paragraphs_are_cut_whole_and_what_has_nothing_left_is_dropped():
    footer = "Copyright 2024 by the authors, all rights reserved."
    texts = [f"One text.\n{footer}", f"Another.\n{footer.upper()}\nIts end.", footer, "}\n}\n}\n}"]
    kept = left(ExactParagraphs(), texts)
    assert list(kept.values()) == [texts[0], "Another.\nIts end.", texts[3]]


@pytest.mark.parametrize(
    "stage, settings, complaint",
    [
        (ExactDocuments, {"same": "letters"}, "same must be 'bytes' or 'words', got 'letters'"),
        (ExactParagraphs, {"separator": "("}, "is no regular expression"),
        (ExactParagraphs, {"separator": "x*"}, "matches the empty string"),
        (ExactParagraphs, {"shortest": 0}, "shortest must be at least 1 byte, got 0"),
    ],
)
def test_wrong_settings_are_refused(stage, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        stage(**settings)
