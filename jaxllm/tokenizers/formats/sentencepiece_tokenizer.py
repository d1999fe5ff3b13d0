"""SentencePiece's models as tokenizers, and tokenizers as its models."""

from __future__ import annotations

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.decoders import ByteFallback, Decoder, Fuse, Replace, Strip
from jaxllm.tokenizers.formats.sentencepiece_model import SentencePieceModel, model_of
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.preparation.metaspace import META
from jaxllm.tokenizers.preparation.normalizers import Prepend
from jaxllm.tokenizers.preparation.normalizers import Replace as ReplaceText
from jaxllm.tokenizers.preparation.patterns import String
from jaxllm.tokenizers.preparation.sentencepiece_normalizer import SentencePieceNormalizer
from jaxllm.tokenizers.vocabularies.byte_tokens import BYTE_TOKENS
from jaxllm.tokenizers.vocabularies.scored_bpe import ScoredBPE
from jaxllm.tokenizers.vocabularies.unigram import Unigram


def is_sentencepiece(tokenizer: PipelineTokenizer) -> bool:
    """Whether texts are prepared as SentencePiece alone does it, which only its own files can say."""
    return any(isinstance(step, SentencePieceNormalizer) for step in tokenizer.normalizer)


def tokenizer_of_model(model: SentencePieceModel) -> PipelineTokenizer:
    """The tokenizer that gives the ids, places and texts which the library gives with this model."""
    prefixed = model.normalizer.add_dummy_prefix and not model.normalizer.treat_whitespace_as_suffix
    steps = [Replace(META, " "), ByteFallback(), Fuse()]
    names = {"bos_token": model.bos_piece, "eos_token": model.eos_piece, "pad_token": model.pad_piece}
    names["unk_token"] = model.pieces[model.unk_id].text
    return PipelineTokenizer(
        model.vocabulary,
        added_tokens=[AddedToken(name, i) for name, i in model.special_tokens.items()],
        normalizer=(model.normalizer,),
        pre_tokenizer=model.cuts,
        decoder=Decoder([*steps, Strip(" ", 1, 0)] if prefixed else steps),
        roles={role: name for role, name in names.items() if name in model.special_tokens},
    )


def model_of_tokenizer(tokenizer: PipelineTokenizer) -> SentencePieceModel:
    """The model that does what a tokenizer does, but for its templates. Raises ValueError where there is none."""
    vocabulary = tokenizer.vocabulary
    if not isinstance(vocabulary, Unigram | ScoredBPE):
        kind = type(vocabulary).__name__
        raise ValueError(f"the format sentencepiece is for Unigram or ScoredBPE, this is {kind}")
    match tokenizer.normalizer:
        case (SentencePieceNormalizer() as normalizer,):
            special = {name: i for name, i in tokenizer.special_tokens.items() if i != vocabulary.unk_id}
        case (Prepend(prepend), ReplaceText(String(" "), content)) if prepend == content == META:
            # What is trained here: all spaces are kept, and special tokens stand behind the vocabulary.
            normalizer = SentencePieceNormalizer(remove_extra_whitespaces=False)
            vocabulary, special = _with_special_tokens(vocabulary, tokenizer)
        case steps:
            names = ", ".join(type(step).__name__ for step in steps) or "none"
            raise ValueError(f"the format sentencepiece can't express the normalizer {names}")
    names = {f"{role.removesuffix('_token')}_piece": name for role, name in tokenizer.roles.items()}
    known = {name: piece for name, piece in names.items() if name in ("bos_piece", "eos_piece", "pad_piece")}
    return model_of(vocabulary, normalizer, special, **known)


def _with_special_tokens(vocabulary: Unigram, tokenizer: PipelineTokenizer) -> tuple[Unigram, dict[str, int]]:
    special = {name: i for name, i in tokenizer.special_tokens.items() if i != vocabulary.unk_id}
    after = sorted((i, name) for name, i in special.items() if i >= len(vocabulary.pieces))
    if [i for i, _ in after] != list(range(len(vocabulary.pieces), len(vocabulary.pieces) + len(after))):
        raise ValueError("the format sentencepiece has no gaps between ids, but the special tokens have some")
    pieces = [*vocabulary.pieces, *((name, 0.0) for _, name in after)]
    excluded = [i for i, (piece, _) in enumerate(pieces) if piece in BYTE_TOKENS or piece in special]
    return (
        Unigram(pieces, vocabulary.unk_id, vocabulary.byte_fallback, excluded=excluded, single_precision=True),
        special,
    )
