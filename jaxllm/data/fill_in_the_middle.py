"""Fill in the middle: a text is cut in three, and its middle moved to the end, so that a model trained from left to
right learns to write what stands between two others.

With the special tokens P, S and M the two orders are (Bavarian et al. 2022, sections 3 and 4.3)

    PSM:  P prefix S suffix M middle
    SPM:  P S suffix M prefix middle

and the end-of-text that follows tells where the middle is done. Which texts are turned and where they are cut depends
on the seed and on the document (or the piece of it) alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxllm.data.config import FillInTheMiddleConfig
from jaxllm.data.shard_writer import Encoding

if TYPE_CHECKING:
    from jaxllm.data.documents import Document
    from jaxllm.tokenizers import Tokenizer


@dataclass(frozen=True)
class Sentinels:
    """The ids of the special tokens that stand before prefix, suffix and middle."""

    prefix: int
    suffix: int
    middle: int

    @classmethod
    def of(cls, config: FillInTheMiddleConfig, tokenizer: Tokenizer) -> Sentinels:
        """Raises ValueError, naming them, where the tokenizer lacks any."""
        known = tokenizer.special_tokens
        names = (config.prefix, config.suffix, config.middle)
        if missing := [name for name in names if name not in known]:
            raise ValueError(
                f"fill in the middle needs the special tokens {', '.join(names)}, and this tokenizer has no "
                f"{', '.join(missing)}: add them to tokenizer.special_tokens, or name its own in "
                f"data.fill_in_the_middle.prefix, .suffix and .middle; its special tokens are "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        return cls(*(known[name] for name in names))

    def arrange(self, prefix: Sequence[int], middle: Sequence[int], suffix: Sequence[int], *, spm: bool) -> list[int]:
        """The ids of a text in one of the two orders."""
        if spm:
            return [self.prefix, self.suffix, *suffix, self.middle, *prefix, *middle]
        return [self.prefix, *prefix, self.suffix, *suffix, self.middle, *middle]


@dataclass(frozen=True)
class _Draw:
    """What is done to one text: whether it is turned, in which order, and where in it (0 to 1) it is cut."""

    turned: bool
    spm: bool
    cuts: tuple[float, float]


def _draw(config: FillInTheMiddleConfig, seed: int, key: str) -> _Draw:
    digest = hashlib.blake2b(f"{seed} {key}".encode("utf-8", errors="surrogatepass"), digest_size=32).digest()
    turned, spm, one, other = ((int.from_bytes(digest[8 * i : 8 * i + 8], "big") >> 11) / 2**53 for i in range(4))
    return _Draw(turned < config.rate, spm < config.spm_rate, (min(one, other), max(one, other)))


def _places(draw: _Draw, length: int) -> tuple[int, int]:
    """Two of the length + 1 places between the parts of a text, each as likely as any other."""
    begin, end = (int(cut * (length + 1)) for cut in draw.cuts)
    return begin, end


def document_encoding(config: FillInTheMiddleConfig, tokenizer: Tokenizer, seed: int) -> Encoding | None:
    """How documents become ids where whole ones are turned; None where they are not.

    A document of n tokens has three more afterwards, and with cuts between characters a few more where they fall into
    tokens. Raises ValueError where the tokenizer lacks a special token.
    """
    if not config.rate or config.scope != "document":
        return None
    sentinels = Sentinels.of(config, tokenizer)

    def encode(documents: Sequence[Document]) -> list[Sequence[int]]:
        draws = [_draw(config, seed, document.name) for document in documents]
        texts: list[str] = []
        for document, draw in zip(documents, draws, strict=True):
            if draw.turned and config.level == "character":
                begin, end = _places(draw, len(document.text))
                texts += (document.text[:begin], document.text[begin:end], document.text[end:])
            else:
                texts.append(document.text)
        encoded = iter(tokenizer.encode_batch(texts))
        ids = []
        for document, draw in zip(documents, draws, strict=True):
            parts = [next(encoded)]
            if not draw.turned or not document.text:
                # An empty text has three empty parts: nothing is to be learned from it.
                parts += [next(encoded), next(encoded)] if draw.turned and config.level == "character" else []
                ids.append(parts[0])
                continue
            if config.level == "character":
                parts += [next(encoded), next(encoded)]
            else:
                begin, end = _places(draw, len(parts[0]))
                parts = [parts[0][:begin], parts[0][begin:end], parts[0][end:]]
            ids.append(sentinels.arrange(*parts, spm=draw.spm))
        return ids

    return Encoding(encode, f"{config!r}, seed {seed}")


class TurnPieces:
    """For `pack_row`: turns the pieces of documents that share a row, each into no more ids than it had.

    A piece keeps the end-of-text before it, and always gets one after it, since the middle is then done even where the
    document goes on. The room for this and for the special tokens is taken from the end of the suffix, then from
    the begin of the prefix, so that the middle stays whole as far as possible.
    """

    def __init__(self, config: FillInTheMiddleConfig, tokenizer: Tokenizer, seed: int):
        """Raises ValueError where the tokenizer lacks a special token."""
        self._config, self._seed = config, seed
        self._sentinels = Sentinels.of(config, tokenizer)
        self._tokenizer, self._end = tokenizer, tokenizer.end_of_text

    def __call__(self, line: np.ndarray, document: int, start: int) -> np.ndarray:
        draw = _draw(self._config, self._seed, f"{document} {start}")
        head = 1 if line[0] == self._end else 0
        tail = 1 if line[-1] == self._end else 0
        ids = line[head : len(line) - tail].tolist()
        room = len(line) - head - 1 - 3  # of the ids that are left beside four special ones
        if not draw.turned or not ids or room < 1:
            return line
        prefix, middle, suffix = self._cut(ids, draw)
        middle = middle[:room]
        suffix = suffix[: max(0, min(len(suffix), room - len(middle) - len(prefix)))]
        prefix = prefix[max(0, len(prefix) + len(middle) + len(suffix) - room) :]
        turned = self._sentinels.arrange(prefix, middle, suffix, spm=draw.spm)
        return np.array([*[self._end] * head, *turned, self._end], line.dtype)

    def _cut(self, ids: list[int], draw: _Draw) -> tuple[list[int], list[int], list[int]]:
        if self._config.level == "character":
            text = self._tokenizer.decode(ids)
            # The begin or end of a piece may fall between the bytes of a character: such a piece is cut by tokens.
            if "\ufffd" not in text:
                begin, end = _places(draw, len(text))
                prefix, middle, suffix = self._tokenizer.encode_batch([text[:begin], text[begin:end], text[end:]])
                return list(prefix), list(middle), list(suffix)
        begin, end = _places(draw, len(ids))
        return ids[:begin], ids[begin:end], ids[end:]


def piece_rewrite(config: FillInTheMiddleConfig, tokenizer: Tokenizer | None, seed: int) -> TurnPieces | None:
    """What `pack_row` is to do to pieces; None where pieces are not turned. Raises ValueError without a tokenizer."""
    if not config.rate or config.scope != "context":
        return None
    if tokenizer is None:
        raise ValueError("fill in the middle of pieces of documents needs the tokenizer")
    return TurnPieces(config, tokenizer, seed)
