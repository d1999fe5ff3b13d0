"""The steps of a Hugging Face tokenizer.json and the stages here: each is an object with a "type" and its settings."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, NamedTuple, get_type_hints

from jaxllm.tokenizers import decoders
from jaxllm.tokenizers.preparation import cuts, normalizers
from jaxllm.tokenizers.preparation.metaspace import Metaspace, MetaspaceSplit
from jaxllm.tokenizers.preparation.patterns import Pattern, Regex, String
from jaxllm.tokenizers.preparation.precompiled import Precompiled
from jaxllm.tokenizers.stages import Cut, Rewrite
from jaxllm.tokenizers.template import Place, Template, bert_template


class Kind(NamedTuple):
    """How one type of step is read from its settings and written as them."""

    stage: type
    read: Callable[[dict[str, Any]], Any]
    write: Callable[[Any], dict[str, Any]]


def plain(stage: type, **defaults: Any) -> Kind:
    """A step whose settings are the fields of its dataclass. Defaults are for settings that older files leave out."""

    def read(settings: dict[str, Any]) -> Any:
        settings = defaults | settings
        if "pattern" in settings:
            settings["pattern"] = _read_pattern(settings["pattern"])
        return stage(**_checked(stage, settings))

    def write(step: Any) -> dict[str, Any]:
        settings = {field.name: getattr(step, field.name) for field in fields(step)}
        if "pattern" in settings:
            settings["pattern"] = _write_pattern(settings["pattern"])
        return settings

    return Kind(stage, read, write)


def _checked(stage: type, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    types = get_type_hints(stage)
    names = {field.name for field in fields(stage)}
    if unknown := sorted(settings.keys() - names):
        raise ValueError(f"{stage.__name__} has no setting {', '.join(unknown)}")
    for name, value in settings.items():
        if isinstance(types[name], type) and type(value) is not types[name]:
            raise ValueError(f"{stage.__name__}: {name} must be {types[name].__name__}, found {value!r}")
    if missing := [f.name for f in fields(stage) if f.name not in settings and f.default is MISSING]:
        raise ValueError(f"{stage.__name__} lacks {', '.join(missing)}")
    return settings


def _read_pattern(pattern: Any) -> Pattern:
    match pattern:
        case {"Regex": str(text)} if len(pattern) == 1:
            return Regex(text)
        case {"String": str(text)} if len(pattern) == 1:
            return String(text)
    raise ValueError(f"the pattern must be a Regex or a String, found {pattern!r}")


def _write_pattern(pattern: Pattern) -> dict[str, str]:
    return {"Regex": pattern.source} if isinstance(pattern, Regex) else {"String": pattern.text}


def as_object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, found {type(value).__name__}")
    return value


def as_list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, found {type(value).__name__}")
    return value


def _flat(step: Any, name: str, inside: str, depth: int = 0) -> list[Mapping[str, Any]]:
    """The steps of a Sequence, of Sequences too, one after the other."""
    if step is None:
        return []
    if as_object(step, name).get("type") != "Sequence":
        return [step]
    if depth > 8:
        raise ValueError(f"the {name} has Sequences nested more than 8 deep")
    found: list[Mapping[str, Any]] = []
    for part in as_list(step.get(inside), f"{inside} of the {name}"):
        found += _flat(part, name, inside, depth + 1)
    if len(found) > 100:
        raise ValueError(f"the {name} has {len(found)} steps; at most 100 are read")
    return found


def _read(step: Mapping[str, Any], kinds: Mapping[str, Kind], name: str) -> Any:
    settings = dict(step)
    kind = settings.pop("type", None)
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"the {name} {kind if isinstance(kind, str) else step!r} is not supported")
    try:
        return kinds[kind].read(settings)
    except ValueError as error:
        raise ValueError(f"the {name} {kind}: {error}") from error


def _write(step: Any, kinds: Mapping[str, Kind], name: str) -> dict[str, Any]:
    for word, kind in kinds.items():
        if type(step) is kind.stage:
            return {"type": word, **kind.write(step)}
    raise ValueError(f"tokenizer.json has no {name} that is {step!r}")


def _sequence(steps: Sequence[dict[str, Any]], inside: str) -> dict[str, Any] | None:
    if not steps:
        return None
    return steps[0] if len(steps) == 1 else {"type": "Sequence", inside: list(steps)}


def _read_charsmap(settings: dict[str, Any]) -> Precompiled:
    match settings:
        case {"precompiled_charsmap": str(text)} if len(settings) == 1:
            try:
                return Precompiled(base64.b64decode(text, validate=True))
            except binascii.Error as error:
                raise ValueError(f"precompiled_charsmap is not in base64: {error}") from error
    raise ValueError("it must have a precompiled_charsmap and nothing else")


_NORMALIZERS = {
    **{
        stage.__name__: plain(stage)
        for stage in (
            normalizers.NFC,
            normalizers.NFD,
            normalizers.NFKC,
            normalizers.NFKD,
            normalizers.Nmt,
            normalizers.Lowercase,
            normalizers.StripAccents,
            normalizers.BertNormalizer,
            normalizers.Replace,
            normalizers.Prepend,
            normalizers.Strip,
        )
    },
    "Precompiled": Kind(
        Precompiled,
        _read_charsmap,
        lambda step: {"precompiled_charsmap": base64.b64encode(step.charsmap).decode("ascii")},
    ),
}


def read_normalizer(value: Any) -> tuple[Rewrite, ...]:
    return tuple(_read(step, _NORMALIZERS, "normalizer") for step in _flat(value, "normalizer", "normalizers"))


def write_normalizer(steps: Sequence[Rewrite]) -> dict[str, Any] | None:
    return _sequence([_write(step, _NORMALIZERS, "normalizer") for step in steps], "normalizers")


def _read_metaspace(settings: dict[str, Any]) -> Metaspace:
    settings = dict(settings)
    settings.pop("str_rep", None)  # what older files called the replacement, beside it
    prepends = settings.pop("add_prefix_space", None)
    if "prepend_scheme" not in settings and prepends is not None:
        settings["prepend_scheme"] = "always" if prepends else "never"
    return Metaspace(**_checked(Metaspace, settings))


def _write_metaspace(step: Metaspace | decoders.Metaspace) -> dict[str, Any]:
    return {"replacement": step.replacement, "prepend_scheme": step.prepend_scheme, "split": step.split}


_CUTS = {
    "ByteLevel": plain(cuts.ByteLevel),
    "Metaspace": Kind(Metaspace, _read_metaspace, _write_metaspace),
    **{
        stage.__name__: plain(stage)
        for stage in (
            cuts.Split,
            cuts.Whitespace,
            cuts.WhitespaceSplit,
            cuts.BertPreTokenizer,
            cuts.Digits,
            cuts.Punctuation,
            cuts.CharDelimiterSplit,
            cuts.FixedLength,
        )
    },
}


def read_pre_tokenizer(value: Any) -> tuple[bool, tuple[Rewrite | Cut, ...]]:
    """Whether the vocabulary is one of bytes, and the steps."""
    found = [_read(step, _CUTS, "pre_tokenizer") for step in _flat(value, "pre_tokenizer", "pretokenizers")]
    byte_level = [isinstance(step, cuts.ByteLevel) for step in found]
    if any(byte_level[:-1]):
        raise ValueError("the pre_tokenizer ByteLevel is supported as the last step only: what follows would cut bytes")
    steps: list[Rewrite | Cut] = []
    for step in found:
        match step:
            case Metaspace():
                steps += step.stages()
            case cuts.ByteLevel():
                steps += step.steps
            case _:
                steps.append(step)
    return any(byte_level), tuple(steps)


def write_pre_tokenizer(steps: Sequence[Rewrite | Cut], byte_level: bool) -> dict[str, Any] | None:
    # The second half of Metaspace is no step of its own in files.
    steps = [step for step in steps if not isinstance(step, MetaspaceSplit)]
    if byte_level:
        for put_space, use_regex in ((True, True), (False, True), (True, False), (False, False)):
            last = cuts.ByteLevel(add_prefix_space=put_space, use_regex=use_regex)
            before = len(steps) - len(last.steps)
            if tuple(steps[max(before, 0) :]) == last.steps:
                steps = [*steps[:before], last]
                break
    return _sequence([_write(step, _CUTS, "pre_tokenizer") for step in steps], "pretokenizers")


_DECODERS = {
    "ByteLevel": Kind(
        decoders.ByteLevel,
        lambda settings: decoders.ByteLevel(),
        lambda step: {"add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ),
    "Metaspace": Kind(
        decoders.Metaspace,
        lambda settings: decoders.Metaspace(*_write_metaspace(_read_metaspace(settings)).values()),
        _write_metaspace,
    ),
    "Replace": Kind(
        decoders.Replace,
        lambda settings: _read_replace(settings),
        lambda step: {"pattern": {"String": step.pattern}, "content": step.content},
    ),
    "WordPiece": plain(decoders.WordPiece),
    "ByteFallback": plain(decoders.ByteFallback),
    "Fuse": plain(decoders.Fuse),
    "Strip": plain(decoders.Strip),
}


def _read_replace(settings: dict[str, Any]) -> decoders.Replace:
    match settings:
        case {"pattern": {"String": str(pattern)}, "content": str(content)}:
            return decoders.Replace(pattern, content)
    raise ValueError(f"only a String can be replaced by a content, found {settings}")


def read_decoder(value: Any) -> list[decoders.Step]:
    if value is None:
        return [decoders.Words()]
    return [_read(step, _DECODERS, "decoder") for step in _flat(value, "decoder", "decoders")]


def write_decoder(decoder: decoders.Decoder) -> dict[str, Any] | None:
    if decoder.steps == (decoders.Words(),):
        return None
    return _sequence([_write(step, _DECODERS, "decoder") for step in decoder.steps], "decoders")


def read_template(value: Any) -> Template | None:
    """The special tokens around a text. ByteLevel is a post-processor that moves offsets only."""
    template = None
    for step in _flat(value, "post_processor", "processors"):
        kind = step.get("type")
        if kind == "ByteLevel":
            continue
        if template is not None:
            raise ValueError(f"the post_processor {kind} comes after another one that adds tokens; one is supported")
        match step:
            case {"type": "TemplateProcessing", "single": [*single], "pair": [*pair], "special_tokens": dict(special)}:
                template = Template(
                    tuple(place for item in single for place in _read_places(item, special)),
                    tuple(place for item in pair for place in _read_places(item, special)),
                )
            case {"type": "BertProcessing", "cls": [str(), int(cls)], "sep": [str(), int(sep)]}:
                template = bert_template(cls, sep)
            case {"type": "RobertaProcessing", "cls": [str(), int(cls)], "sep": [str(), int(sep)]}:
                head = ((cls, 0), ("A", 0), (sep, 0))
                template = Template(head, (*head, (sep, 0), ("B", 0), (sep, 0)))
            case _:
                raise ValueError(f"the post_processor {kind} is not supported in the form it has: {str(step)[:300]}")
    return template


def _read_places(item: Any, special: Mapping[str, Any]) -> list[tuple[Place, int]]:
    match item:
        case {"Sequence": {"id": "A" | "B" as text, "type_id": int(kind)}}:
            return [(text, kind)]
        case {"SpecialToken": {"id": str(name), "type_id": int(kind)}}:
            match special.get(name):
                case {"ids": [*ids]} if ids and all(type(i) is int for i in ids):
                    return [(i, kind) for i in ids]
            raise ValueError(f"the post_processor names the special token {name!r} without its ids")
    raise ValueError(f"the post_processor has the place {item!r}; expected a Sequence or a SpecialToken")


def write_template(template: Template | None, name_of: Callable[[int], str]) -> dict[str, Any] | None:
    if template is None:
        return None

    def written(places: Sequence[tuple[Place, int]]) -> list[dict[str, Any]]:
        return [
            {"Sequence": {"id": place, "type_id": kind}}
            if isinstance(place, str)
            else {"SpecialToken": {"id": name_of(place), "type_id": kind}}
            for place, kind in places
        ]

    ids = sorted({place for place, _ in template.single + template.pair if not isinstance(place, str)})
    return {
        "type": "TemplateProcessing",
        "single": written(template.single),
        "pair": written(template.pair),
        "special_tokens": {name_of(i): {"id": name_of(i), "ids": [i], "tokens": [name_of(i)]} for i in ids},
    }
