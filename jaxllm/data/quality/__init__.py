"""Filters for the quality of documents: the published rules, two trainable models, and language.

A name is imported from its file when it is first asked for.
"""

from jaxllm.lazy_names import lazy_names

_FILE_OF = {
    "Filter": "chain",
    "Chain": "chain",
    "Screening": "chain",
    "TextStatistics": "text_statistics",
    "GopherQuality": "gopher",
    "GopherRepetition": "gopher",
    "C4Quality": "c4",
    "C4Paragraphs": "c4",
    "FineWeb": "fineweb",
    "CodeLines": "code",
    "CodeCharacters": "code",
    "CodeMadeByProgram": "code",
    "CodeIsXml": "code",
    "CodeIsEncodedData": "code",
    "CodeIsMarkup": "code",
    "CODE": "code",
    "Length": "characters",
    "Characters": "characters",
    "KneserNey": "kneser_ney",
    "load_kneser_ney": "kneser_ney",
    "train_kneser_ney": "kneser_ney",
    "Perplexity": "perplexity",
    "perplexity_cutoff": "perplexity",
    "LinearClassifier": "linear_classifier",
    "load_linear_classifier": "linear_classifier",
    "train_linear_classifier": "linear_classifier",
    "Classified": "linear_classifier",
    "Language": "language",
    "ModelFileError": "model_file",
}

__all__ = list(_FILE_OF)

__getattr__, __dir__ = lazy_names(globals(), {name: f"{__name__}.{file}" for name, file in _FILE_OF.items()})
