"""Text to ids and back.

    tokenizer = train(TokenizerConfig(vocab_size=4096), texts)
    ids = tokenizer.encode("Hello")
    tokenizer.save("runs/one/tokenizer")
    tokenizer = load("runs/one/tokenizer")

Every tokenizer is a `PipelineTokenizer`: the same stages, filled in by each family in its own way.
These names are imported when they are first used, since a worker process needs few of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxllm.lazy_names import lazy_names

if TYPE_CHECKING:
    from jaxllm.tokenizers.config import TokenizerConfig
    from jaxllm.tokenizers.formats.load_and_write import has_tokenizer, load, write
    from jaxllm.tokenizers.kinds import train
    from jaxllm.tokenizers.pipeline import PipelineTokenizer
    from jaxllm.tokenizers.protocol import END_OF_TEXT, Encoding, Tokenizer
    from jaxllm.tokenizers.streaming import StreamingDecoder
    from jaxllm.tokenizers.training.train_byte_bpe import train_byte_bpe

__all__ = [
    "END_OF_TEXT",
    "Encoding",
    "PipelineTokenizer",
    "StreamingDecoder",
    "Tokenizer",
    "TokenizerConfig",
    "has_tokenizer",
    "load",
    "train",
    "train_byte_bpe",
    "write",
]

_HOME = {
    "TokenizerConfig": "jaxllm.tokenizers.config",
    "has_tokenizer": "jaxllm.tokenizers.formats.load_and_write",
    "load": "jaxllm.tokenizers.formats.load_and_write",
    "write": "jaxllm.tokenizers.formats.load_and_write",
    "train": "jaxllm.tokenizers.kinds",
    "PipelineTokenizer": "jaxllm.tokenizers.pipeline",
    "END_OF_TEXT": "jaxllm.tokenizers.protocol",
    "Encoding": "jaxllm.tokenizers.protocol",
    "Tokenizer": "jaxllm.tokenizers.protocol",
    "StreamingDecoder": "jaxllm.tokenizers.streaming",
    "train_byte_bpe": "jaxllm.tokenizers.training.train_byte_bpe",
}

__getattr__, __dir__ = lazy_names(globals(), _HOME)
