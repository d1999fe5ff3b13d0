import os
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from jaxllm.tokenizers import PipelineTokenizer, train_byte_bpe

SHARED = Path(os.environ.get("JAXLLM_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Real text, 55 kB of it: some pages of the language reference."""
    return [topics[name] for name in ("class", "exprlists", "for", "function", "formatstrings", "import", "try")]


@pytest.fixture(scope="session")
def tokenizer(texts) -> PipelineTokenizer:
    return train_byte_bpe(texts, 1000)


@pytest.fixture(scope="session")
def shared():
    """Gives the path of a file of the shared data folder, or skips the test."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"{SHARED / name} is not there; JAXLLM_SHARED_DATA can name another folder")
        return SHARED / name

    return find
