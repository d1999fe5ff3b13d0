"""Tokenizers in the files of other programs: which reader a path is for, and writing each format."""

from __future__ import annotations

import re
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.decoders import Decoder
from jaxllm.tokenizers.decoders import WordPiece as WordPieceDecoder
from jaxllm.tokenizers.formats import gguf_tokenizer, gguf_vocabulary, storage
from jaxllm.tokenizers.formats.bert_vocab import read_vocab, write_vocab
from jaxllm.tokenizers.formats.folder import CONFIG_FILE, MODEL_NAMES, read_folder, read_model_folder
from jaxllm.tokenizers.formats.gpt2_files import MERGES_NAMES, VOCABULARY_NAMES, read_gpt2, write_gpt2
from jaxllm.tokenizers.formats.sentencepiece_model import read_sentencepiece, write_sentencepiece
from jaxllm.tokenizers.formats.sentencepiece_tokenizer import model_of_tokenizer, tokenizer_of_model
from jaxllm.tokenizers.formats.tiktoken_files import ENCODINGS, ranks_of, read_ranks, read_tiktoken, write_ranks
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.preparation.cuts import BertPreTokenizer
from jaxllm.tokenizers.preparation.normalizers import BertNormalizer
from jaxllm.tokenizers.template import bert_template
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.wordpiece import WordPiece

Format = Literal["huggingface", "tiktoken", "gpt2", "sentencepiece", "bert", "gguf"]


def load(path: str | PathLike[str]) -> PipelineTokenizer:
    """The tokenizer at a path: a file in one of the formats, or a directory that has one.

    A directory may also be that of a run or a saved model, with the tokenizer in it. Raises ValueError, naming the
    file, if there is none, if it is damaged, or asks for what is not supported.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: there is no tokenizer here; name a directory or a file that has one")
    if path.is_dir():
        return _load_directory(path)
    if ".model" in path.suffixes:  # Mistral's are named tokenizer.model.v3
        return tokenizer_of_model(read_sentencepiece(path))
    match path.suffix:
        case ".tiktoken":
            return read_tiktoken(path, _encoding_of(path))
        case ".gguf":
            return gguf_tokenizer.tokenizer_of(gguf_vocabulary.read_gguf_vocabulary(path))
        case ".txt" if path.name not in MERGES_NAMES:
            return bert_tokenizer(path)
    if path.name in VOCABULARY_NAMES + MERGES_NAMES:
        return read_gpt2(path.parent)
    return read_folder(path)


def has_tokenizer(directory: Path) -> bool:
    """Whether `load` would find one in this directory."""
    return any((directory / name).exists() for name, _ in _readers())


def _load_directory(directory: Path) -> PipelineTokenizer:
    for name, read in _readers():
        if (directory / name).exists():
            return read(directory / name)
    raise ValueError(f"{directory}: there is no tokenizer here; looked for {', '.join(name for name, _ in _readers())}")


def _readers() -> list[tuple[str, Callable[[Path], PipelineTokenizer]]]:
    """What is most explicit comes first: a tokenizer.json says everything, a vocab.txt next to nothing."""
    return [
        (storage.FILE_NAME, read_folder),
        ("tokenizer", load),
        *((name, read_model_folder) for name in MODEL_NAMES),
        *((name, lambda file: read_gpt2(file.parent)) for name in VOCABULARY_NAMES),
        ("vocab.txt", load),
    ]


def _encoding_of(path: Path) -> str:
    if path.stem in ENCODINGS:
        return path.stem
    size = len(read_ranks(path))
    fitting = [name for name, encoding in ENCODINGS.items() if encoding.ranks == size]
    if len(fitting) != 1:
        raise ValueError(
            f"{path}: a rank file doesn't say how text is cut; rename it to that of its encoding, one of "
            f"{', '.join(ENCODINGS)}, or use jaxllm.tokenizers.formats.tiktoken_files.read_tiktoken"
        )
    return fitting[0]


def bert_tokenizer(path: str | PathLike[str]) -> PipelineTokenizer:
    """The tokenizer of a vocab.txt. Text is lowercased if a tokenizer_config.json beside it says so, or without one if
    no token has a capital letter."""
    path = Path(path)
    vocab = read_vocab(path)
    config = path.with_name(CONFIG_FILE)
    lowercase = storage.read_object(config).get("do_lower_case") if config.is_file() else None
    if lowercase is None:
        lowercase = not any(re.search("[A-Z]", token) for token in vocab if not re.fullmatch(r"\[.*\]", token))
    named = {
        f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "CLS", "SEP", "PAD", "MASK") if f"[{name}]" in vocab
    }
    if absent := {"unk_token", "cls_token", "sep_token"} - named.keys():
        raise ValueError(
            f"{path}: BERT's vocabularies have [UNK], [CLS] and [SEP], this one lacks {len(absent)} of them"
        )
    return PipelineTokenizer(
        WordPiece(vocab),
        added_tokens=[AddedToken(name, vocab[name]) for name in named.values()],
        normalizer=[BertNormalizer(lowercase=bool(lowercase))],
        pre_tokenizer=[BertPreTokenizer()],
        decoder=Decoder([WordPieceDecoder()]),
        template=bert_template(vocab["[CLS]"], vocab["[SEP]"]),
        roles=named | {"eos_token": "[SEP]"},
    )


def write(tokenizer: PipelineTokenizer, path: str | PathLike[str], format: Format) -> None:
    """Writes a tokenizer in a format: a directory for "huggingface" and "gpt2", a file for the others.

    Raises ValueError, naming it, for what the format can't express.
    """
    match format:
        case "huggingface":
            tokenizer.save(path)
        case "tiktoken":
            write_ranks(path, ranks_of(_only(tokenizer, format, ByteLevelBPE)))
        case "gpt2":
            _only(tokenizer, format, ByteLevelBPE)
            write_gpt2(path, tokenizer)
        case "bert":
            write_vocab(path, _only(tokenizer, format, WordPiece, normalizer=True).vocab)
        case "sentencepiece":
            write_sentencepiece(model_of_tokenizer(tokenizer), path)
        case "gguf":
            gguf_vocabulary.write_gguf_vocabulary(path, gguf_tokenizer.fields_of(tokenizer))
        case _:
            raise ValueError(f"the format {format!r} is unknown; there are {', '.join(get_args(Format))}")


def _only(tokenizer: PipelineTokenizer, format: str, *kinds: type, normalizer: bool = False):
    """The vocabulary, if it is of one of these kinds and nothing is done to a text before it."""
    if not isinstance(tokenizer.vocabulary, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"the format {format} is for {expected}, this is {type(tokenizer.vocabulary).__name__}")
    if tokenizer.normalizer and not normalizer:
        names = ", ".join(type(step).__name__ for step in tokenizer.normalizer)
        raise ValueError(f"the format {format} has no place for the normalizer {names}")
    return tokenizer.vocabulary
