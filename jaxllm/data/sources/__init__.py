"""Where documents come from. Every source lists shards that can be read alone; see shards.py."""

from jaxllm.lazy_names import lazy_names

_FILE_OF = {
    "Problem": "shards",
    "Report": "shards",
    "Shard": "shards",
    "Source": "shards",
    "refuse": "shards",
    "Files": "files",
    "SourceCode": "code",
    "StandardLibrary": "standard_library",
    "HuggingFaceDataset": "hugging_face",
}

__all__ = list(_FILE_OF)
__getattr__, __dir__ = lazy_names(globals(), {name: f"{__name__}.{file}" for name, file in _FILE_OF.items()})
