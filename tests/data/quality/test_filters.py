"""Each rule of each filter: what it drops, why, and what it keeps."""

import random
import time
from itertools import chain

import pytest

from jaxllm.data.quality.c4 import C4Paragraphs, C4Quality
from jaxllm.data.quality.characters import Characters, Length
from jaxllm.data.quality.code import (
    CODE,
    CodeCharacters,
    CodeIsEncodedData,
    CodeIsMarkup,
    CodeIsXml,
    CodeLines,
    CodeMadeByProgram,
)
from jaxllm.data.quality.fineweb import FineWeb
from jaxllm.data.quality.gopher import GopherQuality, GopherRepetition, RepeatedNgrams
from jaxllm.data.quality.text_statistics import TextStatistics, Words
from tests.data.quality.verdict_corpus import SENTENCES, code_texts

PROSE = " ".join(SENTENCES)


def why(one, text):
    return one.screen([TextStatistics(text)]).reasons[0]


def numbered(sentence, times, between="\n"):
    return between.join(sentence.format(i) for i in range(times))


@pytest.mark.parametrize(
    "text, reason",
    [
        (PROSE, None),
        ("", "fewer than 50 words"),
        (" ".join(PROSE.split()[:40]), "fewer than 50 words"),
        ("the cat, " * 50_001, "more than 100000 words"),
        ("a b " * 50, "mean word length below 3"),
        ("extraordinarily incomprehensible " * 30, "mean word length above 10"),
        (" ".join(["that", "with", "some"] * 30 + ["#"] * 10), None),
        (PROSE + " # one" * 60, "more than 0.1 hash signs a word"),
        (PROSE + " word..." * 60, "more than 0.1 ellipses a word"),
        (numbered("- {} of the things that we have to be with", 10), "more than 0.9 of the lines begin with a bullet"),
        (
            numbered("{} of the things that we have to be with is one of the very many things…", 10),
            "more than 0.3 of the lines end with an ellipsis",
        ),
        (PROSE + " 1000" * 200, "fewer than 0.8 of the words have a letter"),
        ("lonely words without any glue between them " * 10, "fewer than 2 stop words"),
        ("einsame Wörter der deutschen Sprache " * 15, "fewer than 2 stop words"),
    ],
)
def test_gopher_quality(text, reason):
    assert why(GopherQuality(), text) == reason


def test_each_rule_can_be_turned_off():
    nothing = dict.fromkeys(
        [name for name in GopherQuality.__dataclass_fields__ if name.startswith(("min", "max"))], None
    )
    for text in ("", "# ...", "extraordinarily", "- 1\n- 2"):
        assert why(GopherQuality(**nothing), text) is None
    german = GopherQuality(stop_words=("der", "die", "das", "und"), max_mean_length=12)
    assert why(german, "Der Hund und die Katze sehen das Haus, in dem sie wohnen, und gehen hinein. " * 5) is None


def test_words_by_spaces_or_as_tokens():
    text = "(well) (yes) (no) (but) (then) (where) (to) (the) " * 4
    assert why(GopherQuality(words_as="spaces", min_stop_words=None), text) == "fewer than 50 words"
    assert why(GopherQuality(words_as="spaces", min_words=None, min_stop_words=1), text) == "fewer than 1 stop words"
    assert why(GopherQuality(min_words=32), text) == "fewer than 0.8 of the words have a letter"
    assert why(GopherQuality(min_words=32, min_alphabetic_words=0.3), text) is None
    with pytest.raises(ValueError, match="as 'tokens' or by 'spaces', not as 'syllables'"):
        why(GopherQuality(words_as="syllables"), text)


ANIMALS = [
    "cat",
    "dog",
    "owl",
    "fox",
    "hen",
    "cow",
    "pig",
    "rat",
    "bee",
    "ant",
    "elk",
    "emu",
    "ape",
    "eel",
    "cod",
    "hog",
]


def other_words(number):
    """Words of which no three follow each other twice."""
    return " ".join(random.Random(number).choices([f"{a}{b}" for a in ANIMALS for b in ANIMALS], k=number))


@pytest.mark.parametrize(
    "text, reason",
    [
        (PROSE, None),
        ("", "empty"),
        ("\n\nsome part\n\n", "more than 0.3 duplicate lines"),  # the empty ones around it, which are no paragraphs
        ("\n\n".join(["some part", "another part", "some part", "some part"]), "more than 0.3 duplicate paragraphs"),
        (
            "\n\n".join(["a", "b", "c", "d", "e", "f", "g", "h", PROSE, PROSE]),
            "more than 0.2 of the characters in duplicate paragraphs",
        ),
        ("\n".join(["one line", "one line", "one line", "other"]), "more than 0.3 duplicate lines"),
        ("\n".join([*"abcdefgh", PROSE, PROSE]), "more than 0.2 of the characters in duplicate lines"),
        (other_words(60) + " most frequent" * 30, "more than 0.2 of the characters in the top 2-gram"),
        (
            " ".join(f"of the house {w}" for w in other_words(30).split()),
            "more than 0.2 of the characters in the top 2-gram",
        ),
        (
            " ".join([other_words(160), *[" ".join(other_words(200).split()[:60])] * 2]),
            "more than 0.15 of the characters in duplicate 5-grams",
        ),
        (other_words(300), None),
    ],
)
def test_gopher_repetition(text, reason):
    assert why(GopherRepetition(), text) == reason


def slow_top(words, n):
    """Literally: the most frequent n-gram, the first of equals."""
    ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not ngrams:
        return 0
    best = max(dict.fromkeys(ngrams), key=ngrams.count)
    return len(" ".join(best)) * ngrams.count(best)


def slow_duplicates(words, n):
    met, total, i = set(), 0, 0
    while i <= len(words) - n:
        ngram = tuple(words[i : i + n])
        total, i = (total + len("".join(ngram)), i + n) if ngram in met else (total, i + 1)
        met.add(ngram)
    return total


@pytest.mark.parametrize("letters", [2, 3, 8, 40])
def test_repeated_ngrams_are_as_counted_one_by_one(letters):
    chosen = random.Random(letters)
    for length in (0, 1, 2, 5, 9, 40, 120):
        words = [chr(97 + c % 26) * (1 + c % 4) for c in chosen.choices(range(letters), k=length)]
        ngrams = RepeatedNgrams(Words(words))
        for n in (2, 3, 4, 5, 7, 10):
            assert ngrams.top_characters(n) == slow_top(words, n), (words, n)
            assert ngrams.duplicate_characters(n) == slow_duplicates(words, n), (words, n)
            assert ngrams.repeated_characters(n) >= ngrams.duplicate_characters(n)


@pytest.mark.parametrize(
    "text, reason",
    [
        (numbered("Number {} is a sentence, and a rather long one.", 5), None),
        ("\n \n\t\n", "empty"),
        ("", "empty"),
        (
            numbered("Item {} of a menu without an end that is written", 10),
            "fewer than 0.12 of the lines end with punctuation",
        ),
        (numbered("{} " + "ab " * 9 + "c.", 10), None),  # 31 characters
        (numbered("{} " + "ab " * 9 + ".", 10), "more than 0.67 of the lines have at most 30 characters"),
        ("x" * 593 + ".\nab.\nab.\n" + "\n" * 400, "more than 0.3 line ends a word"),
        ("x" * 193 + ".\nab.\nab.\n" + "\n" * 400, "more than 0.01 of the characters in duplicate lines"),
        (numbered("Item {} is short.", 10), "more than 0.67 of the lines have at most 30 characters"),
        (
            numbered("Number {} is a sentence, and a rather long one.", 5) + "\nThis one is here twice, or more." * 2,
            "more than 0.01 of the characters in duplicate lines",
        ),
        (numbered("https://example.org/with/a/very/long/path/{}.", 5, "\n\n"), "more than 0.3 line ends a word"),
        (numbered("数字 {} 是一个相当长的句子,比三十个字符还要长得多,因为这条规则数的是字符。", 4), None),
    ],
)
def test_fineweb(text, reason):
    assert why(FineWeb(), text) == reason


GOOD = [f"This is good line number {word}." for word in ANIMALS[:5]]


def test_c4_removes_lines_and_counts_them():
    lines = [
        *GOOD,
        "Menu",
        "It goes on and on...",
        "Too few.",
        "Please enable JavaScript to see this page.",
        "Read our Privacy Policy before you go on.",
        "x" * 1001 + " and more of it.",
        "Water is wet.[12] [edit] So they say.[citation needed]",
    ]
    screening = C4Quality().screen([TextStatistics("\n".join(lines)), TextStatistics("Only this one here.")])
    assert screening.reasons == [None, "fewer than 5 sentences"]
    assert screening.texts == ["\n".join([*GOOD, "Water is wet.  So they say."]), "Only this one here."]
    assert screening.counts == {
        "lines kept": 6,
        "lines removed, no punctuation at its end": 2,
        "lines removed, fewer than 3 words": 1,
        "lines removed, about javascript": 1,
        "lines removed, about policies": 1,
        "lines removed, a word of more than 1000 characters": 1,
    }


@pytest.mark.parametrize(
    "line, reason",
    [
        ("Here follows Lorem Ipsum dolor sit amet.", "lorem ipsum"),
        ("A program has { a bracket in it.", "curly bracket"),
        ("A javascript program has { a bracket in it.", None),
        ("a bracket { without an end", None),
    ],
)
def test_c4_drops_pages(line, reason):
    assert why(C4Quality(), "\n".join([*GOOD, line])) == reason
    assert why(C4Quality(drop_lorem_ipsum=False, drop_curly_brackets=False), "\n".join([*GOOD, line])) is None


def test_c4_paragraphs():
    assert why(C4Paragraphs(), "\n".join(["x" * 200] * 3)) is None
    for text in ("\n".join(["x" * 200] * 2 + ["x" * 199]), "x" * 1000, ""):
        assert why(C4Paragraphs(), text) == "fewer than 3 paragraphs of 200 characters"


@pytest.mark.parametrize(
    "one, text, reason",
    [
        (CodeLines(), "", "empty"),
        (CodeLines(), "x\n" * 100_001, "more than 100000 lines"),
        (CodeLines(), "x = 1; " * 50, "mean line length above 100"),
        (CodeLines(), "x\n" * 100 + "x = 1; " * 150, "a line of more than 1000 characters"),
        (CodeLines(max_mean_line=None, max_longest_line=None), "x = 1; " * 500, None),
        (CodeCharacters(), "((a)) += [[b]] ** {{c}}", "fewer than 0.25 of the characters are letters or digits"),
        (CodeCharacters(), "1, 2, 3, 4, 5, 6, 7, 8, 9, 10\n", "fewer than 0.25 of the characters are letters"),
        (CodeCharacters(), "名前 = ['値']", None),
        (CodeMadeByProgram(), "# x\n# AUTO-GENERATED by a tool\n", "says that it is generated"),
        (CodeMadeByProgram(), "\n" * 5 + "# auto-generated", None),
        (CodeIsXml(), ' <?xml version="1.0"?><a/>', "begins as xml"),
        (CodeIsXml(), " " * 100 + '<?xml version="1.0"?>', None),
        (CodeIsEncodedData(), "key = '" + "iVBORw0KGgo" * 100 + "'", "more than 1024 characters of base64 in a row"),
        (CodeIsEncodedData(), "k = '" + "iVBORw0KGgo" * 6 + "'" + "\n", "more than 0.5 of the characters are base64"),
        (CodeIsEncodedData(), "x = [" + "0x1f, " * 20 + "]", "more than 0.5 of the characters are hexadecimal"),
        (CodeIsEncodedData(), "x = '" + r"\u00e9" * 20 + "'", "more than 0.5 of the characters are escaped unicode"),
        (CodeIsEncodedData(), "def f(x):\n    return x + 1\n" * 20, None),
        (CodeIsMarkup(), "<p>" * 300 + "a" * 50, "at most 0.2 of the characters are visible"),
        (CodeIsMarkup(), "<script>" + PROSE + "</script>" + "a" * 30, "at most 0.2 of the characters are visible"),
        (CodeIsMarkup(), "<p>short</p>", "at most 100 visible characters"),
        (CodeIsMarkup(), "<html><p>" + PROSE + "</p></html>", None),
        (Characters(), PROSE, None),
        (Characters(), "", None),
        (Characters(), "ab#-ef +* e", None),  # 4 of 11
        (Characters(), "ab#-ef +*.e", "more than 0.4 of the characters are special"),
        (Characters(), "a1 2# 34", None),
        (Characters(), "ÉÈ 1 2 and", "more than 0.3 of the letters are capitals"),
        (Characters(), "ÉCO and now yes", None),  # 3 of 12
        (Characters(max_special=None, max_capitals=None), "### ABC", None),
        (Length(), "", "fewer than 1 characters"),
        (Length(max_characters=5), "123456", "more than 5 characters"),
        (Length(max_characters=5), "12345", None),
    ],
)
def test_code_and_length(one, text, reason):
    assert why(one, text) == reason


def test_code_that_people_wrote_is_kept():
    """A cap of 0.1 on special characters, as one might put on prose, would reject half of it."""
    texts = [text for text in chain(code_texts()) if text.strip()]
    dropped = [(one.name, why(one, text)) for text in texts for one in CODE if why(one, text)]
    assert len(dropped) <= 1, dropped
    special = [sum(not (c.isalnum() or c.isspace()) for c in text) / len(text) for text in texts]
    assert sum(fraction > 0.1 for fraction in special) > len(texts) / 4


@pytest.mark.parametrize(
    "text",
    [
        "#" * 300_000,
        "a" * 300_000,
        "'.' " * 80_000,
        "x.Y" * 100_000,
        "([{" * 100_000,
        "0x00, " * 50_000,
        "\n" * 300_000,
    ],
)
def test_no_text_takes_long(text):
    begin = time.process_time()
    for one in (GopherQuality(), GopherRepetition(), FineWeb(), C4Quality(), *CODE, CodeIsMarkup()):
        one.screen([TextStatistics(text)])
    assert time.process_time() - begin < 3
