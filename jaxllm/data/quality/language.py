"""Which language a text is in, as py3langid tells it (Lui and Baldwin 2012; the model is inside the package)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from jaxllm.data.quality.chain import Filter, Screening
from jaxllm.data.quality.text_statistics import TextStatistics


@dataclass(frozen=True)
class Language(Filter):
    """Keeps documents in wanted languages, and notes the language in the metadata of all.

    Needs the extra `language`. Looks at the beginning of a text only, which a second language further down does not
    change.
    """

    languages: tuple[str, ...] = ()
    """codes of ISO 639-1, as ("en", "de"); () keeps all"""
    min_confidence: float = 0.65
    """as FineWeb asks of its own identifier; text without letters has about 0"""
    max_characters: int = 2000
    """how much of a text is looked at"""
    note: str = "language"
    """the name under which metadata keeps the code, and with "_confidence" the confidence; "" for none"""
    name: str = "language"

    def __post_init__(self):
        if isinstance(self.languages, str):
            raise ValueError(f"languages must be a tuple of codes, as ('en',), found {self.languages!r}")

    def screen(self, texts: Sequence[TextStatistics]) -> Screening:
        identifier = _identifier()
        if unknown := sorted({*self.languages}.difference(identifier.labels)):
            raise ValueError(f"unknown languages {unknown}; known are {' '.join(sorted(identifier.labels))}")
        found = [identifier.classify(text.text[: self.max_characters]) for text in texts]
        notes = [{self.note: code, f"{self.note}_confidence": round(sure, 3)} for code, sure in found]
        return Screening([self._verdict(*one) for one in found], notes=notes if self.note else None)

    def _verdict(self, code: str, confidence: float) -> str | None:
        if self.languages and code not in self.languages:
            return f"not in {', '.join(self.languages)}"
        return f"language confidence below {self.min_confidence}" if confidence < self.min_confidence else None


@lru_cache(1)
def _identifier():
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "identifying languages needs the package py3langid, which is not installed: pip install 'jaxllm[language]'"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
