"""Finding special tokens in text, where the caller allows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import regex

from jaxllm.tokenizers.protocol import AllowedSpecial


def cut_out_special(text: str, special_tokens: Mapping[str, int], allowed: AllowedSpecial) -> Iterator[str | int]:
    """The text as ordinary parts (str) and allowed special tokens (their ids), in order; where two fit, the longer one.

    Raises ValueError when `allowed` names something that is no special token.
    """
    names = set(special_tokens) if allowed == "all" else set(allowed)
    unknown = names - set(special_tokens)
    if unknown:
        raise ValueError(f"{sorted(unknown)} are no special tokens of this tokenizer; it has {sorted(special_tokens)}")
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    for part in regex.split("(" + "|".join(map(regex.escape, longest_first)) + ")", text):
        if part in names:
            yield special_tokens[part]
        elif part:
            yield part
