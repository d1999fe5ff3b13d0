"""Text to ids and back.

    tokenizer = train(TokenizerConfig(vocab_size=4096), texts)
    ids = tokenizer.encode("Hello")
    tokenizer.save("runs/one/tokenizer")
    tokenizer = load("runs/one/tokenizer")

Every tokenizer is a `PipelineTokenizer`: the same stages, filled in by each family in its own way.
"""

from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.tokenizers.formats.load_and_write import load, write
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
    "load",
    "train",
    "train_byte_bpe",
    "write",
]
