"""Personal data and secrets in text: found by patterns and checksums, replaced by placeholders such as <EMAIL>."""

from jaxllm.lazy_names import lazy_names

_FILE_OF = {
    "KINDS": "finding",
    "Finding": "finding",
    "Kind": "finding",
    "RemovePersonalData": "finding",
    "find": "finding",
    "replace": "finding",
}

__all__ = list(_FILE_OF)
__getattr__, __dir__ = lazy_names(globals(), {name: f"{__name__}.{file}" for name, file in _FILE_OF.items()})
