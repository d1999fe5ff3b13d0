"""Documents to batches: sources, split, token store, packing, loader.

A name is imported from its file when it is first asked for, so that this room costs nothing to those who need one
part of it.
"""

import importlib

_FILE_OF = {
    "STDLIB": "config",
    "STDLIB_SOURCE": "config",
    "DataConfig": "config",
    "FillInTheMiddleConfig": "config",
    "SourceConfig": "config",
    "StageConfig": "config",
    "Document": "documents",
    "DocumentError": "documents",
    "read_documents": "documents",
    "stdlib_documents": "stdlib",
    "split_of": "split",
    "TokenStore": "token_store",
    "TokenStoreError": "token_store",
    "Layout": "token_store",
    "create_token_store": "token_store",
    "join_shards": "token_store",
    "resume_token_store": "token_store",
    "write_shard": "token_store",
    "write_token_store": "token_store",
    "TokenSource": "token_source",
    "open_tokens": "prepared",
    "PackingPlan": "packing",
    "pack_row": "packing",
    "plan_best_fit": "packing",
    "plan_concat": "packing",
    "plan_first_fit": "packing",
    "plan_packing": "packing",
    "TrainLoader": "loader",
    "ValidationBatches": "loader",
    "Corpus": "corpus",
    "PartReport": "corpus",
    "SplitDocuments": "corpus",
    "open_corpora": "corpus",
    "open_corpus": "corpus",
    "prepare_corpora": "corpus",
    "prepare_corpus": "corpus",
    "report_corpus": "corpus",
    "split_documents": "corpus",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str):
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
