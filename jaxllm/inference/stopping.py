"""Text out of tokens as they come: no half characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from jaxllm.tokenizers import StreamingDecoder, Tokenizer


class StopScanner:
    """Passes text on until one of `stops` is complete, wherever its pieces are cut.

    Text that may be the beginning of a stop string is held back until it is clear. The stop string that is complete
    first ends the text (of two complete at once, the longer); neither it nor what follows is passed on. Raises
    ValueError for an empty one.
    """

    def __init__(self, stops: Sequence[str]):
        if not all(stops):
            raise ValueError("a stop string is empty: every text contains it, so nothing would be generated")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """More text; returns what is now certain to be shown."""
        if self.stopped:
            return ""
        self._held += text
        found = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if found:
            _, start = min(found)
            self.stopped = True
            return self._release(start, drop_rest=True)
        return self._release(len(self._held) - self._undecided())

    def flush(self) -> str:
        """The text is over: what was held back turns out to be no stop string."""
        return self._release(len(self._held))

    def _undecided(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = min(max((len(stop) - 1 for stop in self._stops), default=0), len(self._held))
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

    def _release(self, end: int, drop_rest: bool = False) -> str:
        shown, self._held = self._held[:end], "" if drop_rest else self._held[end:]
        return shown


class TextStream:
    """Tokens in, text that may be shown out. `stopped` turns true with the token that completes a stop string."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()):
        self._decoder = StreamingDecoder(tokenizer)
        self._scanner = StopScanner(stops)

    @property
    def stopped(self) -> bool:
        return self._scanner.stopped

    def push(self, token: int) -> str:
        return self._scanner.push(self._decoder.push(token))

    def flush(self) -> str:
        """What is left when no more tokens come; the bytes of a torn character become U+FFFD."""
        return self._scanner.push(self._decoder.flush()) + self._scanner.flush()
