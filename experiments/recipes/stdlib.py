"""Python's own documentation and source code, cleaned and deduplicated: a recipe that runs anywhere without a download.

    jaxllm data prepare stdlib --engine processes

Prose and code go through filters of their own, looser than those for the web: `jaxllm data inspect` showed that pydoc's
frames of "|" count as words without letters, and that its pages repeat lines on purpose.
"""

from jaxllm.data.cleaning import Clean
from jaxllm.data.dedup import ExactDocuments, MinHash
from jaxllm.data.only import Only
from jaxllm.data.pii import RemovePersonalData
from jaxllm.data.quality.chain import Chain
from jaxllm.data.quality.code import CodeCharacters, CodeIsEncodedData, CodeLines
from jaxllm.data.quality.gopher import GopherQuality
from jaxllm.data.recipe import Recipe
from jaxllm.data.sources import StandardLibrary
from jaxllm.tokenizers.config import TokenizerConfig

PROSE, CODE = "python docs", "python code"


def recipe() -> Recipe:
    return Recipe(
        name="stdlib",
        sources=(StandardLibrary("documentation", PROSE), StandardLibrary("code", CODE)),
        stages=(
            Only((PROSE,), Clean(boilerplate_lines=False, repeated_lines=0)),
            Only((PROSE,), GopherQuality(min_alphabetic_words=0.3, max_symbols_per_word=None)),
            Only((CODE,), Chain((CodeLines(), CodeCharacters(), CodeIsEncodedData()), name="code")),
            RemovePersonalData(),
            ExactDocuments(),
            MinHash(),
        ),
        tokenizer=TokenizerConfig(vocab_size=8192),
        shard_bytes=3 * 2**20,
        partitions=4,
        token_sample=4,
    )
