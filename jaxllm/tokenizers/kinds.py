"""The kinds of tokenizers there are: what each is composed of, and training one from a config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.config import BERT_TOKENS, TokenizerConfig
from jaxllm.tokenizers.decoders import ByteFallback, ByteLevel, Decoder, Fuse, Replace, Strip, WordPiece, Words
from jaxllm.tokenizers.formats.load_and_write import load
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.preparation import normalizers
from jaxllm.tokenizers.preparation.cuts import BertPreTokenizer, Split, Whitespace
from jaxllm.tokenizers.preparation.metaspace import META, Metaspace
from jaxllm.tokenizers.preparation.patterns import Regex, String
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS, SPLIT_SEQUENCES
from jaxllm.tokenizers.protocol import END_OF_TEXT
from jaxllm.tokenizers.stages import Cut, Preparation, Rewrite, Vocabulary
from jaxllm.tokenizers.template import bert_template
from jaxllm.tokenizers.training.counting import count_pieces
from jaxllm.tokenizers.training.train_byte_bpe import learn_byte_bpe
from jaxllm.tokenizers.training.train_character_bpe import learn_character_bpe
from jaxllm.tokenizers.training.train_unigram import learn_unigram
from jaxllm.tokenizers.training.train_wordpiece import train_wordpiece
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.character_bpe import CharacterBPE
from jaxllm.tokenizers.vocabularies.unigram import Unigram
from jaxllm.tokenizers.vocabularies.wordpiece import WordLevel

_UNKNOWN = "<unk>"

_NORMALIZERS = {
    "nfc": normalizers.NFC(),
    "nfd": normalizers.NFD(),
    "nfkc": normalizers.NFKC(),
    "nfkd": normalizers.NFKD(),
    "lowercase": normalizers.Lowercase(),
    "strip_accents": normalizers.StripAccents(),
}


def train(config: TokenizerConfig, texts: Iterable[str], processes: int = 1) -> PipelineTokenizer:
    """The tokenizer that the config asks for: trained on the texts, or loaded where config.path names one.

    The texts may come in any order, and processes only change how long it takes. Raises ValueError if the texts are
    empty or too few for config.vocab_size, and what `load` raises.
    """
    if config.path:
        return load(config.path)
    normalizer = tuple(_NORMALIZERS[name] for name in config.normalization)
    if config.kind == "byte":
        byte_ids = {bytes([byte]): byte for byte in range(256)}
        return _compose(config, ByteLevelBPE(byte_ids, []), normalizer, (), Decoder([ByteLevel()]))
    steps, decoder = _stages(config)
    if config.kind in ("unigram", "sentencepiece_bpe"):
        # A space stands before each word, the first one too, so that a word is the same token wherever it is.
        normalizer += (normalizers.Prepend(META), normalizers.Replace(String(" "), META))
    pieces = count_pieces(texts, Preparation(normalizer, steps), processes)
    if not pieces:
        raise ValueError("there is no text to train a tokenizer on")
    return _compose(config, _learn(config, pieces), normalizer, steps, decoder)


def _stages(config: TokenizerConfig) -> tuple[tuple[Rewrite | Cut, ...], Decoder]:
    """How text is cut, and how tokens become text again."""
    match config.kind:
        case "byte_bpe":
            patterns = SPLIT_SEQUENCES.get(config.split) or (SPLIT_PATTERNS[config.split],)
            return tuple(Split(Regex(pattern)) for pattern in patterns), Decoder([ByteLevel()])
        case "unigram" | "sentencepiece_bpe":
            joined = Decoder([Replace(META, " "), ByteFallback(), Fuse(), Strip(" ", 1, 0)])
            return Metaspace(META, "never").stages(), joined
        case "wordpiece":
            return (BertPreTokenizer(),), Decoder([WordPiece()])
        case "word":
            return (Whitespace(),), Decoder([Words()])
        case "character":
            return (Split(Regex(r"[\s\S]")),), Decoder([Fuse()])
    raise AssertionError(config.kind)


def _learn(config: TokenizerConfig, pieces: Counter[str]) -> Vocabulary:
    """The vocabulary, with room for the special tokens that come after it."""
    size = config.vocab_size - len(config.special_tokens)
    match config.kind:
        case "byte_bpe":
            return learn_byte_bpe(pieces, size)
        case "unigram":
            learned = learn_unigram(pieces, size, special_tokens=(_UNKNOWN,), byte_fallback=True)
            return Unigram(_file_scores(learned.pieces), learned.unk_id, byte_fallback=True, excluded=[learned.unk_id])
        case "sentencepiece_bpe":
            scored = learn_character_bpe(pieces, size, special_tokens=(_UNKNOWN,), byte_fallback=True)
            vocab = {piece: i for i, (piece, _) in enumerate(scored.pieces)}
            return CharacterBPE(vocab, scored.merges(), unk_token=_UNKNOWN, byte_fallback=True, fuse_unk=True)
        case "wordpiece":
            return train_wordpiece(pieces, size, special_tokens=BERT_TOKENS)
        case "word":
            # The most frequent words; of equal ones those that come first in the alphabet.
            words = sorted(pieces, key=lambda word: (-pieces[word], word))[: size - 1]
            return WordLevel({_UNKNOWN: 0} | {word: i for i, word in enumerate(words, 1)}, _UNKNOWN)
        case "character":
            return WordLevel({character: i for i, character in enumerate(sorted(pieces))}, _UNKNOWN)
    raise AssertionError(config.kind)


def _file_scores(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Scores that mean the same to every program that reads them from a file.

    With few digits they are read without rounding, which would decide between rows that are as good. And files can't
    say that no text becomes the tokens of bytes, so these get a score that never wins: ten times that of the least
    probable token is less than six characters of it, as in "<0x41>".
    """
    reserved, lowest = 1 + 256, min(score for _, score in pieces)
    return [(piece, round(score if i >= reserved else 10 * lowest, 6)) for i, (piece, score) in enumerate(pieces)]


def _compose(config: TokenizerConfig, vocabulary: Vocabulary, normalizer, steps, decoder: Decoder) -> PipelineTokenizer:
    tokens = {token: i for i, token in vocabulary.tokens()}
    first = max(tokens.values()) + 1
    own = BERT_TOKENS if config.kind == "wordpiece" else (_UNKNOWN,) if _UNKNOWN in tokens else ()
    added = [AddedToken(name, tokens[name]) for name in own]
    added += [AddedToken(name, first + i) for i, name in enumerate(config.special_tokens)]
    roles = {"eos_token": END_OF_TEXT} | ({"unk_token": _UNKNOWN} if own == (_UNKNOWN,) else {})
    template = None
    if config.kind == "wordpiece":
        roles |= {f"{name.strip('[]').lower()}_token": name for name in BERT_TOKENS}
        template = bert_template(tokens["[CLS]"], tokens["[SEP]"])
    return PipelineTokenizer(
        vocabulary,
        added_tokens=added,
        normalizer=normalizer,
        pre_tokenizer=steps,
        decoder=decoder,
        template=template,
        roles=roles,
    )
