"""What becomes of characters that a vocabulary has no token for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from jaxllm.tokenizers.stages import Span
from jaxllm.tokenizers.vocabularies.byte_tokens import BYTE_TOKENS


class UnknownCharacters:
    """They become the tokens of their bytes, or the token for what is unknown, or they are refused."""

    def __init__(self, ids: Mapping[str, int], unk_id: int | None, byte_fallback: bool, fuse: bool):
        """ids: of all tokens. byte_fallback: bytes are tokens, "<0x00>" to "<0xFF>". fuse: adjacent ones are one token.

        Raises ValueError if byte_fallback is set and a byte has no token.
        """
        self._unk_id, self._fuse = unk_id, fuse
        self._bytes = [ids.get(token) for token in BYTE_TOKENS] if byte_fallback else []
        if None in self._bytes:
            raise ValueError(
                "byte_fallback needs a token for each of the 256 bytes, but there is no "
                f"{BYTE_TOKENS[self._bytes.index(None)]}"
            )

    def resolve(self, piece: str, segments: Iterable[tuple[int, int, int | None]]) -> Iterator[tuple[int, Span]]:
        """The ids of a piece and the characters that each covers.

        segments: begin, end and id of the tokens in their order; None in place of an id says that there is none.
        Raises ValueError for an unknown character where neither bytes nor a token stand for it.
        """
        pending: Span | None = None
        for begin, end, i in segments:
            if i is None and not self._bytes:
                if self._unk_id is None:
                    raise ValueError(
                        f"the vocabulary has no token for {piece[begin:end]!r}, and none for unknown characters"
                    )
                if pending and not self._fuse:
                    yield self._unk_id, pending
                    pending = None
                pending = (pending[0] if pending else begin, end)
                continue
            if pending:
                yield self._unk_id, pending
                pending = None
            if i is not None:
                yield i, (begin, end)
                continue
            for place in range(begin, end):
                for byte in piece[place].encode("utf-8"):
                    yield self._bytes[byte], (place, place + 1)
        if pending:
            yield self._unk_id, pending
