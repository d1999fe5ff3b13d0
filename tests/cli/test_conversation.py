"""jaxllm chat and generate with a model that has a chat template: turns are messages."""

import contextlib
import io
from dataclasses import replace

import pytest

from jaxllm.cli.conversation import Conversation
from jaxllm.cli.main import main
from jaxllm.inference import SamplingConfig, complete

from .saved_model import ending_model, saved, small_model

GREEDY = SamplingConfig(0)
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def chatting(lm):
    return replace(lm, tokenizer=lm.tokenizer.replace(chat_template=TEMPLATE))


@pytest.fixture(scope="module")
def lm():
    return chatting(small_model())


@pytest.fixture(scope="module")
def model(lm, tmp_path_factory):
    return saved(lm, tmp_path_factory.mktemp("models") / "chatting")


@pytest.fixture
def talk(model, monkeypatch, capsys):
    def run(lines, *options, model=model):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        status = main(["chat", model, "--max-new-tokens", "4", "--temperature", "0", "--top-p", "1", *options])
        return status, *capsys.readouterr()

    return run


def answer(lm, text, length=4):
    [generation] = complete(lm, [lm.tokenizer.encode(text)], max_new_tokens=length, sampling=GREEDY)
    return generation.text


def lines_of(*texts):
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts)


def test_turns_are_messages(lm, talk):
    first = answer(lm, "<u>hi\n<a>")
    second = answer(lm, f"<u>hi\n<a>{first}\n<u>yes\n<a>")
    assert talk(["hi", "yes"])[:2] == (0, lines_of(first, second))


def test_what_kind_of_model_it_is_is_said(talk):
    assert "a chat model" in talk(["/help"])[2]
    _, _, err = talk(["/help"], "--continue")
    assert "a base model" in err and "continued, not answered" in err


def test_instructions_begin_the_conversation(lm, talk):
    status, out, err = talk(["hi", "/system Be brief.", "hi", "/system", "/new", "hi"], "--system", "Be kind.")
    kind, brief = answer(lm, "<s>Be kind.\n<u>hi\n<a>"), answer(lm, "<s>Be brief.\n<u>hi\n<a>")
    assert (status, out) == (0, lines_of(kind, brief, brief))
    assert err.count("the instructions are: Be brief.") == 2


def test_instructions_to_a_model_that_only_continues(talk):
    status, out, err = talk(["hi"], "--system", "Be kind.", "--continue")
    assert (status, out) == (2, "")
    assert "error: --system is for a chat model that answers; this one continues a text" in err


def test_the_oldest_turns_make_room(lm):
    conversation = Conversation(lm, GREEDY, seed=0, max_new_tokens=8)
    # Without the first message alone the rest would fit, but then it would begin with an answer to nothing.
    conversation.messages = [{"role": "user", "content": "u" * 34}, {"role": "assistant", "content": "a"}]
    ids, dropped = conversation.prompt("x" * 10)
    assert lm.tokenizer.decode(ids) == f"<u>{'x' * 10}\n<a>"
    assert dropped == len(f"<u>{'u' * 34}\n<a>a\n")
    assert len(ids) + 8 <= lm.config.context_length
    with pytest.raises(ValueError, match="the message comes to .* tokens; 56 leave room for an answer: shorten it"):
        conversation.prompt("x" * 60)


def test_an_interrupted_answer_stays_in_the_conversation(lm):
    conversation = Conversation(lm, GREEDY, seed=0, max_new_tokens=20)
    ids, _ = conversation.prompt("hi")
    with contextlib.closing(conversation.answer(ids)) as pieces:
        said = next(pieces)
    assert conversation.messages == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": said}]


def test_a_model_that_says_nothing(talk, tmp_path):
    silent = saved(chatting(ending_model()), tmp_path / "silent")
    status, out, err = talk(["a", "b"], model=silent)
    assert (status, out) == (0, "\n\n")
    assert "ended its document" not in err


def test_stop_tokens_end_an_answer(lm, talk, tmp_path):
    ids = lm.tokenizer.encode("<u>hi\n<a>")
    [whole] = complete(lm, [ids], max_new_tokens=4, sampling=GREEDY)
    at = next(i for i in range(1, 4) if whole.tokens[i] not in whole.tokens[:i])
    stopping = replace(lm, stop_tokens=(300, whole.tokens[at]))
    [cut] = complete(stopping, [ids], max_new_tokens=4, sampling=GREEDY)
    assert (cut.tokens, cut.finish_reason) == (whole.tokens[: at + 1], "end_of_text")
    assert talk(["hi"], model=saved(stopping, tmp_path / "stopping"))[:2] == (0, lines_of(cut.text))
    with pytest.raises(ValueError, match="stop_tokens has 4711, but the ids are 0 to 319"):
        replace(lm, stop_tokens=(4711,))


def test_generate_answers_a_message(lm, model, capsys):
    options = ["--prompt", "hi", "--max-new-tokens", "4", "--temperature", "0"]
    assert main(["generate", model, "--chat", *options]) == 0
    assert capsys.readouterr().out == lines_of(answer(lm, "<u>hi\n<a>"))
    assert main(["generate", model, *options]) == 0
    [plain] = complete(lm, ["hi"], max_new_tokens=4, sampling=GREEDY)
    assert capsys.readouterr().out == lines_of(plain.text)


def test_generate_from_a_model_without_a_template(tmp_path, capsys):
    assert main(["generate", saved(small_model(), tmp_path / "plain"), "--chat", "--prompt", "hi"]) == 2
    assert "this tokenizer has no chat template" in capsys.readouterr().err


def test_the_type_to_compute_in(model, capsys):
    options = ["--prompt", "hi", "--max-new-tokens", "4", "--temperature", "0"]
    assert main(["generate", model, "--dtype", "bfloat16", *options]) == 0
    assert "4 tokens written" in capsys.readouterr().err
