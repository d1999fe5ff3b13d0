"""Text from ids as they are made, without broken characters."""

from __future__ import annotations

import codecs

from jaxllm.tokenizers.protocol import Tokenizer


class StreamingDecoder:
    """Gives each character of the text as soon as its last byte is there.

    What push() and flush() return, joined, is tokenizer.decode(ids).
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_begin = tokenizer.strips_space

    def push(self, token: int) -> str:
        """The text that this id completes, often "". Raises ValueError, and changes nothing, for an id out of range."""
        data = self._tokenizer.token_bytes(token)
        if data and self._at_begin:
            self._at_begin = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def flush(self) -> str:
        """The end of the text: U+FFFD if a character was left unfinished, otherwise "". Then a new text can begin."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._at_begin = self._tokenizer.strips_space
        return rest
