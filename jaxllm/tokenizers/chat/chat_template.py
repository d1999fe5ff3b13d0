"""From a conversation to text and ids, by the template that a model was trained with.

    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    text = template.render([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    chat = template.encode(tokenizer, messages)
    chat.ids, chat.assistant_mask

Templates are Jinja programs inside of tokenizer files, with the functions that Hugging Face's transformers gives them.
What the conversation says stays text: a control token counts only where the template wrote it, also where the template
puts one together from pieces of its own and of the conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.chat.marked_text import DATA, GENERATED, LAST, MarkedText, marks_of, spread
from jaxllm.tokenizers.chat.template_budget import Budget, ChatTemplateError, RenderLimits, Stopped, release, use
from jaxllm.tokenizers.stages import Span

if TYPE_CHECKING:
    from jaxllm.tokenizers.pipeline import PipelineTokenizer

Message = Mapping[str, Any]
"""With "role" and "content", and whatever else the template looks at."""

_LONGEST_SOURCE = 200_000
_DEEPEST_INPUT = 100

# What an expression of a template may raise, as any Python expression may.
_FAILURES = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError, MemoryError)


@dataclass(frozen=True)
class EncodedChat:
    """The ids of a conversation."""

    text: str
    """what the template rendered"""

    ids: list[int]

    assistant_mask: list[int] | None
    """1 for each id of what the assistant says, otherwise 0; None if the template has no {% generation %} block"""


class ChatTemplate:
    """A compiled template with the names of the special tokens that it may write, such as bos_token."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        *,
        control_tokens: Collection[str] = (),
        limits: RenderLimits | None = None,
        now: Callable[[], datetime] = datetime.now,
    ):
        """special_tokens: by variable, {"bos_token": "<s>"}. control_tokens: tokens that only the template may write,
        besides those that are special: some vocabularies have the marks of a turn as words. now: the clock for
        templates that write the date.

        Raises ChatTemplateError, a ValueError, if the source is no template.
        """
        self.source, self.special_tokens = source, dict(special_tokens or {})
        self.control_tokens = frozenset(control_tokens)
        self.limits, self._now = limits or RenderLimits(), now
        self._strict: tuple[PipelineTokenizer, PipelineTokenizer, str] | None = None
        for name, token in self.special_tokens.items():
            if not isinstance(token, str):
                raise ValueError(f"the special token {name} must be a string, got {token!r}")
        self._template, self.marks_assistant = _compile(source, now)
        """whether the template says, in {% generation %} blocks, what the assistant's text is"""

    def __reduce__(self):
        return _rebuild, (self.source, self.special_tokens, self.control_tokens, self.limits, self._now)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, name: str = "default", **settings: Any) -> ChatTemplate:
        """The template in the content of a tokenizer_config.json; `name` chooses where it has several.

        Raises ValueError if it has none, or none of that name.
        """
        source = config.get("chat_template")
        if isinstance(source, list):
            named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, Mapping)}
            source = named.get(name)
            if source is None:
                raise ValueError(f"there is no chat template {name!r}; there are {', '.join(map(repr, named))}")
        if not isinstance(source, str):
            raise ValueError('there is no chat template: "chat_template" is not in the tokenizer\'s configuration')
        special = {}
        for key, token in config.items():
            content = token.get("content") if isinstance(token, Mapping) else token
            if key.endswith("_token") and isinstance(content, str):
                special[key] = content
        return cls(source, special, **settings)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_last_message: bool = False,
        **variables: Any,
    ) -> str:
        """The conversation as text.

        add_generation_prompt: end with what begins an answer of the assistant. continue_last_message: end where the
        content of the last message does, so that the model continues it. variables: what else the template asks for.
        Everything must be JSON values. A message's keys whose value is None are left out, except content.

        Raises ChatTemplateError if the template refuses the conversation, fails, reaches for what it may not, or
        exceeds the limits; ValueError for messages that are none.
        """
        marked = self._render(messages, tools, add_generation_prompt, continue_last_message, variables)
        return str.__str__(marked)

    def encode(
        self,
        tokenizer: PipelineTokenizer,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_last_message: bool = False,
        special_in_content: bool = False,
        **variables: Any,
    ) -> EncodedChat:
        """The conversation as ids, with a mask of what the assistant says.

        Special tokens are made where the template writes them. Where a message, a tool or a variable has their names,
        that is ordinary text, unless special_in_content says that the conversation is to be trusted. No other special
        tokens are added. Arguments and errors are those of `render`, and those of tokenizer.encode.
        """
        marked = self._render(messages, tools, add_generation_prompt, continue_last_message, variables)
        if special_in_content or not _smuggles(marked, {*tokenizer.special_tokens, *self.control_tokens}):
            ids, spans = tokenizer.encode_with_offsets(str.__str__(marked), allowed_special="all")
        else:
            ids, spans = _encode_apart(*self._strict_tokenizer(tokenizer, marked), marked)
        mask = _assistant_mask(marks_of(marked), spans) if self.marks_assistant else None
        return EncodedChat(str.__str__(marked), ids, mask)

    def _strict_tokenizer(self, tokenizer: PipelineTokenizer, text: str) -> tuple[PipelineTokenizer, str]:
        """The tokenizer with all control tokens special, so that what is not asked for stays text, and one more special
        token, whose name the text doesn't have."""
        if self._strict is None or self._strict[0] is not tokenizer or self._strict[2] in text:
            spare = "\ufdd0"
            while spare in text:
                spare += "\ufdd1"
            control = self.control_tokens
            added = [replace(t, special=True) if t.content in control else t for t in tokenizer.added_tokens]
            added.append(AddedToken(spare, tokenizer.vocab_size))
            self._strict = tokenizer, tokenizer.replace(added_tokens=added), spare
        return self._strict[1:]

    def _render(
        self, messages: Sequence[Message], tools: Any, prompt: bool, continued: bool, variables: Mapping[str, Any]
    ) -> str:
        if prompt and continued:
            raise ValueError("add_generation_prompt begins a new message and continue_last_message doesn't: choose one")
        given = {
            "documents": None,
            **self.special_tokens,
            **{name: _data(value, name) for name, value in variables.items()},
            "messages": _conversation(messages, continued),
            "tools": _data(tools, "tools"),
            "add_generation_prompt": prompt,
        }
        marked = _run(self._template, given, self.limits)
        if not continued:
            return marked
        end = max((i for i, mark in enumerate(marks_of(marked)) if mark & LAST), default=None)
        if end is None:
            raise ChatTemplateError("can't continue the last message: the chat template does not write its content")
        return marked[: end + 1]


def _rebuild(source, special_tokens, control_tokens, limits, now) -> ChatTemplate:
    return ChatTemplate(source, special_tokens, control_tokens=control_tokens, limits=limits, now=now)


def _compile(source: str, now: Callable[[], datetime]) -> tuple[Any, bool]:
    from jinja2 import TemplateSyntaxError

    from jaxllm.tokenizers.chat.template_sandbox import TemplateEnvironment

    if not isinstance(source, str):
        raise ChatTemplateError(f"a chat template is a string, got a {type(source).__name__}")
    if len(source) > _LONGEST_SOURCE:
        raise ChatTemplateError(f"the chat template has {len(source):,} characters; {_LONGEST_SOURCE:,} is the limit")
    try:
        return TemplateEnvironment(now).prepare(source)
    except TemplateSyntaxError as error:
        raise ChatTemplateError(f"line {error.lineno} of the chat template: {error.message}") from None
    except RecursionError:
        raise ChatTemplateError("the chat template is nested too deeply") from None
    except (SyntaxError, MemoryError, ValueError) as error:
        raise ChatTemplateError(f"the chat template can't be compiled: {error}") from error


def _run(template: Any, given: Mapping[str, Any], limits: RenderLimits) -> str:
    from jinja2 import TemplateError
    from jinja2.exceptions import SecurityError

    from jaxllm.tokenizers.chat.template_sandbox import Refusal

    token = use(Budget(limits))
    try:
        return template.render(given)
    except Refusal as error:
        raise ChatTemplateError(f"the chat template refuses this conversation: {error.message}") from None
    except SecurityError as error:
        raise ChatTemplateError(f"the chat template was stopped{_line(error)}: {error.message}") from None
    except Stopped as error:
        raise ChatTemplateError(f"the chat template was stopped{_line(error)}: {error}") from None
    except RecursionError as error:
        raise ChatTemplateError(f"the chat template was stopped{_line(error)}: it calls itself too deeply") from None
    except (TemplateError, *_FAILURES) as error:
        raise ChatTemplateError(f"the chat template failed{_line(error)}: {error}") from error
    finally:
        release(token)


def _line(error: BaseException) -> str:
    from jaxllm.tokenizers.chat.template_sandbox import FILE_NAME

    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == FILE_NAME]
    return f" at line {lines[-1]}" if lines else ""


def _conversation(messages: Sequence[Message], continued: bool) -> list[dict]:
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise ValueError(f"a conversation is a list of messages, got a {type(messages).__name__}")
    if not messages:
        raise ValueError("a conversation must have at least one message")
    plain = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f'messages[{i}] must be a dict with "role" and "content", got a {type(message).__name__}')
        present = {key: value for key, value in message.items() if value is not None or key == "content"}
        plain.append(_data(present, f"messages[{i}]"))
    if continued:
        last = next((key for key in plain[-1] if key == "content"), None)
        content = plain[-1].get("content")
        if isinstance(content, list) and content and isinstance(content[-1], dict) and "text" in content[-1]:
            content[-1]["text"] = spread(content[-1]["text"], LAST)
        elif last and isinstance(content, str) and content:
            plain[-1]["content"] = spread(content, LAST)
        else:
            raise ValueError("can't continue the last message: its content has no text")
    return plain


def _data(value: Any, where: str, depth: int = 0) -> Any:
    """A copy in which nothing but JSON values is left, and each string is marked as data."""
    if value is None or isinstance(value, bool):
        return value
    if depth > _DEEPEST_INPUT:
        raise ValueError(f"{where} is nested more than {_DEEPEST_INPUT} levels deep")
    match value:
        case str():
            return MarkedText(value, bytes([DATA]) * len(value))
        case int():
            return int(value)
        case float():
            return float(value)
        case Mapping():
            if unfit := [key for key in value if not isinstance(key, str | int | float | None)]:
                raise ValueError(f"{where} has the key {unfit[0]!r}; the keys of what JSON has are strings")
            return {_data(k, where, depth + 1): _data(v, f"{where}.{k}", depth + 1) for k, v in value.items()}
        case list() | tuple():
            return [_data(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise ValueError(
        f"{where} is a {type(value).__name__}; a chat template is given only what JSON has: strings, numbers, "
        "booleans, None, lists and dicts"
    )


def _names(tokens: Collection[str]) -> re.Pattern:
    """Finds the leftmost, and of those that begin at one place the longest."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def _smuggles(marked: str, tokens: Collection[str]) -> bool:
    """Whether the conversation has, or takes part in, the name of a token."""
    marks = marks_of(marked)
    return any(_has_data(marks, *found.span()) for found in _names(tokens).finditer(marked))


def _encode_apart(tokenizer: PipelineTokenizer, spare: str, marked: str) -> tuple[list[int], list[Span]]:
    text, marks, special = str.__str__(marked), marks_of(marked), tokenizer.special_tokens
    names = _names(special)
    # What is between the template's own tokens is encoded by itself.
    ids, spans, before = [], [], ""
    for begin, end in _between(names, text, marks):
        found, places = _ordinary(tokenizer, text[begin:end], before, spare)
        ids += found
        spans += [(begin + left, begin + right) for left, right in places]
        if following := names.match(text, end):
            before = following.group()
            ids.append(special[before])
            spans.append(following.span())
    return ids, spans


def _has_data(marks: bytes, begin: int, end: int) -> bool:
    return any(mark & DATA for mark in marks[begin:end])


def _between(names: re.Pattern, text: str, marks: bytes) -> list[Span]:
    """The stretches before, between and after the names that are written by the template alone."""
    stretches, begin = [], 0
    own = "".join("\0" if mark & DATA else character for character, mark in zip(text, marks, strict=True))
    for found in names.finditer(own):
        stretches.append((begin, found.start()))
        begin = found.end()
    return [*stretches, (begin, len(text))]


def _ordinary(tokenizer: PipelineTokenizer, text: str, before: str, spare: str) -> tuple[list[int], list[Span]]:
    """The ids of a text in which nothing is special, but which may stand behind a special token.

    Some vocabularies treat the begin of a text differently, so it is encoded behind a token whose name it has not: best
    the one that really stands there, since some take white space that follows.
    """
    if not before or not text:
        return tokenizer.encode_with_offsets(text)
    name = spare if before in text else before
    ids, spans = tokenizer.encode_with_offsets(name + text, allowed_special={name})
    return ids[1:], [(left - len(name), right - len(name)) for left, right in spans[1:]]


def _assistant_mask(marks: bytes, spans: Sequence[Span]) -> list[int]:
    generated = [mark & GENERATED for mark in marks] + [0]
    return [
        int(any(generated[begin:end]) if end > begin else bool(begin and generated[begin - 1] and generated[begin]))
        for begin, end in spans
    ]
