import json
import random

import pytest

from jaxllm.tokenizers.added_tokens import AddedToken
from jaxllm.tokenizers.chat.chat_formats import CHAT_FORMATS
from jaxllm.tokenizers.chat.chat_template import ChatTemplate
from jaxllm.tokenizers.chat.template_budget import ChatTemplateError

SYSTEM = {"role": "system", "content": "Be kind."}
TURNS = [
    {"role": "user", "content": " Hi "},
    {"role": "assistant", "content": "Hello. "},
    {"role": "user", "content": "Bye"},
]

# With a system message and a generation prompt, as each family's published template writes it.
EXPECTED = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nHello. "
    "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama2": "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n Hi [/INST] Hello. </s><s>[INST] Bye [/INST]",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be kind.\n\n Hi  [/INST]Hello. </s>[INST] Bye [/INST]",
    "zephyr": "<|system|>\nBe kind.</s>\n<|user|>\n Hi </s>\n<|assistant|>\nHello. </s>\n<|user|>\nBye</s>\n"
    "<|assistant|>\n",
    "gemma": "<bos><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
    "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    "deepseek": "<｜begin▁of▁sentence｜>Be kind.<｜User｜> Hi <｜Assistant｜>Hello. <｜end▁of▁sentence｜><｜User｜>Bye"
    "<｜Assistant｜>",
}
ALTERNATING = ["llama2", "mistral", "gemma"]


def conversations(seed: int, count: int):
    rng = random.Random(seed)
    words = ["Hello", "  spaced ", "é\u0301 😀", "a\nb\n", "", "[INST]", "{{ x }}", "1 < 2 & 'x'", "\t"]
    for _ in range(count):
        messages = [SYSTEM] if rng.random() < 0.5 else []
        for i in range(rng.randint(1, 5)):
            content = " ".join(rng.choices(words, k=rng.randint(1, 4)))
            messages.append({"role": ("user", "assistant")[i % 2], "content": content})
        yield messages, rng.random() < 0.5


@pytest.fixture(scope="module")
def hugging_face():
    """A byte-level tokenizer of transformers with the special tokens that are asked for."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")

    def make(special: list[str]):
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel

        vocabulary = {token: i for i, token in enumerate(sorted(ByteLevel.alphabet()))}
        tokenizer = tokenizers.Tokenizer(
            BPE(vocab=vocabulary | {"Ġa": 256, "el": 257}, merges=[("Ġ", "a"), ("e", "l")])
        )
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        fast.add_tokens(special, special_tokens=True)
        return fast

    return make


class Adapted:
    """A tokenizer of transformers, as far as chat templates look at one; it makes special tokens of all their names."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.special_tokens = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}

    def encode_with_offsets(self, text, *, allowed_special=frozenset()):
        assert allowed_special == "all"
        encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoding["input_ids"], encoding["offset_mapping"]


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_the_text(name):
    template = CHAT_FORMATS[name].template()
    assert template.render([SYSTEM, *TURNS], add_generation_prompt=True) == EXPECTED[name]
    plain = template.render(TURNS)
    assert "Be kind." not in plain


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_the_assistant_says_what_comes_after_the_prompt_and_ends_its_turn(name):
    """So what is learned is what is generated: the text to be learned is exactly what follows on the prompt."""
    template = CHAT_FORMATS[name].template()
    prompt = template.render(TURNS[:1], add_generation_prompt=True)
    whole = template._render(TURNS[:2], None, False, False, {})
    assert whole.startswith(prompt)
    said = "".join(character for character, mark in zip(str.__str__(whole), whole.marks, strict=True) if mark & 2)
    assert whole[len(prompt) :].rstrip("\n") == said
    assert said.endswith(CHAT_FORMATS[name].end_of_turn)
    assert said.removesuffix(CHAT_FORMATS[name].end_of_turn).strip() == "Hello."


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_text_ids_and_mask_equal_those_of_transformers(name, hugging_face):
    chat_format = CHAT_FORMATS[name]
    template = chat_format.template()
    tokenizer = hugging_face([*template.special_tokens.values(), *chat_format.control_tokens])
    assert chat_format.template_for(Adapted(tokenizer)).source == template.source
    for variable, token in template.special_tokens.items():
        setattr(tokenizer, variable, token)
    tokenizer.chat_template = template.source
    for messages, prompt in conversations(len(name), 30):
        ours = template.encode(Adapted(tokenizer), messages, add_generation_prompt=prompt)
        theirs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=prompt, return_dict=True, return_assistant_tokens_mask=True
        )
        assert ours.text == tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
        assert ours.ids == theirs["input_ids"]
        assert ours.assistant_mask == theirs["assistant_masks"]
        assert any(ours.assistant_mask) == any(message["role"] == "assistant" for message in messages)


def test_a_published_template_renders_as_in_transformers(hugging_face, shared):
    config = json.loads(shared("tokenizers/qwen/qwen2_5_tokenizer_config.json").read_text(encoding="utf-8"))
    template = ChatTemplate.from_config(config)
    tokenizer = hugging_face(["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = config["chat_template"]
    function = {"name": "add", "description": "Adds <b> & 'é'", "parameters": {"x": {"type": "number"}}}
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"x": [1, "é"]}}}]}
    used = [*TURNS, called, {"role": "tool", "content": "4"}, {"role": "tool", "content": "5"}]
    for messages in (TURNS, [SYSTEM, *TURNS], used):
        for tools in (None, [{"type": "function", "function": function}]):
            for prompt in (True, False):
                theirs = tokenizer.apply_chat_template(
                    messages, tools=tools, add_generation_prompt=prompt, tokenize=False
                )
                assert template.render(messages, tools, add_generation_prompt=prompt) == theirs


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_content_in_parts(name):
    template = CHAT_FORMATS[name].template()
    parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in TURNS]
    assert template.render(parts) == template.render(TURNS)
    for content, message in (
        ([{"type": "image"}], "only parts of type 'text' can be written, not 'image'"),
        (None, "content must be a string or a list of parts"),
    ):
        with pytest.raises(ChatTemplateError, match=message):
            template.render([{"role": "user", "content": content}])


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_tools_are_refused(name):
    with pytest.raises(ChatTemplateError, match="this format has no place for tools"):
        CHAT_FORMATS[name].template().render(TURNS, [{"name": "add"}])


@pytest.mark.parametrize("name", ALTERNATING)
@pytest.mark.parametrize(
    "messages, message",
    [
        ([SYSTEM, TURNS[1]], "message 1 is the assistant's"),
        ([TURNS[0], TURNS[0]], "message 1 is the user's"),
        ([SYSTEM, TURNS[0], SYSTEM], "message 2 is the system's"),
        ([{"role": "tool", "content": ""}], "message 0 is the tool's"),
    ],
)
def test_user_and_assistant_take_turns(name, messages, message):
    with pytest.raises(ChatTemplateError, match=f"must take turns; {message}"):
        CHAT_FORMATS[name].template().render(messages)


@pytest.mark.parametrize("name", ["zephyr", "deepseek"])
def test_roles_that_a_format_has_not(name):
    with pytest.raises(ChatTemplateError, match="the roles are system, user and assistant, not tool"):
        CHAT_FORMATS[name].template().render([{"role": "tool", "content": "4"}])


def test_other_names_of_special_tokens():
    assert CHAT_FORMATS["zephyr"].template(eos_token="<end>").render(TURNS[:1]) == "<|user|>\n Hi <end>\n"
    with pytest.raises(ValueError, match=r"the chat format 'chatml' has no \['eos_token'\]; it has \[\]"):
        CHAT_FORMATS["chatml"].template(eos_token="x")


def test_a_vocabulary_without_the_control_tokens():
    class Other:
        special_tokens = {"<bos>": 0, "<end_of_turn>": 1}

    with pytest.raises(ValueError, match=r"'gemma' needs the tokens \['<start_of_turn>'\], which the vocabul"):
        CHAT_FORMATS["gemma"].template_for(Other())


def test_a_vocabulary_that_has_the_control_tokens_as_words():
    class Words:
        special_tokens = {"<bos>": 0}
        added_tokens = tuple(AddedToken(name, 1, special=False) for name in ("<start_of_turn>", "<end_of_turn>"))

    template = CHAT_FORMATS["gemma"].template_for(Words())
    assert template.control_tokens == {"<start_of_turn>", "<end_of_turn>"}
