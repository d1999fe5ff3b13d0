"""Keeping documents in some languages."""

import json
import sys

import pytest

from jaxllm.data.documents import Document
from jaxllm.data.quality import language
from jaxllm.data.quality.language import Language
from jaxllm.data.records import records
from tests.data.quality.verdict_corpus import SHARED

CODES = {"arb_Arab": "ar", "deu_Latn": "de", "eng_Latn": "en", "fra_Latn": "fr", "hin_Deva": "hi", "jpn_Jpan": "ja"} | {
    "kor_Hang": "ko",
    "rus_Cyrl": "ru",
    "spa_Latn": "es",
    "swh_Latn": "sw",
    "vie_Latn": "vi",
    "zho_Hans": "zh",
}


def batch_of(*texts):
    [batch] = records([Document(str(i), text) for i, text in enumerate(texts)], "s")
    return batch


class FirstLetters:
    """Takes the first two letters of a text for its language, and its length in tenths for how sure that is."""

    labels = ["de", "en", "fr"]

    def classify(self, text):
        return text[:2], len(text) / 10


@pytest.fixture
def first_letters(monkeypatch):
    monkeypatch.setattr(language, "_identifier", FirstLetters)


def test_languages_are_kept_by_code_and_confidence(first_letters):
    outcome = Language(languages=("en", "de"), max_characters=8)(batch_of("en good..", "fr good", "en", "de good"))
    assert outcome.kept.column("id").to_pylist() == ["s/0", "s/3"]
    assert outcome.dropped.column("reason").to_pylist() == ["not in en, de", "language confidence below 0.65"]
    metadata = [json.loads(text) for text in outcome.kept.column("metadata").to_pylist()]
    assert metadata[0] == {"language": "en", "language_confidence": 0.8}
    everything = Language(min_confidence=0, note="")(batch_of("fr", "de"))
    assert len(everything.kept) == 2 and everything.kept.column("metadata").to_pylist() == ["{}", "{}"]


def test_what_can_go_wrong_is_said(first_letters, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown languages \['xx'\]; known are de en fr"):
        Language(languages=("en", "xx"))(batch_of("en"))
    with pytest.raises(ValueError, match="must be a tuple of codes"):
        Language(languages="en")
    monkeypatch.undo()
    language._identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxllm\[language\]'"):
        Language()(batch_of("en"))


def test_real_sentences():
    pytest.importorskip("py3langid", reason="py3langid is not installed (make parity)")
    folder = SHARED / "corpora" / "flores200"
    if not folder.exists():
        pytest.skip("no shared data; name its folder in JAXLLM_SHARED_DATA")
    for name, code in CODES.items():
        sentences = (folder / f"{name}.devtest").read_text(encoding="utf-8").splitlines()
        kept = Language(languages=(code,), min_confidence=0)(batch_of(*sentences[:60])).kept
        assert len(kept) >= (54 if code == "zh" else 59), code


def test_what_is_no_language_is_not_sure():
    pytest.importorskip("py3langid", reason="py3langid is not installed (make parity)")
    outcome = Language()(batch_of("", "12 34 56 78", "This is a sentence in English, and not a short one."))
    assert outcome.kept.column("id").to_pylist() == ["s/2"]
