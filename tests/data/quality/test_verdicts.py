"""The same verdicts as datatrove's filters, document by document, for the same reason."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from jaxllm.data.quality.c4 import C4Paragraphs, C4Quality
from jaxllm.data.quality.fineweb import FineWeb
from jaxllm.data.quality.gopher import GopherQuality, GopherRepetition
from jaxllm.data.quality.text_statistics import TextStatistics
from tests.data.quality.verdict_corpus import code_texts, documents, key_of, own_texts, shared_texts

VERDICTS = json.loads(Path(__file__).with_name("verdicts.json").read_text())
FILTERS = (GopherQuality(), GopherRepetition(), FineWeb(), C4Paragraphs(), C4Quality())

# What datatrove calls what our reasons say; numbers in ours stand for themselves.
NAMES = [
    (r"fewer than 50 words", "gopher_short_doc"),
    (r"more than 100000 words", "gopher_long_doc"),
    (r"mean word length below", "gopher_below_avg_threshold"),
    (r"mean word length above", "gopher_above_avg_threshold"),
    (r".*hash signs", "gopher_too_many_hashes"),
    (r".*ellipses a word", "gopher_too_many_ellipsis"),
    (r".*begin with a bullet", "gopher_too_many_bullets"),
    (r".*end with an ellipsis", "gopher_too_many_end_ellipsis"),
    (r".*have a letter", "gopher_below_alpha_threshold"),
    (r".*stop words", "gopher_enough_stop_words"),
    (r"more than 0.3 duplicate paragraphs", "dup_para_frac"),
    (r"more than 0.2 .*duplicate paragraphs", "dup_para_char_frac"),
    (r"more than 0.3 duplicate lines", "dup_line_frac"),
    (r"more than 0.2 .*duplicate lines", "dup_line_char_frac"),
    (r".*top (\d)-gram", r"top_\1_gram"),
    (r".*duplicate (\d+)-grams", r"duplicated_\1_n_grams"),
    (r".*end with punctuation", "line_punct_ratio"),
    (r".*at most 30 characters", "short_line_ratio"),
    (r"more than 0.01 .*duplicate lines", "char_dup_ratio"),
    (r".*line ends a word", "list_ratio"),
    (r"fewer than 3 paragraphs.*", "< 3 paragraphs"),
    (r"lorem ipsum", "lorem_ipsum"),
    (r"curly bracket", "curly_bracket"),
    (r"fewer than 5 sentences", "too_few_sentences"),
    (r"empty", "empty"),
]


def name_of(reason):
    if reason is None:
        return ""
    [name] = [found.expand(name) for ours, name in NAMES if (found := re.match(ours, reason))]
    return name


def compared(texts):
    """Verdicts of all documents that the golden file has; how often each occurs."""
    seen = Counter()
    for text in texts:
        if (golden := VERDICTS.get(key_of(text))) is None:
            continue
        statistics = TextStatistics(text)
        screenings = [one.screen([statistics]) for one in FILTERS]
        reasons = [name_of(screening.reasons[0]) for screening in screenings]
        left = "" if reasons[-1] else key_of(screenings[-1].texts[0])
        assert [*reasons, left] == golden, text[:200]
        seen.update(reasons)
    return seen


def test_own_texts_as_they_are_and_damaged():
    seen = compared(documents(own_texts(), 5))
    assert seen.total() == 5 * 240
    assert len(seen) > 15  # most of the rules have dropped something, and each filter has kept something


def test_web_pages_and_articles():
    seen = compared(documents(shared_texts(), 2))
    if not seen:
        pytest.skip("no shared data; name its folder in JAXLLM_SHARED_DATA")
    assert seen.total() == 5 * 630


def test_code():
    seen = compared(documents(code_texts(), 1))
    if not seen:
        pytest.skip("the golden verdicts are on the source files of another version of Python")
    assert len(seen) > 8
