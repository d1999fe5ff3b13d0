import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.preparation import normalizers
from jaxllm.tokenizers.preparation.normalizers import (
    NFC,
    NFD,
    NFKC,
    NFKD,
    WHITE_SPACE,
    BertNormalizer,
    Lowercase,
    Nmt,
    Prepend,
    Replace,
    Strip,
    StripAccents,
    rewrite_aligned,
)
from jaxllm.tokenizers.preparation.patterns import Regex, String
from tests.tokenizers.awkward_texts import awkward_texts

BERT = [
    BertNormalizer(clean, han, strip, lower)
    for clean in (False, True)
    for han in (False, True)
    for strip in (None, False, True)
    for lower in (False, True)
]
STEPS = [
    *(NFC(), NFD(), NFKC(), NFKD(), Lowercase(), StripAccents(), Nmt(), Prepend("▁"), Strip(), Strip(False, True)),
    *(Strip(True, False), Strip(False, False), Replace(String(" "), "▁▁"), Replace(Regex(r"\s+"), " ")),
    *(Replace(Regex("$"), "!"), Replace(Regex("a*"), "x"), Replace(String("a"), ""), *BERT),
]


def theirs(library, step):
    other = getattr(library.normalizers, type(step).__name__)
    if not isinstance(step, Replace):
        return other(*vars(step).values())
    pattern = step.pattern
    return other(library.Regex(pattern.source) if isinstance(pattern, Regex) else pattern.text, step.content)


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_text_is_that_of_the_tokenizers_library(step):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    other = theirs(library, step)
    for text in awkward_texts(1000):
        assert step(text) == other.normalize_str(text), ascii(text)


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_aligned_text_is_the_text_and_spans_go_forward(step):
    for text in awkward_texts(400, seed=1):
        rewritten, spans = step.aligned(text)
        assert rewritten == step(text), ascii(text)
        assert len(spans) == len(rewritten)
        assert all(0 <= begin <= end <= len(text) for begin, end in spans)
        assert all(a <= c and b <= d for (a, b), (c, d) in zip(spans, spans[1:], strict=False)), ascii(text)


# Steps that neither compose nor reorder; there the library's offsets are those of one character of the text.
@pytest.mark.parametrize(
    "step", [Lowercase(), StripAccents(), Nmt(), Strip(), BertNormalizer(strip_accents=False)], ids=str
)
def test_spans_are_the_offsets_of_the_tokenizers_library(step):
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    tokenizer = library.Tokenizer(library.models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.normalizer = theirs(library, step)
    tokenizer.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(r"(?m:.)"), "isolated")
    for text in awkward_texts(300, seed=2):
        offsets = tokenizer.encode(text).offsets
        spans = step.aligned(text)[1]
        # A character that is put in has no place of its own here, and that of its neighbour there.
        kept = [i for i, (begin, end) in enumerate(spans) if begin < end]
        assert [offsets[i] for i in kept] == [spans[i] for i in kept], ascii(text)


# Marks of the same class, one of which has no composition, and letters that are composed of three.
MARKED = st.text("ae\u0301\u0305\u0323\u0302\u0327ᄀ\u1161\u11a8가ậ")


@given(st.text(st.characters(exclude_categories=["Cs"])) | MARKED, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_normalization_with_spans_is_pythons(text, form):
    step = getattr(normalizers, form)()
    rewritten, spans = step.aligned(text)
    assert rewritten == unicodedata.normalize(form, text)
    # The characters that a span covers really become what it is the span of, and nothing is left over.
    assert all(begin < end for begin, end in spans)
    assert not text or (spans[0][0], spans[-1][1]) == (0, len(text))


def test_spans_of_normalization():
    assert NFC().aligned("xe\u0301y") == ("xéy", [(0, 1), (1, 3), (3, 4)])
    assert NFD().aligned("xéy") == ("xe\u0301y", [(0, 1), (1, 2), (1, 2), (2, 3)])
    assert NFC().aligned("a\u0305\u0301") == ("a\u0305\u0301", [(0, 1), (1, 2), (2, 3)])  # the first mark is in between
    assert NFKC().aligned("ﬁ²") == ("fi2", [(0, 1), (0, 1), (1, 2)])
    assert NFC().aligned("\u1100\u1161\u11a8!") == ("각!", [(0, 3), (3, 4)])
    # The mark below goes before the one above, which the first character had.
    assert NFD().aligned("é\u0323") == ("e\u0323\u0301", [(0, 1), (0, 2), (0, 2)])


def test_spans_of_what_is_put_in_are_empty():
    assert Prepend("▁").aligned("ab") == ("▁ab", [(0, 0), (0, 1), (1, 2)])
    assert BertNormalizer().aligned("a中É") == ("a 中 e", [(0, 1), (1, 1), (1, 2), (2, 2), (2, 3)])
    assert Replace(Regex("$"), "!").aligned("ab") == ("ab!", [(0, 1), (1, 2), (2, 2)])
    assert Replace(String("ab"), "xyz").aligned("cab") == ("cxyz", [(0, 1), (1, 3), (1, 3), (1, 3)])


def test_spans_go_through_several_rewrites():
    steps = (NFKC(), Replace(String("i"), "▁▁"), Strip(), Prepend("_"))
    assert rewrite_aligned(steps, " ﬁ ") == ("_f▁▁", [(1, 1), (1, 2), (1, 2), (1, 2)])
    assert rewrite_aligned((Lowercase(), Replace(String("ab"), "x")), "ABC") == ("xc", [(0, 2), (2, 3)])
    assert rewrite_aligned((), "ab") == ("ab", [(0, 1), (1, 2)])
    assert rewrite_aligned((Strip(), Prepend("x")), " ") == ("", [])


def test_white_space_is_unicodes():
    library = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed (make parity)")
    strip = library.normalizers.Strip()
    characters = [chr(code) for code in range(0x3100) if not 0xD800 <= code < 0xE000]
    assert {c for c in characters if strip.normalize_str(c) == ""} == set(WHITE_SPACE)


def test_a_capital_sigma_at_the_end_of_a_word():
    assert Lowercase()("ΑΣ") == "ασ"
    assert Lowercase()("İ") == "i\u0307"
