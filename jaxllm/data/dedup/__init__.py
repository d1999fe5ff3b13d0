"""Finding documents, paragraphs and passages that are in a corpus more than once.

docs/deduplication.md says which to use when. Each is a CrossStage (`jaxllm.data.stages`), so that any engine runs it.
"""

from jaxllm.data.dedup.exact import ExactDocuments, ExactParagraphs
from jaxllm.data.dedup.minhash import MinHash
from jaxllm.data.dedup.semantic import Semantic
from jaxllm.data.dedup.simhash import SimHash
from jaxllm.data.dedup.substrings import RepeatedSubstrings

__all__ = ["ExactDocuments", "ExactParagraphs", "MinHash", "RepeatedSubstrings", "Semantic", "SimHash"]
