"""What a word is, and a sentence."""

import pytest

from jaxllm.data.quality.words import count_sentences, split_words


@pytest.mark.parametrize(
    "text, words",
    [
        ("Hello, world!", "Hello|,|world|!"),
        ("(see p. 12)", "(|see|p.|12|)"),
        ("don't can't cannot Dont it's Its we'll they’ve", "do|n't|ca|n't|can|not|Do|nt|it|'s|Its|we|'ll|they|’ve"),
        ("John's cats' U.S. Mr. A. end.", "John|'s|cats|'|U.S.|Mr.|A.|end|."),
        ("well-known 1990-1995 and/or he/she 3:45", "well|-|known|1990|-|1995|and/or|he|/|she|3:45"),
        ("$5.00 20% 30km 10am C++", "$|5.00|20|%|30|km|10|am|C++"),
        ("wait...what so…", "wait|...|what|so|…"),
        ("end.Next a,b e.g. x=1", "end|.|Next|a|,|b|e.g.|x=1"),
        ("https://example.org/a?b=c, me@example.org.", "https://example.org/a?b=c|,|me@example.org|."),
        (":) f(x): naïve über", ":)|f(x|):|naïve|über"),
        ("“Quoted” ‘too’ — 你好,世界。", "“|Quoted|”|‘|too|’|—|你好|,|世界|。"),
        ("  \n\t ", ""),
    ],
)
def test_tokens(text, words):
    """As spacy.blank("en") splits them, from which these were taken."""
    assert "|".join(split_words(text)) == words


def test_a_chunk_too_long_to_be_written_is_one_word():
    assert split_words("(" * 1001) == ["(" * 1001]
    assert len(split_words("(" * 1000)) == 1000


@pytest.mark.parametrize(
    "text, number",
    [
        ("", 0),
        ("No end", 1),
        ("One. Two! Three? Four", 4),
        ("Mr. Smith met Dr. Ives. They talked...", 2),
        ('He said "No." Then he left.', 2),
        ('He said "No."', 1),
        ("What?! Really?", 2),
        ("一。二。三", 1),
        ("...", 1),
    ],
)
def test_sentences(text, number):
    """As spaCy's sentencizer counts them."""
    assert count_sentences(text) == number
