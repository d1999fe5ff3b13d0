"""Cleaning: no letter of any script is lost; each kind of dirt goes by its choice; agreement with ftfy."""

import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data.cleaning import Clean, even_whitespace, without_invisible
from jaxllm.data.documents import Document
from jaxllm.data.records import records, texts_of
from jaxllm.data.unicode_repair import repair_mojibake

LETTERS = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] in "LMN"]


def test_every_letter_mark_and_number_of_unicode_stays():
    text = "\n".join(f"{'x'.join(LETTERS[at : at + 50])} {at}" for at in range(0, len(LETTERS), 50))
    assert Clean(mojibake=False).cleaned(text) == unicodedata.normalize("NFC", text)
    # What is odd makes all of the text go through every rule.
    assert Clean(mojibake=False).cleaned(f"\0{text}\u200b\u2003\u200d \n") == unicodedata.normalize("NFC", text)
    alone = " ".join(LETTERS)
    assert Clean().cleaned(alone) == unicodedata.normalize("NFC", alone)


@given(st.text(st.sampled_from(LETTERS), min_size=1))
def test_no_word_of_letters_is_changed(word):
    assert Clean(mojibake=False, form="").cleaned(word) == word
    assert Clean(mojibake=False, form="").cleaned(f"{word}\n\0\u2003") == word
    repaired = repair_mojibake(word)
    assert repaired == word or (
        len(repaired) < len(word) and any("\xc2" <= char <= "\xf4" or char in "РС" for char in word)
    )


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text):
    clean = Clean(mojibake=False)
    once = clean.cleaned(text)
    assert clean.cleaned(once) == once


RIGHT = [
    "Straße “quoted” – it’s…", "CAFÉ… VOILÀ”", "«Não» – À la carte", "en toute sécurité\xa0». L'autorité\xa0» fin",
    "ПРИВЕТ «МИР» СССР", "naïve façade Œuvre", "日本語のテキスト、中文文本", "한국어 العربية עברית हिन्दी ไทย",
    "ÄÖÜ–äöü ÞÓR Ðað", "ΓÇΔ √x + √2", "Việt Nam ĐẤT NƯỚC", "Łódź Škoda Žižkov", "ÑANDÚ’s", "£5 €10 ±3° ½",
    "ELLE ÉTAIT LÀ… «OÙ»?", "AMANHÃ”",
]  # fmt: skip
MISREAD = {
    "cafÃ©": "café", "itâ€™s": "it’s", "â€œquotedâ€\x9d": "“quoted”", "Â£5 and 5 Â°C": "£5 and 5 °C",
    "ÐŸÑ€Ð¸Ð²ÐµÑ‚": "Привет", "æ—¥æœ¬èªž": "日本語", "ðŸ˜€": "😀", "РџСЂРёРІРµС‚": "Привет", "it‚Äôs": "it’s",
    "GruÃŸ": "Gruß", "Ã¢â‚¬â„¢": "’", "ÃƒÂ©": "é", "\x93hi\x94": "“hi”", "MÃœNCHEN": "MÜNCHEN",
    "Ä\x8deÅ¡tina": "čeština",
    "Ä°stanbul": "İstanbul", "Ã€ la carte": "À la carte", "×©×œ×•×\x9d": "שלום", "caf√©": "café",
}  # fmt: skip


@pytest.mark.parametrize("text", RIGHT)
def test_text_that_is_right_is_left_alone(text):
    assert repair_mojibake(text) == text


@pytest.mark.parametrize("misread", MISREAD)
def test_misread_text_is_made_right(misread):
    assert repair_mojibake(misread) == MISREAD[misread]
    assert repair_mojibake(f"Well, {misread}, so.") == f"Well, {MISREAD[misread]}, so."


def test_ftfy_says_the_same():
    ftfy = pytest.importorskip("ftfy", reason="needs ftfy (make parity)")
    config = ftfy.TextFixerConfig(
        unescape_html=False,
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        normalization=None,
    )
    differing = [text for text in [*RIGHT, *MISREAD] if ftfy.fix_text(text, config) != repair_mojibake(text)]
    assert differing == ["AMANHÃ”"]  # which ftfy takes for "AMANHÔ"


@pytest.mark.parametrize("codec", ["latin-1", "cp1252"])
@given(
    word=st.sampled_from(
        [
            "é",
            "Größe",
            "señor",
            "naïve",
            "“quote”",
            "’s",
            "–",
            "—",
            "…",
            "€",
            "£5",
            "čeština",
            "Ελληνικά",
            "Русский",
            "עברית",
            "日本語",
            "한국어",
            "😀🎉",
            "việt",
        ]
    )
)
def test_what_a_table_broke_is_repaired(codec, word):
    try:
        misread = word.encode().decode(codec)
    except UnicodeDecodeError:
        return
    assert repair_mojibake(f"({misread})") == f"({word})"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb\rc\u2028d\x0ce", "a\nb\nc\nd\ne"),
        ("a\0b\x1b[0m\x7f\ufffe", "ab[0m"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen", "zerowidth softhyphen"),
        ("\u202eevil\u202c", "evil"),
        ("می\u200cخواهم क्\u200dष 👩\u200d💻", "می\u200cخواهم क्\u200dष 👩\u200d💻"),
        ("a\u200db \u200cc", "ab c"),
        ("a\u00a0b\u3000c  d\t\te  \n", "a b c d e"),
        ("def f():\n    return  1\n\n\n\n\tx", "def f():\n    return 1\n\n\tx"),
        ("e\u0301", "é"),
        ("ﬁ² Ａ", "ﬁ² Ａ"),
    ],
)
def test_characters_and_whitespace(text, cleaned):
    assert Clean().cleaned(text) == cleaned


def test_choices():
    assert Clean(form="NFKC").cleaned("ﬁ² Ａ") == "fi2 A"
    assert Clean(form="").cleaned("e\u0301") == "e\u0301"
    assert Clean(urls=True).cleaned("See https://a.b/c?d=(e), or www.x.org.") == "See , or ."
    assert Clean(whitespace=False).cleaned("a  b \n\n\n") == "a  b \n\n\n"
    assert Clean(invisible=False, whitespace=False).cleaned("a\u200b\0") == "a\u200b\0"
    assert without_invisible("a\r\nb") == "a\nb" and even_whitespace(" a \n") == " a"
    for settings in ({"form": "NFD"}, {"repeated_lines": 1}, {"repeated_lines": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            Clean(**settings)


@pytest.mark.parametrize(
    "line",
    [
        "We use cookies to improve your experience.",
        "This website uses cookies.",
        "Please enable JavaScript to view the comments.",
        "© 2020 Company. All rights reserved.",
        "Subscribe to our newsletter!",
        "Share on Facebook",
        "Skip to main content",
        "Leave a comment",
        "Diese Website verwendet Cookies.",
        "Tous droits réservés.",
        "Все права защищены",
        "版权所有 2020",
    ],
)
def test_lines_of_boilerplate_go(line):
    assert Clean().cleaned(f"First.\n{line}\nLast.") == "First.\nLast."
    assert line in Clean(boilerplate_lines=False).cleaned(f"First.\n{line}\nLast.")


def test_lines_that_speak_of_the_same_things_stay():
    text = "She baked cookies to share on Sunday.\nJavaScript is a language.\nHer rights were reserved for her.\n" + (
        "In a long paragraph about law, the words all rights reserved may come up, and nobody takes it out. " * 3
    )
    assert Clean().cleaned(text) == text.rstrip()


def test_repeated_lines():
    line = "This line is long enough to count."
    assert Clean().cleaned(f"{line}\na\n" * 4) == f"{line}\na\na\na\na"
    assert Clean().cleaned(f"{line}\na\n" * 3) == f"{line}\na\n{line}\na\n{line}\na"
    assert Clean(repeated_lines=0).cleaned(f"{line}\n" * 5).count(line) == 5


def test_the_stage_counts_and_drops_what_is_empty():
    documents = [Document("a", "cafÃ©"), Document("b", "\u200b \0"), Document("c", "Text.\nShare on Facebook")]
    [batch] = records(documents, "web")
    outcome = Clean()(batch)
    assert texts_of(outcome.kept) == ["café", "Text."]
    assert outcome.dropped.column("reason").to_pylist() == ["nothing left"]
    assert outcome.counts["documents with repaired characters"] == 1 and outcome.counts["lines of boilerplate"] == 1


@pytest.mark.parametrize("text", ["x \n" + " " * 60_000 + "x", "ب" + "\u200c" * 20_000 + "ب"])
def test_long_runs_of_blanks_and_joiners_take_no_more_time(text):
    start = time.process_time()
    assert Clean().cleaned(text).endswith(text[-100:])
    assert time.process_time() - start < 0.5
