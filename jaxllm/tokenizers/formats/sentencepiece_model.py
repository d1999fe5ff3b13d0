"""SentencePiece's model files: read into the stages of a tokenizer, and written so that the library loads them.

The files are protocol buffers, whose description comes with the sentencepiece package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from jaxllm.tokenizers.formats import storage
from jaxllm.tokenizers.preparation.metaspace import META
from jaxllm.tokenizers.preparation.sentencepiece_normalizer import SentencePieceNormalizer
from jaxllm.tokenizers.stages import Cut, Span
from jaxllm.tokenizers.vocabularies.byte_tokens import BYTE_TOKENS
from jaxllm.tokenizers.vocabularies.scored_bpe import ScoredBPE
from jaxllm.tokenizers.vocabularies.text_unigram import WORD, TextUnigram
from jaxllm.tokenizers.vocabularies.unigram import Unigram

PieceKind = Literal["normal", "unknown", "control", "user_defined", "unused", "byte"]
"""In the order of the numbers that stand for them in a file, from 1 on."""

_ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


class ScoredPiece(NamedTuple):
    """A token, the score that decides where it is made, and what it is for."""

    text: str
    score: float = 0.0
    kind: PieceKind = "normal"


@dataclass(frozen=True)
class WordBoundaries:
    """Cuts before the symbols for spaces, which few tokens reach across; those that stand together stay so.

    It changes no ids, but short pieces are encoded faster and can be remembered.
    """

    def __call__(self, text: str) -> list[str]:
        return WORD.findall(text)

    def spans(self, text: str) -> list[Span]:
        return [match.span() for match in WORD.finditer(text)]


@dataclass(frozen=True)
class SentencePieceModel:
    """What a model file says; the place of a piece is its id.

    Raises ValueError for pieces that are no vocabulary: empty ones, two of the same text, no or several unknown ones.
    """

    algorithm: Literal["unigram", "bpe"]
    pieces: tuple[ScoredPiece, ...] = field(repr=False)
    normalizer: SentencePieceNormalizer = SentencePieceNormalizer()
    byte_fallback: bool = False
    bos_piece: str = "<s>"
    """the control token that begins a text; there may be none of that name"""
    eos_piece: str = "</s>"
    pad_piece: str = "<pad>"
    unk_surface: str = " \u2047 "
    """what the library shows for an unknown token"""

    def __post_init__(self):
        if self.algorithm not in ("unigram", "bpe"):
            raise ValueError(
                f'a SentencePiece model of the type "{self.algorithm}" is not supported, only "unigram" and "bpe" are'
            )
        if wrong := {piece.kind for piece in self.pieces} - set(get_args(PieceKind)):
            raise ValueError(f"unknown kinds of pieces: {sorted(wrong)}; there are {', '.join(get_args(PieceKind))}")
        if len(unknown := self._of_kind("unknown")) != 1:
            raise ValueError(f"a SentencePiece model needs exactly one unknown piece, this has {len(unknown)}")
        defined = {self.pieces[i].text for i in self._of_kind("user_defined")}
        if defined != set(self.normalizer.user_defined):
            raise ValueError(
                "the normalizer must leave the user-defined pieces alone, and no other text: set its user_defined to "
                f"the {len(defined)} pieces of that kind"
            )
        self.vocabulary  # noqa: B018 - what is wrong with the pieces is found here and not later

    @cached_property
    def vocabulary(self) -> Unigram | ScoredBPE:
        """Gives the ids that the library gives."""
        pieces = [(piece.text, piece.score) for piece in self.pieces]
        apart = self._of_kind("control", "unknown", "byte")
        defined, unused = self._of_kind("user_defined"), self._of_kind("unused")
        if self.algorithm == "bpe":
            return ScoredBPE(
                pieces, self.unk_id, self.byte_fallback, excluded=apart, user_defined=defined, unused=unused
            )
        return TextUnigram(
            pieces,
            self.unk_id,
            self.byte_fallback,
            excluded=apart | unused,
            user_defined=defined,
            single_precision=True,
        )

    @property
    def unk_id(self) -> int:
        return min(self._of_kind("unknown"))

    @property
    def special_tokens(self) -> dict[str, int]:
        """The ids of the control tokens and of the unknown one."""
        return {self.pieces[i].text: i for i in sorted(self._of_kind("control", "unknown"))}

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Where a text may be cut before it is encoded, without any change of ids: at words, or nowhere.

        Unigram's scores are added up along a whole text and rounded, so a cut could decide between equally good rows.
        """
        known = any(piece.text == META and piece.kind == "normal" for piece in self.pieces)
        across = re.compile(f"[^{META}]{META}")
        crossed = any(across.search(piece.text) for piece in self.pieces)
        return (WordBoundaries(),) if self.algorithm == "bpe" and known and not crossed else ()

    def _of_kind(self, *kinds: PieceKind) -> frozenset[int]:
        return frozenset(i for i, piece in enumerate(self.pieces) if piece.kind in kinds)


def model_of(
    vocabulary: Unigram | ScoredBPE,
    normalizer: SentencePieceNormalizer,
    special_tokens: Mapping[str, int],
    **settings: str,
) -> SentencePieceModel:
    """The model of a vocabulary, where special_tokens, but the unknown one, are control tokens.

    settings: other fields of SentencePieceModel. Raises ValueError for a vocabulary that has no unknown token, or one
    of the special tokens elsewhere.
    """
    if vocabulary.unk_id is None:
        raise ValueError("a SentencePiece model must have an unknown token, but the vocabulary has no unk_id")
    bpe = isinstance(vocabulary, ScoredBPE)
    kinds: dict[int, PieceKind] = dict.fromkeys(vocabulary.user_defined, "user_defined")
    kinds |= dict.fromkeys(vocabulary.unused if bpe else (), "unused")
    for i in vocabulary.excluded:
        kinds[i] = "byte" if vocabulary.byte_fallback and vocabulary.pieces[i][0] in BYTE_TOKENS else "unused"
    for name, i in special_tokens.items():
        if not 0 <= i < len(vocabulary.pieces) or vocabulary.pieces[i][0] != name:
            raise ValueError(f"the special token {name!r} is not the piece of id {i} of the vocabulary")
        kinds[i] = "control"
    kinds[vocabulary.unk_id] = "unknown"
    pieces = tuple(
        ScoredPiece(text, score, kinds.get(i, "normal")) for i, (text, score) in enumerate(vocabulary.pieces)
    )
    return SentencePieceModel(
        "bpe" if bpe else "unigram", pieces, normalizer, byte_fallback=vocabulary.byte_fallback, **settings
    )


def read_sentencepiece(path: str | PathLike[str]) -> SentencePieceModel:
    """Reads a model file. Raises ValueError for one that is damaged, or asks for what is not supported."""
    try:
        return parse_sentencepiece(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_sentencepiece(data: bytes) -> SentencePieceModel:
    """The model that the content of a file describes."""
    from google.protobuf.message import DecodeError

    proto = _schema().ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(f"this is no SentencePiece model, or a damaged one: {error}") from error
    if not proto.pieces:
        raise ValueError("this is no SentencePiece model: it has no pieces")
    for name in ("precompiled_charsmap", "normalization_rule_tsv"):
        if getattr(proto.denormalizer_spec, name):
            raise ValueError(
                f"the model changes text after decoding (denormalizer_spec.{name}), which is not supported"
            )
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    kinds = get_args(PieceKind)
    pieces = tuple(ScoredPiece(piece.piece, piece.score, kinds[piece.type - 1]) for piece in proto.pieces)
    return SentencePieceModel(
        algorithm=_ALGORITHMS.get(trainer.model_type, str(trainer.model_type)),
        pieces=pieces,
        normalizer=SentencePieceNormalizer(
            charsmap=rules.precompiled_charsmap,
            add_dummy_prefix=rules.add_dummy_prefix,
            remove_extra_whitespaces=rules.remove_extra_whitespaces,
            escape_whitespaces=rules.escape_whitespaces,
            treat_whitespace_as_suffix=trainer.treat_whitespace_as_suffix,
            user_defined=tuple(piece.text for piece in pieces if piece.kind == "user_defined"),
        ),
        byte_fallback=trainer.byte_fallback,
        bos_piece=trainer.bos_piece,
        eos_piece=trainer.eos_piece,
        pad_piece=trainer.pad_piece,
        unk_surface=trainer.unk_surface,
    )


def write_sentencepiece(model: SentencePieceModel, path: str | PathLike[str]) -> None:
    """Writes a model file."""
    storage.replace_file(path, serialize_sentencepiece(model))


def serialize_sentencepiece(model: SentencePieceModel) -> bytes:
    """The content of the file that parse_sentencepiece reads as this model, and the library as well."""
    proto = _schema().ModelProto()
    numbers = {kind: i for i, kind in enumerate(get_args(PieceKind), 1)}
    for piece in model.pieces:
        proto.pieces.add(piece=piece.text, score=piece.score, type=numbers[piece.kind])
    trainer, rules, normalizer = proto.trainer_spec, proto.normalizer_spec, model.normalizer
    ids = {piece.text: i for i, piece in enumerate(model.pieces)}
    trainer.model_type = {name: number for number, name in _ALGORITHMS.items()}[model.algorithm]
    trainer.vocab_size = len(model.pieces)
    trainer.byte_fallback = model.byte_fallback
    trainer.treat_whitespace_as_suffix = normalizer.treat_whitespace_as_suffix
    trainer.unk_id, trainer.unk_piece = model.unk_id, model.pieces[model.unk_id].text
    trainer.unk_surface = model.unk_surface
    for name in ("bos", "eos", "pad"):
        text = getattr(model, f"{name}_piece")
        setattr(trainer, f"{name}_piece", text)
        setattr(trainer, f"{name}_id", ids.get(text, -1))
    rules.name = "user_defined" if normalizer.charsmap else "identity"
    rules.precompiled_charsmap = normalizer.charsmap
    rules.add_dummy_prefix = normalizer.add_dummy_prefix
    rules.remove_extra_whitespaces = normalizer.remove_extra_whitespaces
    rules.escape_whitespaces = normalizer.escape_whitespaces
    return proto.SerializeToString(deterministic=True)


def _schema():
    """The generated classes of the file format."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise ImportError(
            "SentencePiece model files need the packages sentencepiece and protobuf: pip install sentencepiece protobuf"
        ) from error
    return sentencepiece_model_pb2
