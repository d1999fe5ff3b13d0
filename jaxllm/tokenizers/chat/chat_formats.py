"""The ways in which well-known families of models write a conversation down.

    template = CHAT_FORMATS["chatml"].template()
    template = CHAT_FORMATS["llama3"].template_for(tokenizer)   # raises if the vocabulary lacks its control tokens

Each renders the same text as the template that was published with the models, and says besides what the assistant's own
text is, the token that ends it included. A message's content is a string, or a list of parts of type "text".
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.tokenizers.chat.chat_template import ChatTemplate
from jaxllm.tokenizers.protocol import Tokenizer


@dataclass(frozen=True)
class ChatFormat:
    """One way to write a conversation down."""

    name: str

    description: str
    """the models that use it, and what is peculiar about it"""

    source: str
    """the Jinja template"""

    control_tokens: tuple[str, ...]
    """the tokens it writes besides those of `variables`; some vocabularies have them as words, not as special tokens"""

    variables: tuple[tuple[str, str], ...]
    """the special tokens that the template knows by a variable, and what they usually are"""

    end_of_turn: str
    """the token after which the assistant has finished"""

    def template(self, **special_tokens: str) -> ChatTemplate:
        """The template; special_tokens says where a vocabulary names them differently, as eos_token="<end>".

        Raises ValueError for a variable that the format does not have.
        """
        unknown = set(special_tokens) - {variable for variable, _ in self.variables}
        if unknown:
            known = [variable for variable, _ in self.variables]
            raise ValueError(f"the chat format {self.name!r} has no {sorted(unknown)}; it has {known}")
        return ChatTemplate(self.source, dict(self.variables) | special_tokens, control_tokens=self.control_tokens)

    def template_for(self, tokenizer: Tokenizer, **special_tokens: str) -> ChatTemplate:
        """The template, after a look whether the vocabulary has its control tokens. Raises ValueError if not."""
        template = self.template(**special_tokens)
        needed = [*template.special_tokens.values(), *self.control_tokens]
        words = {token.content for token in getattr(tokenizer, "added_tokens", ())}
        missing = [token for token in needed if token not in words and token not in tokenizer.special_tokens]
        if missing:
            raise ValueError(
                f"the chat format {self.name!r} needs the tokens {missing}, which the vocabulary lacks; add "
                "them, or choose another format"
            )
        return template


# Used by all: the text of a content, and what none of the formats has a place for.
_PREAMBLE = """\
{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content is sequence and content is not mapping -%}
        {%- for part in content -%}
            {%- if part.type != "text" -%}
                {{- raise_exception("only parts of type 'text' can be written, not '" ~ part.type ~ "'") -}}
            {%- endif -%}
            {{- part.text -}}
        {%- endfor -%}
    {%- else -%}
        {{- raise_exception("a message's content must be a string or a list of parts of type 'text'") -}}
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{- raise_exception("this format has no place for tools") -}}
{%- endif -%}
"""

# Used by the formats in which user and assistant take turns, and only the first message may be the system's.
_TURNS = """\
{%- set system = text(messages[0].content) if messages[0].role == "system" else none -%}
{%- set turns = messages[1:] if messages[0].role == "system" else messages -%}
{%- for message in turns -%}
    {%- if message.role != ("user" if loop.index is odd else "assistant") -%}
        {{- raise_exception("after an optional system message, user and assistant must take turns; message "
            ~ (loop.index0 + messages|length - turns|length) ~ " is the " ~ message.role ~ "'s") -}}
    {%- endif -%}
{%- endfor -%}
"""

_CHATML = """\
{%- for message in messages -%}
    {{- "<|im_start|>" + message.role + "\\n" -}}
    {%- if message.role == "assistant" -%}
        {%- generation -%}
            {{- text(message.content) + "<|im_end|>" -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- text(message.content) + "<|im_end|>" -}}
    {%- endif -%}
    {{- "\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""

_LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
    {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" -}}
    {%- if message.role == "assistant" -%}
        {%- generation -%}
            {{- text(message.content)|trim + "<|eot_id|>" -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- text(message.content)|trim + "<|eot_id|>" -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" -}}
{%- endif -%}
"""

_LLAMA2 = """\
{%- for message in turns -%}
    {%- if message.role == "user" -%}
        {%- set said = text(message.content) -%}
        {%- if loop.first and system is not none -%}
            {%- set said = "<<SYS>>\\n" + system + "\\n<</SYS>>\\n\\n" + said -%}
        {%- endif -%}
        {{- bos_token + "[INST] " + said.strip() + " [/INST]" -}}
    {%- else -%}
        {%- generation -%}
            {{- " " + text(message.content).strip() + " " + eos_token -}}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
"""

_MISTRAL = """\
{{- bos_token -}}
{%- for message in turns -%}
    {%- if message.role == "user" -%}
        {{- "[INST] " + (system + "\\n\\n" if loop.first and system is not none else "") -}}
        {{- text(message.content) + " [/INST]" -}}
    {%- else -%}
        {%- generation -%}
            {{- text(message.content) + eos_token -}}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
"""

_ZEPHYR = """\
{%- for message in messages -%}
    {%- if message.role not in ("system", "user", "assistant") -%}
        {{- raise_exception("the roles are system, user and assistant, not " ~ message.role) -}}
    {%- endif -%}
    {{- "<|" + message.role + "|>\\n" -}}
    {%- if message.role == "assistant" -%}
        {%- generation -%}
            {{- text(message.content) + eos_token -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- text(message.content) + eos_token -}}
    {%- endif -%}
    {{- "\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|assistant|>\\n" -}}
{%- endif -%}
"""

_GEMMA = """\
{{- bos_token -}}
{%- for message in turns -%}
    {%- if message.role == "user" -%}
        {{- "<start_of_turn>user\\n" + (system + "\\n\\n" if loop.first and system is not none else "") -}}
        {{- text(message.content)|trim + "<end_of_turn>" -}}
    {%- else -%}
        {{- "<start_of_turn>model\\n" -}}
        {%- generation -%}
            {{- text(message.content)|trim + "<end_of_turn>" -}}
        {%- endgeneration -%}
    {%- endif -%}
    {{- "\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<start_of_turn>model\\n" -}}
{%- endif -%}
"""

_DEEPSEEK = """\
{{- bos_token -}}
{%- for message in messages if message.role == "system" -%}
    {{- ("" if loop.first else "\\n\\n") + text(message.content) -}}
{%- endfor -%}
{%- for message in messages if message.role != "system" -%}
    {%- if message.role == "user" -%}
        {{- "<｜User｜>" + text(message.content) -}}
    {%- elif message.role == "assistant" -%}
        {{- "<｜Assistant｜>" -}}
        {%- generation -%}
            {{- text(message.content) + eos_token -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- raise_exception("the roles are system, user and assistant, not " ~ message.role) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<｜Assistant｜>" -}}
{%- endif -%}
"""

_S = (("bos_token", "<s>"), ("eos_token", "</s>"))

_FORMATS = (
    ChatFormat(
        "chatml",
        "Qwen, SmolLM, OpenHermes and many others; any role, any order",
        _PREAMBLE + _CHATML,
        ("<|im_start|>", "<|im_end|>"),
        (),
        "<|im_end|>",
    ),
    ChatFormat(
        "llama2",
        "Llama 2 chat; the system message is part of the user's first one, and each user's message begins with <s>",
        _PREAMBLE + _TURNS + _LLAMA2,
        (),
        _S,
        "</s>",
    ),
    ChatFormat(
        "llama3",
        "Llama 3 instruct, without the tools and dates of 3.1; any role, any order",
        _PREAMBLE + _LLAMA3,
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        (("bos_token", "<|begin_of_text|>"),),
        "<|eot_id|>",
    ),
    ChatFormat(
        "mistral",
        "Mistral 7B instruct 0.1 and 0.2, Mixtral; a system message is put before the user's first one",
        _PREAMBLE + _TURNS + _MISTRAL,
        (),
        _S,
        "</s>",
    ),
    ChatFormat(
        "zephyr",
        "Zephyr, TinyLlama chat; the names of the roles are ordinary text",
        _PREAMBLE + _ZEPHYR,
        (),
        (("eos_token", "</s>"),),
        "</s>",
    ),
    ChatFormat(
        "gemma",
        "Gemma 1 to 3; the system message is part of the user's first one, and the assistant is called model",
        _PREAMBLE + _TURNS + _GEMMA,
        ("<start_of_turn>", "<end_of_turn>"),
        (("bos_token", "<bos>"),),
        "<end_of_turn>",
    ),
    ChatFormat(
        "deepseek",
        "DeepSeek V2.5, V3; system messages come first, wherever they are in the conversation",
        _PREAMBLE + _DEEPSEEK,
        ("<｜User｜>", "<｜Assistant｜>"),
        (("bos_token", "<｜begin▁of▁sentence｜>"), ("eos_token", "<｜end▁of▁sentence｜>")),
        "<｜end▁of▁sentence｜>",
    ),
)

CHAT_FORMATS = {chat_format.name: chat_format for chat_format in _FORMATS}
"""By name."""
