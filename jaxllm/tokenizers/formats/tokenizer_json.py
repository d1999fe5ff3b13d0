"""A tokenizer as Hugging Face's tokenizer.json, and back.

What is written is read by the `tokenizers` library, which then gives the same ids, except that it always makes a
special token of text that looks like one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.decoders import Decoder
from jaxllm.tokenizers.formats import tokenizer_json_models as models
from jaxllm.tokenizers.formats import tokenizer_json_steps as steps
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def describe(tokenizer: PipelineTokenizer) -> dict[str, Any]:
    """The JSON object. Raises ValueError, naming it, for a part that the format has no word for."""
    byte_level = isinstance(tokenizer.vocabulary, ByteLevelBPE)
    added = sorted(tokenizer.added_tokens, key=lambda token: token.id)
    return {
        "version": "1.0",
        "truncation": tokenizer.batches.get("truncation"),
        "padding": tokenizer.batches.get("padding"),
        "added_tokens": [
            {"id": token.id, "content": token.content, **{flag: getattr(token, flag) for flag in _FLAGS}}
            for token in added
        ],
        "normalizer": steps.write_normalizer(tokenizer.normalizer),
        "pre_tokenizer": steps.write_pre_tokenizer(tokenizer.pre_tokenizer, byte_level),
        "post_processor": steps.write_template(tokenizer.template, tokenizer.token_text),
        "decoder": steps.write_decoder(tokenizer.decoder),
        "model": models.write_model(tokenizer.vocabulary, [token for token in added if token.special]),
    }


def parse(description: Mapping[str, Any], **settings: Any) -> PipelineTokenizer:
    """The tokenizer of a JSON object. settings: what the object does not say, `roles` and `chat_template`.

    Raises ValueError as `parts` does.
    """
    return PipelineTokenizer(**parts(description), **settings)


def parts(description: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of PipelineTokenizer that a JSON object says.

    Raises ValueError for an object that is malformed, and for one that asks for something that is not supported here:
    what that is, is named.
    """
    batches = {
        name: steps.as_object(description[name], name) for name in ("truncation", "padding") if description.get(name)
    }
    added = _added_tokens(description.get("added_tokens"))
    byte_level, pre_tokenizer = steps.read_pre_tokenizer(description.get("pre_tokenizer"))
    vocabulary = models.read_model(description.get("model"), byte_level, added)
    return {
        "vocabulary": vocabulary,
        "added_tokens": added,
        "normalizer": steps.read_normalizer(description.get("normalizer")),
        "pre_tokenizer": pre_tokenizer,
        "decoder": Decoder(steps.read_decoder(description.get("decoder"))),
        "template": steps.read_template(description.get("post_processor")),
        "batches": batches,
    }


def _added_tokens(added: Any) -> list[AddedToken]:
    tokens: dict[str, AddedToken] = {}
    for entry in steps.as_list([] if added is None else added, "added_tokens"):
        match entry:
            case {"content": str(content), "id": int(i)} if content and type(i) is int:
                flags = {flag: entry.get(flag, False) for flag in _FLAGS}
            case _:
                raise ValueError(f"an added token must have a content and an id, found {entry!r}")
        for flag, value in flags.items():
            if type(value) is not bool:
                raise ValueError(f"the added token {content!r}: {flag} must be true or false, found {value!r}")
        if content in tokens:
            raise ValueError(f"the added token {content!r} occurs twice")
        tokens[content] = AddedToken(content, i, **flags)
    return list(tokens.values())
