import hashlib

import pytest

from jaxllm.data.documents import Document
from jaxllm.data.token_store import TokenStore, write_token_store


class ByteTokenizer:
    """One id per UTF-8 byte; id 256 is the end of text. `salt` makes a different tokenizer of it."""

    def __init__(self, salt: str = "", vocab_size: int = 257):
        self.vocab_size = vocab_size
        self.end_of_text = vocab_size - 1
        self._salt = salt

    def encode_batch(self, texts):
        return [list(text.encode("utf-8")) for text in texts]

    def fingerprint(self) -> str:
        return hashlib.sha256(f"bytes {self.vocab_size} {self._salt}".encode()).hexdigest()


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def store_of(tmp_path_factory, tokenizer):
    """Makes a store in which document i has lengths[i] random ids."""

    def make(lengths: list[int]) -> TokenStore:
        documents = [
            Document(str(i), "".join(chr(33 + (7 * i + 3 * j) % 90) for j in range(n))) for i, n in enumerate(lengths)
        ]
        return write_token_store(tmp_path_factory.mktemp("store") / "s", documents, tokenizer)

    return make
