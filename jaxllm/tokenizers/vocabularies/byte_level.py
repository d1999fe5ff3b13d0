"""A byte-level BPE as a whole tokenizer: a cut by patterns, a vocabulary of bytes, special tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from jaxllm.tokenizers import decoders
from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.preparation.cuts import Split
from jaxllm.tokenizers.preparation.patterns import Regex
from jaxllm.tokenizers.protocol import END_OF_TEXT
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE

# Well-formed UTF-8 (Unicode standard, table 3-7), as far as it reaches.
_UTF8 = re.compile(
    rb"(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2})+"
)


def byte_level_tokenizer(
    vocabulary: ByteLevelBPE,
    split: str | Sequence[str],
    special_tokens: Mapping[str, int],
    end_of_text: str = END_OF_TEXT,
) -> PipelineTokenizer:
    """The tokenizer that cuts text by one pattern, or by several in sequence, and has these special tokens.

    Raises ValueError if a pattern is not a regular expression, if a special token has the id of another token, or if
    end_of_text is none of the special tokens.
    """
    patterns = (split,) if isinstance(split, str) else tuple(split)
    return PipelineTokenizer(
        vocabulary,
        added_tokens=[AddedToken(name, i) for name, i in special_tokens.items()],
        pre_tokenizer=[Split(Regex(pattern)) for pattern in patterns],
        decoder=decoders.Decoder((decoders.ByteLevel(),)),
        roles={"eos_token": end_of_text},
    )


def encode_byte_string(tokenizer: PipelineTokenizer, data: bytes) -> list[int]:
    """The ids of any bytes; tokenizer.decode_bytes gives them back if nothing normalizes the text.

    Each longest run of well-formed UTF-8 is encoded as text, and each run of bytes between two of them is one piece.
    Raises ValueError if the vocabulary is not one of bytes.
    """
    vocabulary = tokenizer.vocabulary
    if not isinstance(vocabulary, ByteLevelBPE):
        raise ValueError(f"bytes that are no text need a byte-level BPE, got {type(vocabulary).__name__}")
    ids, end = [], 0
    for run in _UTF8.finditer(data):
        ids += vocabulary.encode_bytes(data[end : run.start()])
        ids += tokenizer.encode(run.group().decode("utf-8"))
        end = run.end()
    return ids + list(vocabulary.encode_bytes(data[end:]))
