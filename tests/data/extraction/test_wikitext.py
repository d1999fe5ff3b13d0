"""Wikitext to text, rule by rule, and markup that never ends."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data.documents import Document
from jaxllm.data.extraction.wikitext import WikitextToText, wikitext_to_text
from jaxllm.data.records import records, texts_of


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Ada''' was ''a'' '''''b'''''.", "Ada was a b."),
        (
            "[[England|English]] [[mathematician]]s [[#Life|life]] [[:Category:X]]",
            "English mathematicians life Category:X",
        ),
        ("a[[File:x.jpg|thumb|A [[nested|b]] caption]]b [[Kategorie:Y]][[de:Ada]]", "ab"),
        ("{{Infobox|a={{b|c}}|d}}text{{cn}}", "text"),
        ("{{lang|de|Straße}}, {{convert|5|km|mi}}, {{as of|2020}}, {{lang-fr|rue}}", "Straße, 5 km, As of 2020, rue"),
        ("1{{ndash}}2&nbsp;{{snd}} 3", "1–2 – 3"),
        ('x<ref name="a">see [[y]]</ref> y<ref name="a" /> z', "x y z"),
        ("born ({{IPA|x}}; {{circa|1815}}) here ({{IPA|y}})", "born (c. 1815) here"),
        ("[https://a.b some text] [https://a.b] [mailto:x@y.z mail]", "some text mail"),
        ("<!-- no -->a<br />b<small>c</small> <nowiki>[[raw]]</nowiki>", "a\nbc [[raw]]"),
        ("<math>x^{2}</math> is ''x'' squared", "x^{2} is x squared"),
        ("a\n<syntaxhighlight lang=py>\nx = {{1}} # '''b'''\n</syntaxhighlight>", "a\n```\nx = {{1}} # '''b'''\n```"),
        ("== A ==\n=== B ===\ntext\n== C ==\n{{reflist}}\n== D ==\nend", "## A\n\n### B\n\ntext\n\n## D\n\nend"),
        ("* one\n** two\n# first\n# second\n: said\n*", "- one\n  - two\n1. first\n2. second\nsaid"),
        ('{| class="wikitable"\n! A !! B\n|-\n| style="x" | 1 || [[b|2]]\n|-\n| 3\n| 4\n|}', "A | B\n1 | 2\n3 | 4"),
        ('{| class="infobox"\n| a || b\n|}text', "text"),
        ("unclosed {{ foo [[bar", "unclosed {{ foo [[bar"),
        ("}} ]] |} text", "}} ]] |} text"),
        ("__NOTOC__\n&lt;b&gt; &amp;amp;", "<b> &amp;"),
        ("", ""),
    ],
)
def test_rules(markup, text):
    assert wikitext_to_text(markup) == text


def test_a_stage_converts_what_was_read_raw():
    [batch] = records([Document("a", "'''x'''"), Document("b", "{{stub}}")], "wiki")
    outcome = WikitextToText()(batch)
    assert texts_of(outcome.kept) == ["x"] and outcome.dropped.column("reason").to_pylist() == ["nothing left"]


@given(
    st.lists(
        st.sampled_from(
            ["{{", "}}", "[[", "]]", "{|", "|}", "|", "\n", "a", "=", "*", "<ref>", "</ref>", "<pre>", "'''", "\0"]
        )
    )
)
def test_any_text_is_a_page(parts):
    wikitext_to_text("".join(parts))


@pytest.mark.parametrize("part", ["{{", "[[", "[[a|", "{|\n", "<ref>", "<!--", "[http://", "'", "=", "(;", "<a ", "* "])
def test_markup_that_never_ends_takes_no_more_time(part):
    start = time.perf_counter()
    wikitext_to_text(part * (40_000 // len(part)))
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("begin", "part", "end"),
    [
        ("{{lang|en|", " ", "x}}"),
        ("{|\n|-\n| ", "=", "\n|}"),
        ("{| ", "class=", "\n|-\n| x\n|}"),
        ("[//x", " ", ""),
    ],
)
def test_patterns_take_no_more_time_where_they_match_in_many_ways(begin, part, end):
    start = time.process_time()
    wikitext_to_text(begin + part * (20_000 // len(part)) + end)
    assert time.process_time() - start < 2


def test_named_arguments_and_attributes_of_cells_are_no_text():
    assert wikitext_to_text("{{lang|en| italic = no |fine}}") == "fine"
    assert wikitext_to_text('{|\n|-\n| style="a=b" | one || two = 2\n|}').strip() == "one | two = 2"
