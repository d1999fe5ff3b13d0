"""Models that the sentencepiece library trains, for comparison."""

from pathlib import Path

import pytest


def library():
    return pytest.importorskip("sentencepiece", reason="the sentencepiece library is not installed (make parity)")


def train(directory: Path, lines: list[str], model_type: str, **settings) -> Path:
    """The file of a model, trained with one thread and without progress on the screen."""
    text = directory / "text.txt"
    text.write_text("\n".join(lines), encoding="utf-8")
    library().SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(directory / model_type),
        model_type=model_type,
        minloglevel=2,
        num_threads=1,
        max_sentence_length=100_000,
        **settings,
    )
    return directory / f"{model_type}.model"


def charsmap(rule: str) -> bytes:
    """The precompiled table of one of the library's own rules."""
    normalizer = library().SentencePieceNormalizer(rule_name=rule)
    schema = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", reason="protobuf is not installed")
    model = schema.ModelProto()
    model.ParseFromString(normalizer.serialized_model_proto())
    return model.normalizer_spec.precompiled_charsmap
