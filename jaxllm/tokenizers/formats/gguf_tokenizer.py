"""A tokenizer from the vocabulary fields of a GGUF file, and those fields from a tokenizer.

The format has only a name for the way in which text is cut; what the names mean is known to the programs that read
them, llama.cpp above all. A name that isn't known here is refused: a guess would give other ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxllm.tokenizers import decoders
from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.formats.gguf_vocabulary import GGUFVocabulary, TokenType
from jaxllm.tokenizers.formats.sentencepiece_model import PieceKind, ScoredPiece, SentencePieceModel, model_of
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.preparation.cuts import BertPreTokenizer, Digits, Split
from jaxllm.tokenizers.preparation.metaspace import META
from jaxllm.tokenizers.preparation.normalizers import BertNormalizer
from jaxllm.tokenizers.preparation.patterns import Regex
from jaxllm.tokenizers.preparation.sentencepiece_normalizer import SentencePieceNormalizer
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS, SPLIT_SEQUENCES
from jaxllm.tokenizers.stages import Cut
from jaxllm.tokenizers.template import Template
from jaxllm.tokenizers.vocabularies.byte_alphabet import to_bytes, to_text
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.scored_bpe import ScoredBPE
from jaxllm.tokenizers.vocabularies.unigram import Unigram
from jaxllm.tokenizers.vocabularies.wordpiece import WordPiece


def _splits(*patterns: str) -> tuple[Cut, ...]:
    return tuple(Split(Regex(pattern)) for pattern in patterns)


_GPT2, _LLAMA3, _QWEN2 = (_splits(SPLIT_PATTERNS[name]) for name in ("gpt2", "llama3", "qwen2"))

PRE_TOKENIZERS: dict[str, tuple[Cut, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "roberta-bpe", "jina-es", "jina-de", "mpt", "olmo"), _GPT2),
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone"), (Digits(True), *_GPT2)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), _QWEN2),
    **dict.fromkeys(("gpt-4o", "llama4"), _splits(SPLIT_PATTERNS["o200k"])),
    **{name: _splits(*patterns) for name, patterns in SPLIT_SEQUENCES.items()},
    "falcon": (*_splits(r"[\p{P}\$\+<=>\^~\|`]+"), *_GPT2, *_splits("[0-9][0-9][0-9]")),
}
"""How the texts of byte-level vocabularies are cut, by the name that files have for it."""

_IGNORE_MERGES = {"llama-bpe", "llama3", "llama-v3"}
_KINDS: dict[TokenType, PieceKind] = {
    TokenType.NORMAL: "normal",
    TokenType.UNKNOWN: "unknown",
    TokenType.CONTROL: "control",
    TokenType.USER_DEFINED: "user_defined",
    TokenType.UNUSED: "unused",
    TokenType.BYTE: "byte",
}
_TYPES = {kind: number for number, kind in _KINDS.items()}


def tokenizer_of(fields: GGUFVocabulary) -> PipelineTokenizer:
    """The tokenizer that the fields describe. Raises ValueError for what is malformed, or not supported: it is named.

    A WordPiece vocabulary is read as one of lowercase text without accents, since the format doesn't say.
    """
    match fields.model:
        case "gpt2":
            return _byte_level(fields)
        case "llama" | "t5":
            return _sentencepiece(fields)
        case "bert":
            return _wordpiece(fields)
    raise ValueError(f"the model {fields.model!r} of tokenizer.ggml.model is not supported; gpt2, llama, t5, bert are")


def _byte_level(fields: GGUFVocabulary) -> PipelineTokenizer:
    if fields.pre not in PRE_TOKENIZERS:
        raise ValueError(
            f"tokenizer.ggml.pre is {fields.pre!r}, so it is not known how the text is to be cut; supported are "
            f"{', '.join(PRE_TOKENIZERS)}. Convert the model anew, or load its tokenizer.json"
        )
    added = _added(fields, special=set(fields.roles.values()))
    apart = {token.id for token in added}
    vocabulary = {to_bytes(token): i for i, token in enumerate(fields.tokens) if i not in apart}
    if len(vocabulary) + len(apart) < len(fields.tokens):
        raise ValueError("tokenizer.ggml.tokens has a token twice")
    merges = []
    for rank, merge in enumerate(fields.merges or ()):
        # A token may begin with a space only in files that write no alphabet of bytes.
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise ValueError(f"merge {rank} must be two tokens with a space between them, found {merge!r}")
        merges.append((to_bytes(left), to_bytes(right)))
    return PipelineTokenizer(
        ByteLevelBPE(vocabulary, merges, ignore_merges=fields.pre in _IGNORE_MERGES),
        pre_tokenizer=PRE_TOKENIZERS[fields.pre],
        decoder=decoders.Decoder([decoders.ByteLevel()]),
        **_around(fields, added, begins=False, ends=False),
    )


def _added(fields: GGUFVocabulary, special: set[int]) -> list[AddedToken]:
    """Unused tokens are special ones that no text becomes: they keep their rows in the embedding."""
    special = special.union(*map(fields.ids_of, (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED)))
    words = set(fields.ids_of(TokenType.USER_DEFINED)) - special
    return [AddedToken(fields.tokens[i], i, special=i in special) for i in sorted(special | words)]


def _around(fields: GGUFVocabulary, added: Sequence[AddedToken], begins: bool, ends: bool) -> dict[str, object]:
    """What goes with any vocabulary. begins, ends: whether special tokens stand there, if the file doesn't say."""
    begins = begins if fields.add_bos_token is None else fields.add_bos_token
    ends = ends if fields.add_eos_token is None else fields.add_eos_token
    head = _role(fields, "bos_token", "cls_token") if begins else []
    tail = _role(fields, "eos_token", "sep_token") if ends else []
    single = (*((i, 0) for i in head), ("A", 0), *((i, 0) for i in tail))
    second = () if fields.model == "bert" else tuple((i, 1) for i in head)
    pair = (*single, *second, ("B", 1), *((i, 1) for i in tail))
    roles = {role: fields.tokens[i] for role, i in fields.roles.items()}
    if "eos_token" not in roles and "sep_token" in roles:
        roles["eos_token"] = roles["sep_token"]
    return {
        "added_tokens": added,
        "template": Template(single, pair) if head or tail else None,
        "roles": roles,
        "chat_template": fields.chat_template,
    }


def _role(fields: GGUFVocabulary, *names: str) -> list[int]:
    found = [fields.roles[name] for name in names if name in fields.roles]
    if not found:
        raise ValueError(f"the file asks for a token around the text, but names neither {' nor '.join(names)}")
    return found[:1]


def _sentencepiece(fields: GGUFVocabulary) -> PipelineTokenizer:
    bpe = fields.model == "llama"
    if fields.scores is None or fields.token_type is None:
        raise ValueError(f"a vocabulary of the model {fields.model!r} needs the lists scores and token_type")
    tokens = list(fields.tokens)
    for i in fields.ids_of(TokenType.USER_DEFINED):
        tokens[i] = tokens[i].replace(" ", META)  # files have these as they stand in the text
    defined = tuple(tokens[i] for i in fields.ids_of(TokenType.USER_DEFINED))
    kinds = [_KINDS[TokenType(kind)] for kind in fields.token_type]
    if "unknown" not in kinds and "unk_token" in fields.roles:
        kinds[fields.roles["unk_token"]] = "unknown"  # Gemma's files have it as a control token
    model = SentencePieceModel(
        "bpe" if bpe else "unigram",
        tuple(ScoredPiece(token, score, kind) for token, score, kind in zip(tokens, fields.scores, kinds, strict=True)),
        SentencePieceNormalizer(
            charsmap=fields.precompiled_charsmap or b"",
            add_dummy_prefix=fields.add_space_prefix is not False,
            remove_extra_whitespaces=bool(fields.remove_extra_whitespaces),
            user_defined=defined,
        ),
        byte_fallback=bool(fields.ids_of(TokenType.BYTE)),
    )
    steps = [decoders.Replace(META, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.normalizer.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return PipelineTokenizer(
        model.vocabulary,
        normalizer=(model.normalizer,),
        pre_tokenizer=model.cuts,
        decoder=decoders.Decoder(steps),
        **_around(fields, [AddedToken(name, i) for name, i in model.special_tokens.items()], begins=bpe, ends=not bpe),
    )


_PREFIX = "##"


def _wordpiece(fields: GGUFVocabulary) -> PipelineTokenizer:
    """Here a token that begins a word has the mark, and one that continues a word has none."""
    special = set(fields.roles.values()).union(fields.ids_of(TokenType.CONTROL))
    vocab: dict[str, int] = {}
    for i, token in enumerate(fields.tokens):
        if token.startswith(META):
            token = token[len(META) :]
        elif i not in special and not _is_name(token):
            token = _PREFIX + token
        if vocab.setdefault(token, i) != i:
            raise ValueError(f"tokenizer.ggml.tokens has the token {token!r} twice, as {vocab[token]} and {i}")
    unknown = fields.tokens[fields.roles["unk_token"]] if "unk_token" in fields.roles else "[UNK]"
    return PipelineTokenizer(
        WordPiece(vocab, unk_token=unknown),
        normalizer=(BertNormalizer(),),
        pre_tokenizer=(BertPreTokenizer(),),
        decoder=decoders.Decoder([decoders.WordPiece()]),
        **_around(fields, _added(fields, special), begins=True, ends=True),
    )


def _is_name(token: str) -> bool:
    """BERT's unused tokens, as "[unused7]", are written without a mark."""
    return len(token) > 2 and token.startswith("[") and token.endswith("]")


def fields_of(tokenizer: PipelineTokenizer) -> GGUFVocabulary:
    """The fields of a tokenizer. Raises ValueError for what the format, as llama.cpp reads it, can't say."""
    size = tokenizer.vocab_size
    tokens: list[str | None] = [None] * size
    kinds = [TokenType.NORMAL] * size
    for i, token in tokenizer.vocabulary.tokens():
        tokens[i] = token
    for added in tokenizer.added_tokens:
        tokens[added.id] = added.content
        kinds[added.id] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    for i in (i for i, token in enumerate(tokens) if token is None):
        tokens[i], kinds[i] = f"[PAD{i}]", TokenType.UNUSED
    by_text = {token: i for i, token in enumerate(tokens)}
    places = [place for place, _ in tokenizer.template.single] if tokenizer.template else ["A"]
    common = {
        "roles": {role: by_text[name] for role, name in tokenizer.roles.items()},
        "add_bos_token": places[0] != "A",
        "add_eos_token": places[-1] != "A",
        "chat_template": tokenizer.chat_template,
    }
    match tokenizer.vocabulary:
        case ByteLevelBPE() as vocabulary:
            merges = tuple(f"{to_text(left)} {to_text(right)}" for left, right in vocabulary.merges)
            return GGUFVocabulary(
                "gpt2", tuple(tokens), _pre(tokenizer), token_type=tuple(map(int, kinds)), merges=merges, **common
            )
        case WordPiece() as vocabulary:
            return _fields_of_wordpiece(tokenizer, vocabulary, tokens, kinds, common)
        case ScoredBPE() | Unigram() as vocabulary:
            return _fields_of_sentencepiece(tokenizer, vocabulary, common)
    raise ValueError(
        f"a GGUF file can't hold a vocabulary of the class {type(tokenizer.vocabulary).__name__}: it has no scores"
    )


def _pre(tokenizer: PipelineTokenizer) -> str:
    ignores = tokenizer.vocabulary.ignore_merges
    fitting = [name for name, steps in PRE_TOKENIZERS.items() if steps == tokenizer.pre_tokenizer]
    # With the ranks of tokens, the whole piece is what the merges would come to as well.
    exact = [name for name in fitting if (name in _IGNORE_MERGES) == ignores]
    names = exact or (fitting if tokenizer.vocabulary.is_by_ranks else [])
    if not names or tokenizer.normalizer:
        raise ValueError(
            "GGUF has no name for the way in which this tokenizer normalizes and cuts text: "
            f"{[*tokenizer.normalizer, *tokenizer.pre_tokenizer]}"
        )
    return names[0]


def _fields_of_wordpiece(tokenizer, vocabulary: WordPiece, tokens, kinds, common) -> GGUFVocabulary:
    if tokenizer.normalizer != (BertNormalizer(),) or tokenizer.pre_tokenizer != (BertPreTokenizer(),):
        raise ValueError(
            "a GGUF file can only hold a WordPiece vocabulary of text normalized by BertNormalizer() and cut by "
            f"BertPreTokenizer(), not by {[*tokenizer.normalizer, *tokenizer.pre_tokenizer]}"
        )
    prefix = vocabulary.continuing_subword_prefix
    for i, token in enumerate(tokens):
        if kinds[i] != TokenType.NORMAL or _is_name(token):
            continue
        tokens[i] = token[len(prefix) :] if token.startswith(prefix) and token != prefix else META + token
    return GGUFVocabulary("bert", tuple(tokens), "bert-bge", token_type=tuple(map(int, kinds)), **common)


def _fields_of_sentencepiece(tokenizer, vocabulary: ScoredBPE | Unigram, common) -> GGUFVocabulary:
    match tokenizer.normalizer:
        case (SentencePieceNormalizer(escape_whitespaces=True, treat_whitespace_as_suffix=False) as normalizer,):
            pass
        case steps:
            raise ValueError(f"a GGUF file can only hold SentencePiece's normalization of white space, not {steps}")
    bpe = isinstance(vocabulary, ScoredBPE)
    if bpe and (normalizer.charsmap or normalizer.remove_extra_whitespaces):
        raise ValueError("a GGUF file can't hold a SentencePiece BPE with replacements or removal of white space")
    special = {token.content: token.id for token in tokenizer.added_tokens if token.special}
    special = {name: i for name, i in special.items() if i != vocabulary.unk_id}
    model = model_of(vocabulary, normalizer, special)
    return GGUFVocabulary(
        "llama" if bpe else "t5",
        tuple(p.text.replace(META, " ") if p.kind == "user_defined" else p.text for p in model.pieces),
        "default",
        scores=tuple(piece.score for piece in model.pieces),
        token_type=tuple(int(_TYPES[piece.kind]) for piece in model.pieces),
        add_space_prefix=normalizer.add_dummy_prefix,
        remove_extra_whitespaces=normalizer.remove_extra_whitespaces,
        precompiled_charsmap=normalizer.charsmap or None,
        **common,
    )
