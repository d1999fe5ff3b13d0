"""The tokenizer that all families are: a text goes through the same stages, and each family fills them its own way.

Added tokens are found first. What lies between them is normalized, cut into pieces, and each piece gets ids from the
vocabulary, or from memory if it was seen before. On the way back each token stands for fixed bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from os import PathLike
from random import Random
from typing import TYPE_CHECKING, Any

from jaxllm.tokenizers.added_tokens import AddedToken, AddedTokenFinder
from jaxllm.tokenizers.decoders import Decoder
from jaxllm.tokenizers.piece_cache import PieceCache
from jaxllm.tokenizers.preparation.metaspace import Metaspace
from jaxllm.tokenizers.preparation.normalizers import rewrite_aligned
from jaxllm.tokenizers.protocol import AllowedSpecial, Encoding
from jaxllm.tokenizers.stages import Cut, Preparation, Rewrite, Span, Vocabulary
from jaxllm.tokenizers.template import Template
from jaxllm.tokenizers.worker_processes import batches

if TYPE_CHECKING:
    from jaxllm.tokenizers.chat.chat_template import EncodedChat


class PipelineTokenizer:
    """Text to ids and back in stages; the methods are described at `Tokenizer`."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        added_tokens: Sequence[AddedToken] = (),
        normalizer: Sequence[Rewrite] = (),
        pre_tokenizer: Sequence[Rewrite | Cut] = (),
        decoder: Decoder,
        template: Template | None = None,
        roles: Mapping[str, str] | None = None,
        chat_template: str | None = None,
        batches: Mapping[str, Any] | None = None,
    ):
        """roles: which tokens are what, under Hugging Face's names: eos_token ends a document, and there are bos_token,
        pad_token, unk_token, cls_token, sep_token, mask_token. chat_template: a Jinja template.
        batches: the objects "truncation" and "padding" of a Hugging Face file. They are kept for whoever makes batches
        (see `jaxllm.tokenizers.batching`), and encoding takes no notice of them.

        Raises ValueError if two tokens have the same id, if more ids are missing below the largest one than there are
        tokens, or if a token of a role or of the template is not there.
        """
        self.vocabulary = vocabulary
        self.added_tokens = tuple(added_tokens)
        self.normalizer, self.pre_tokenizer = tuple(normalizer), tuple(pre_tokenizer)
        self.decoder, self.template, self.chat_template = decoder, template, chat_template
        self._special = {token.content: token.id for token in self.added_tokens if token.special}
        self.roles, self.batches = dict(roles or {}), dict(batches or {})
        self._texts = _texts_of_ids(vocabulary, self.added_tokens)
        self._vocab_size = max(self._bytes) + 1
        self._roles = _ids_of_roles(self.roles, self._texts)
        for place, _ in (template.single + template.pair) if template else ():
            if not isinstance(place, str) and place not in self._texts:
                raise ValueError(f"the template names the id {place}, which no token has")
        ordinary = [token for token in self.added_tokens if not token.special]
        self._normalized_words = AddedTokenFinder(
            replace(token, content=self._normalize(token.content)) for token in ordinary if token.normalized
        )
        self._words = [token for token in ordinary if not token.normalized]
        self._finders: dict[frozenset[str], AddedTokenFinder] = {}
        # Metaspace may put a space before the first word of a text, but not after an added token.
        self._later_steps = tuple(map(_not_first, self.pre_tokenizer))
        # isinstance with a protocol takes longer than cutting a short text.
        self._first_cutters, self._later_cutters = (
            [(isinstance(step, Cut), step) for step in steps] for steps in (self.pre_tokenizer, self._later_steps)
        )
        self._cache = PieceCache(vocabulary)

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process starts with an empty cache, and has no need to check everything again.
        return {name: value for name, value in vars(self).items() if name not in ("_cache", "_bytes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._cache = PieceCache(self.vocabulary)

    def _settings(self) -> dict[str, object]:
        return {
            "added_tokens": self.added_tokens,
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "decoder": self.decoder,
            "template": self.template,
            "roles": self.roles,
            "chat_template": self.chat_template,
            "batches": self.batches,
        }

    def replace(self, **changes) -> PipelineTokenizer:
        """A tokenizer that differs in the given arguments of the constructor."""
        settings = self._settings() | {"vocabulary": self.vocabulary} | changes
        return type(self)(settings.pop("vocabulary"), **settings)

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        """The bytes of each id. A copy that only encodes does without."""
        special = {token.id for token in self.added_tokens if token.special}
        ordinary = {token.id for token in self.added_tokens if not token.special}
        decode = self.decoder.token_bytes
        return {i: b"" if i in special else decode(text, i in ordinary) for i, text in self._texts.items()}

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def special_tokens(self) -> dict[str, int]:
        return dict(self._special)

    @property
    def end_of_text(self) -> int:
        if "eos_token" not in self._roles:
            raise ValueError(
                "it is not known which token ends a document: name one of the special tokens "
                f"{list(self._special)} as eos_token in tokenizer_config.json"
            )
        return self._roles["eos_token"]

    def encode(
        self,
        text: str,
        *,
        allowed_special: AllowedSpecial = frozenset(),
        disallowed_special: AllowedSpecial = frozenset(),
        add_special_tokens: bool = False,
    ) -> list[int]:
        if not (allowed_special or disallowed_special or self._words):
            ids = self._encode_text(text, True) if text else []
        else:
            ids = []
            for token, begin, end in self._stretches(text, allowed_special, disallowed_special):
                if token is None:
                    ids += self._encode_text(text[begin:end], begin == 0)
                else:
                    ids.append(token.id)
        return self.template.apply(ids)[0] if add_special_tokens and self.template else ids

    def sample(self, text: str, random: Random, **settings: float) -> list[int]:
        """Ids of a text in which nothing is special, drawn at random for subword regularization.

        settings are those of the vocabulary's own `sample`: `alpha` with Unigram (Kudo 2018), `dropout` with byte pair
        encoding on characters (Provilkov et al. 2020). Raises ValueError for a vocabulary that has one way only.
        """
        draw = getattr(self.vocabulary, "sample", None)
        if draw is None:
            raise ValueError(f"a {type(self.vocabulary).__name__} has one way to encode a text, none to draw from")
        return [i for piece in self.pieces(text) for i in draw(piece, random, **settings)]

    def encode_with_offsets(
        self,
        text: str,
        *,
        allowed_special: AllowedSpecial = frozenset(),
        disallowed_special: AllowedSpecial = frozenset(),
    ) -> Encoding:
        ids: list[int] = []
        spans: list[Span] = []
        for token, begin, end in self._stretches(text, allowed_special, disallowed_special):
            found = (
                self._encode_aligned(text[begin:end], begin == 0) if token is None else [(token.id, (0, end - begin))]
            )
            for i, (left, right) in found:
                ids.append(i)
                spans.append((begin + left, begin + right))
        return Encoding(ids, spans)

    def encode_batch(self, texts: Iterable[str], processes: int = 1) -> list[list[int]]:
        if processes > 1:
            from jaxllm.tokenizers.bulk_encoding import encode_batch

            return encode_batch(self, texts, processes)
        return [ids for some in batches(texts) for ids in self._encode_some(some)]

    def _encode_some(self, texts: Sequence[str]) -> list[list[int]]:
        """What encode says of each text, but what is new in them is encoded together."""
        if self._words or self._normalized_words:
            return list(map(self.encode, texts))
        try:
            return self._cache.ids_of_texts(self._cut(self._normalize(text), True) if text else () for text in texts)
        except UnicodeEncodeError:
            return list(map(self.encode, texts))  # it says where

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        return self.decode_bytes(ids, skip_special_tokens=skip_special_tokens).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> bytes:
        table = self._bytes
        if not skip_special_tokens:
            table = table | {i: name.encode("utf-8") for name, i in self._special.items()}
        try:
            data = b"".join(map(table.__getitem__, ids))
        except KeyError as error:
            raise self._out_of_range(error.args[0]) from None
        return data[1:] if self.decoder.strips_space and data.startswith(b" ") else data

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> EncodedChat:
        """A conversation as ids, by the tokenizer's own template; settings are those of `ChatTemplate.encode`.

        Raises ValueError if there is no template, and what ChatTemplate raises.
        """
        from jaxllm.tokenizers.chat.chat_template import ChatTemplate

        if self.chat_template is None:
            raise ValueError(
                "this tokenizer has no chat template; choose one of jaxllm.tokenizers.chat.chat_formats.CHAT_FORMATS, "
                "and use its template_for(tokenizer)"
            )
        return ChatTemplate(self.chat_template, self.roles).encode(self, messages, **settings)

    @property
    def strips_space(self) -> bool:
        return self.decoder.strips_space

    def token_bytes(self, token: int) -> bytes:
        try:
            return self._bytes[token]
        except KeyError:
            raise self._out_of_range(token) from None

    def token_text(self, token: int) -> str:
        """The token as files write it, such as "Ġthe", "##ing" or "▁the"."""
        try:
            return self._texts[token]
        except KeyError:
            raise self._out_of_range(token) from None

    def fingerprint(self) -> str:
        from jaxllm.tokenizers.formats.folder import fingerprint

        return fingerprint(self)

    def save(self, directory: str | PathLike[str]) -> None:
        from jaxllm.tokenizers.formats.folder import write_folder

        write_folder(self, directory)

    def texts(self) -> list[str]:
        """All tokens as files write them, in no particular order."""
        return list(self._texts.values())

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text in which nothing is an added token: what a vocabulary is trained on."""
        return Preparation(self.normalizer, self.pre_tokenizer)(text)

    def _stretches(self, text: str, allowed: AllowedSpecial, disallowed: AllowedSpecial) -> Iterator:
        allowed = self._names(allowed, "allowed_special")
        refused = (
            frozenset(self._special) - allowed if disallowed == "all" else self._names(disallowed, "disallowed_special")
        )
        if refused and (found := self._finder(refused, ()).first(text)):
            raise ValueError(
                f"the text has the special token {found!r} at character {text.index(found)}; to encode it as a special "
                "token name it in allowed_special, to encode it as ordinary text leave it out of disallowed_special"
            )
        finder = self._finder(allowed, self._words)
        if not finder:
            return iter([(None, 0, len(text))] if text else [])
        return finder(text)

    def _finder(self, names: frozenset[str], words: Sequence[AddedToken]) -> AddedTokenFinder:
        key = names if words is self._words else names | {""}
        if key not in self._finders:
            self._finders[key] = AddedTokenFinder(
                [token for token in self.added_tokens if token.special and token.content in names] + list(words)
            )
        return self._finders[key]

    def _names(self, names: AllowedSpecial, argument: str) -> frozenset[str]:
        if names == "all":
            return frozenset(self._special)
        if isinstance(names, str):
            raise ValueError(f'{argument} must be "all" or a set of names, got the string {names!r}')
        unknown = set(names) - set(self._special)
        if unknown:
            raise ValueError(f"unknown special tokens {sorted(unknown)}; this tokenizer has {list(self._special)}")
        return frozenset(names)

    def _normalize(self, text: str) -> str:
        for step in self.normalizer:
            text = step(text)
        return text

    def _encode_text(self, text: str, first: bool) -> list[int]:
        text = self._normalize(text)
        if self._normalized_words:
            ids: list[int] = []
            for token, begin, end in self._normalized_words(text):
                ids += self._encode_normalized(text[begin:end], first and begin == 0) if token is None else [token.id]
            return ids
        return self._encode_normalized(text, first)

    def _cut(self, text: str, first: bool) -> Iterable[str]:
        pieces: Iterable[str] = (text,)
        for is_cut, step in self._first_cutters if first else self._later_cutters:
            pieces = chain.from_iterable(map(step, pieces)) if is_cut else map(step, pieces)
        return pieces

    def _encode_normalized(self, text: str, first: bool) -> list[int]:
        try:
            return list(chain.from_iterable(map(self._cache.__getitem__, self._cut(text, first))))
        except UnicodeEncodeError:
            position = re.search("[\ud800-\udfff]", text).start()
            raise ValueError(
                f"character {position} of the text is {text[position]!r}, half of a UTF-16 pair and not Unicode text; "
                'make it U+FFFD, for instance by text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
            ) from None

    def _encode_aligned(self, text: str, first: bool) -> list[tuple[int, Span]]:
        normalized, origin = rewrite_aligned(self.normalizer, text)
        found = []
        for token, begin, end in (
            self._normalized_words(normalized) if self._normalized_words else [(None, 0, len(normalized))]
        ):
            if token is not None:
                found.append((token.id, _cover(origin, begin, end)))
                continue
            steps = self.pre_tokenizer if first and begin == 0 else self._later_steps
            for piece, places in _pieces(normalized[begin:end], origin[begin:end], steps):
                found += [(i, _cover(places, *span)) for i, span in self.vocabulary.encode_spans(piece)]
        return found

    def _out_of_range(self, token: int) -> ValueError:
        if isinstance(token, int) and 0 <= token < self.vocab_size:
            return ValueError(f"no token of the vocabulary has the id {token}")
        return ValueError(f"id {token} is not in the vocabulary, whose ids are 0 .. {self.vocab_size - 1}")


def _not_first(step: Rewrite | Cut) -> Rewrite | Cut:
    if isinstance(step, Metaspace) and step.prepend_scheme == "first":
        return replace(step, prepend_scheme="never")
    return step


def _ids_of_roles(roles: Mapping[str, str], texts: Mapping[int, str]) -> dict[str, int]:
    ids = {text: i for i, text in texts.items() if text in roles.values()} if roles else {}
    for role, name in roles.items():
        if name not in ids:
            raise ValueError(f"the {role} is {name!r}, but the vocabulary has no such token")
    return {role: ids[name] for role, name in roles.items()}


def _texts_of_ids(vocabulary: Vocabulary, added: Sequence[AddedToken]) -> dict[int, str]:
    """The token of each id. Some vocabularies leave ids out, but one that is mostly gaps is damaged or hostile."""
    texts = dict(vocabulary.tokens())
    names: dict[str, int] = {}
    for token in added:
        if names.setdefault(token.content, token.id) != token.id:
            raise ValueError(f"the added token {token.content!r} has two ids, {names[token.content]} and {token.id}")
        if texts.setdefault(token.id, token.content) != token.content:
            raise ValueError(
                f"the id {token.id} stands for two tokens, {texts[token.id]!r} and the added {token.content!r}"
            )
    if not texts:
        raise ValueError("the vocabulary has no tokens")
    low, high = min(texts), max(texts)
    if low < 0 or high >= 2 * len(texts) + 1:
        raise ValueError(f"{len(texts)} tokens must have ids from 0 on with few gaps, but theirs are {low} to {high}")
    return texts


def _pieces(text: str, origin: list[Span], steps: Iterable[Rewrite | Cut]) -> list[tuple[str, list[Span]]]:
    pieces = [(text, origin)]
    for step in steps:
        if isinstance(step, Cut):
            pieces = [(part[a:b], places[a:b]) for part, places in pieces for a, b in step.spans(part)]
        else:
            rewritten = [(*step.aligned(part), places) for part, places in pieces]
            pieces = [(part, [_cover(places, *span) for span in spans]) for part, spans, places in rewritten]
    return pieces


def _cover(origin: list[Span], begin: int, end: int) -> Span:
    """The characters of the source that a range of rewritten characters came from."""
    if begin < end:
        return origin[begin][0], max(right for _, right in origin[begin:end])
    if begin < len(origin):
        return origin[begin][0], origin[begin][0]
    return (origin[-1][1], origin[-1][1]) if origin else (0, 0)
