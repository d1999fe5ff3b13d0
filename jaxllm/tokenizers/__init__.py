"""Text to ids and back.

    tokenizer = train(TokenizerConfig(vocab_size=4096), texts)
    ids = tokenizer.encode("Hello")
    tokenizer.save("runs/one/tokenizer")
    tokenizer = load("runs/one/tokenizer")

A tokenizer.json that another program wrote can be loaded if it is a byte-level BPE.
"""

from jaxllm.tokenizers.byte import ByteTokenizer
from jaxllm.tokenizers.byte_bpe import ByteBPE
from jaxllm.tokenizers.character import CharacterTokenizer
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.tokenizers.kinds import load, train
from jaxllm.tokenizers.protocol import END_OF_TEXT, Tokenizer
from jaxllm.tokenizers.streaming import StreamingDecoder
from jaxllm.tokenizers.train_byte_bpe import train_byte_bpe

__all__ = [
    "END_OF_TEXT",
    "ByteBPE",
    "ByteTokenizer",
    "CharacterTokenizer",
    "StreamingDecoder",
    "Tokenizer",
    "TokenizerConfig",
    "load",
    "train",
    "train_byte_bpe",
]
