"""The model of a Hugging Face tokenizer.json and the vocabularies here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.formats.tokenizer_json_steps import as_list, as_object
from jaxllm.tokenizers.stages import Vocabulary
from jaxllm.tokenizers.vocabularies.byte_alphabet import to_bytes, to_text
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.character_bpe import CharacterBPE
from jaxllm.tokenizers.vocabularies.unigram import Unigram
from jaxllm.tokenizers.vocabularies.wordpiece import WordLevel, WordPiece

_BPE_TYPES = {
    "unk_token": (str, type(None)),
    "byte_fallback": (bool,),
    "fuse_unk": (bool,),
    "ignore_merges": (bool,),
    "continuing_subword_prefix": (str, type(None)),
    "end_of_word_suffix": (str, type(None)),
}


def read_model(model: Any, byte_level: bool, added: Sequence[AddedToken]) -> Vocabulary:
    """The vocabulary. added: the added tokens, which many files repeat among the others.

    Raises ValueError for a model that is malformed, or that has a feature which is not supported: it is named.
    """
    model = as_object(model, "model")
    kind = model.get("type") or _kind_without_name(model)
    if byte_level and kind != "BPE":
        raise ValueError(f"the model {kind!r} with the pre_tokenizer ByteLevel is not supported; only BPE is")
    match kind:
        case "BPE":
            return _read_bpe(model, byte_level, added)
        case "WordPiece":
            return WordPiece(
                _vocab(model.get("vocab")),
                unk_token=_typed(model, "unk_token", (str,), "[UNK]"),
                continuing_subword_prefix=_typed(model, "continuing_subword_prefix", (str,), "##"),
                max_input_chars_per_word=_typed(model, "max_input_chars_per_word", (int,), 100),
            )
        case "WordLevel":
            return WordLevel(_vocab(model.get("vocab")), _typed(model, "unk_token", (str,), "<unk>"))
        case "Unigram":
            pieces = [_scored(entry, i) for i, entry in enumerate(as_list(model.get("vocab"), "vocab"))]
            return Unigram(
                pieces,
                _typed(model, "unk_id", (int, type(None)), None),
                _typed(model, "byte_fallback", (bool,), False),
                # Or text that looks like a special token would become it.
                excluded=[token.id for token in added if token.special and token.id < len(pieces)],
            )
    raise ValueError(f'the model is of type {kind!r}; supported are "BPE", "WordPiece", "Unigram" and "WordLevel"')


def _kind_without_name(model: Mapping[str, Any]) -> str | None:
    """Older files don't say."""
    if "merges" in model:
        return "BPE"
    return "Unigram" if "unk_id" in model else "WordPiece" if "max_input_chars_per_word" in model else None


def _read_bpe(model: Mapping[str, Any], byte_level: bool, added: Sequence[AddedToken]) -> ByteLevelBPE | CharacterBPE:
    if model.get("dropout") not in (None, 0):
        raise ValueError(
            f"the model's feature dropout={model['dropout']!r} is not supported: ids should depend on the text alone"
        )
    settings = {name: _typed(model, name, types, None) for name, types in _BPE_TYPES.items() if model.get(name)}
    merges = [_merge(entry, rank) for rank, entry in enumerate(as_list(model.get("merges"), "merges"))]
    vocab = _vocab(model.get("vocab"))
    if not byte_level:
        return CharacterBPE(vocab, merges, **settings)
    ignore_merges = settings.pop("ignore_merges", False)
    settings.pop("unk_token", None)  # every byte is a token, so nothing is unknown
    settings.pop("fuse_unk", None)
    if settings:
        name, value = next(iter(settings.items()))
        raise ValueError(f"the model's feature {name}={value!r} is not supported in a vocabulary of bytes")
    for token in added:
        if vocab.pop(token.content, token.id) != token.id:
            raise ValueError(
                f"the added token {token.content!r} has the id {token.id}, but another one in the vocabulary"
            )
    tokens = {to_bytes(token): i for token, i in vocab.items()}
    return ByteLevelBPE(
        tokens, [(to_bytes(left), to_bytes(right)) for left, right in merges], ignore_merges=ignore_merges
    )


def _vocab(vocab: Any) -> dict[str, int]:
    for text, i in as_object(vocab, "vocab").items():
        if type(i) is not int:
            raise ValueError(f"the id of {text!r} is {i!r}, not an integer")
    return dict(vocab)


def _scored(entry: Any, i: int) -> tuple[str, float]:
    match entry:
        case [str(piece), float() | int() as score] if type(score) is not bool:
            return piece, float(score)
    raise ValueError(f"entry {i} of the vocabulary must be a piece and its score, found {entry!r}")


def _typed(model: Mapping[str, Any], name: str, types: tuple[type, ...], default: Any) -> Any:
    value = model.get(name, default)
    if type(value) not in types:
        expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
        raise ValueError(f"the model's {name} must be {expected}, found {value!r}")
    return value


def _merge(entry: Any, rank: int) -> tuple[str, str]:
    """A merge is two tokens: a list of them in newer files, with a space between them in older ones."""
    match entry.split(" ") if isinstance(entry, str) else entry:
        case [str(left), str(right)] if left and right:
            return left, right
    raise ValueError(f"merge {rank} must be two tokens, found {entry!r}")


def write_model(vocabulary: Vocabulary, special: Sequence[AddedToken]) -> dict[str, Any]:
    """The model. special: tokens of a byte-level vocabulary that files repeat in it.

    Raises ValueError for a vocabulary that the format has no word for.
    """
    match vocabulary:
        case ByteLevelBPE():
            ids = {to_text(token): i for token, i in vocabulary.vocabulary.items()}
            ids |= {token.content: token.id for token in special}
            merges = [(to_text(left), to_text(right)) for left, right in vocabulary.merges]
            return _bpe(ids, merges, ignore_merges=vocabulary.ignore_merges)
        case CharacterBPE():
            return _bpe(
                vocabulary.vocab,
                vocabulary.merges,
                **{name: getattr(vocabulary, name) or None for name in _BPE_TYPES if not _is_flag(name)},
                **{name: getattr(vocabulary, name) for name in _BPE_TYPES if _is_flag(name)},
            )
        case WordPiece():
            return {
                "type": "WordPiece",
                "unk_token": vocabulary.unk_token,
                "continuing_subword_prefix": vocabulary.continuing_subword_prefix,
                "max_input_chars_per_word": vocabulary.max_input_chars_per_word,
                "vocab": _by_id(vocabulary.vocab),
            }
        case WordLevel():
            return {"type": "WordLevel", "vocab": _by_id(vocabulary.vocab), "unk_token": vocabulary.unk_token}
        case Unigram():
            return {
                "type": "Unigram",
                "unk_id": vocabulary.unk_id,
                "vocab": [[piece, score] for piece, score in vocabulary.pieces],
                "byte_fallback": vocabulary.byte_fallback,
            }
    raise ValueError(
        f"tokenizer.json has no model for {type(vocabulary).__name__}: the scores of a SentencePiece model can be "
        "written as a SentencePiece model only"
    )


def _is_flag(name: str) -> bool:
    return _BPE_TYPES[name] == (bool,)


def _bpe(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], **settings: Any) -> dict[str, Any]:
    # A space inside a token would make "a b" ambiguous, so such merges are written as lists.
    spaced = any(" " in left + right for left, right in merges)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": _by_id(ids),
        "merges": [list(merge) if spaced else " ".join(merge) for merge in merges],
    }


def _by_id(vocab: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(vocab.items(), key=lambda item: item[1]))
