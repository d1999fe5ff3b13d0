"""Pages of a crawl to a corpus: the rules of Gopher, C4 and FineWeb, personal data out, near duplicates out.

    jaxllm data prepare web --sources.crawl.path "crawl/*.warc.wet.gz" --engine processes

Reads whatever jaxllm.data.sources reads, so WARC files with HTML too, of which it takes the main text.
"""

from jaxllm.data.cleaning import Clean
from jaxllm.data.dedup import MinHash
from jaxllm.data.pii import RemovePersonalData
from jaxllm.data.quality import C4Quality, Chain, FineWeb, GopherQuality, GopherRepetition, Length
from jaxllm.data.recipe import Recipe
from jaxllm.data.sources import Files
from jaxllm.tokenizers.config import TokenizerConfig


def recipe() -> Recipe:
    return Recipe(
        name="web",
        sources=(Files("crawl", name="crawl"),),
        stages=(
            Clean(),
            # As FineWeb has it: C4's rules but that for the ends of lines, which would take a third of all documents.
            Chain((Length(), GopherRepetition(), GopherQuality(), C4Quality(line_ends=()), FineWeb())),
            RemovePersonalData(),
            MinHash(),
        ),
        tokenizer=TokenizerConfig(vocab_size=32768),
        partitions=64,
        token_sample=64,
    )
