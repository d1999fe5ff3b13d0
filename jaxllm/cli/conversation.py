"""A conversation with a model that has a chat template: turns go in and out as messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxllm.cli.chat import Session

HELP = """\
What you type is answered.
  /temperature X    also /top_k, /top_p, /min_p, /repetition_penalty, /max_new_tokens and /seed; without X it is shown
  /system TEXT      begin anew with these instructions to the model; without TEXT they are shown
  /new              forget everything said so far
  /help             this page
  /quit             leave, as Ctrl-D does; Ctrl-C stops the answer that is being written
  //                begins a message that starts with a slash"""

Message = dict[str, str]


@dataclass
class Conversation(Session):
    """What was said, and the settings that answers are written with."""

    system: str = ""
    messages: list[Message] = field(default_factory=list)

    help = HELP
    kind = "a chat model"
    advice = "it answers what you type; /help lists the commands"

    def prompt(self, text: str) -> tuple[list[int], int]:
        """The conversation with one more message, ready for its answer; and how many tokens of the oldest turns had to
        go to leave room for it.

        Raises ValueError for a message that alone is too long, or that the template refuses.
        """
        said, asked, length = self.messages, {"role": "user", "content": text}, self.lm.config.context_length
        room = length - min(self.max_new_tokens, length // 2)
        whole = ids = self._ids([*said, asked])
        while len(ids) > room and said:
            said = said[2:]
            ids = self._ids([*said, asked])
        if len(ids) > room:
            raise ValueError(f"the message comes to {len(ids)} tokens; {room} leave room for an answer: shorten it")
        self.messages = [*said, asked]
        return ids, len(whole) - len(ids)

    def answer(self, prompt: list[int]) -> Iterator[str]:
        """What the model says to the last message, in pieces; as far as it came it is part of the conversation."""
        said: list[str] = []
        try:
            for piece in super().answer(prompt):
                said.append(piece)
                yield piece
        finally:
            self.messages.append({"role": "assistant", "content": "".join(said)})

    def new_document(self) -> bool:
        return False

    def forget(self) -> None:
        self.messages = []

    def command(self, line: str) -> str:
        name, _, value = line.partition(" ")
        if name != "system":
            return super().command(line)
        if value.strip():
            self.system = value.strip()
            self.forget()
        return f"the instructions are: {self.system or '(those of the template)'}"

    def _ids(self, messages: list[Message]) -> list[int]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return chat_prompt(self.lm, [*system, *messages])


def has_template(lm: Any) -> bool:
    return getattr(lm.tokenizer, "chat_template", None) is not None


def chat_prompt(lm: Any, messages: list[Message]) -> list[int]:
    """The ids of a conversation up to where the model's answer begins. Raises ValueError if it has no template."""
    return lm.tokenizer.apply_chat_template(messages, add_generation_prompt=True).ids
