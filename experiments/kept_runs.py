"""Short runs that are made once: each is kept under the fingerprint of its recipe, and found there the next time.

What several experiments compare they share, and a comparison that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
from pathlib import Path

from jaxllm.config import to_json
from jaxllm.data.corpus import SplitDocuments
from jaxllm.pipeline.pretrain import VOCAB_MULTIPLE, prepare_tokenizer, pretrain
from jaxllm.training.experiment import Experiment
from jaxllm.training.job import Silent


def kept_run(experiment: Experiment, documents: SplitDocuments, out: Path) -> dict[str, float]:
    """Validation loss (nats per token) and tokens a second of one run; made only if it is not there.

    Takes the tokenizer that vocabulary_of has put into `out`.
    """
    directory = out / hashlib.sha256(to_json(experiment).encode()).hexdigest()[:16]
    result = directory / "result.json"
    if not result.is_file():
        if not directory.exists():
            shutil.copytree(out / "tokenizer", directory / "tokenizer")
        outcome = pretrain(experiment, directory, Silent(), documents=documents).outcome
        rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        speeds = [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
        found = {"val_loss": outcome.val_loss, "tokens_per_second": statistics.median(speeds)}
        result.write_text(json.dumps(found))
    return json.loads(result.read_text())


def vocabulary_of(experiment: Experiment, documents: SplitDocuments, out: Path) -> int:
    """Rows of the embedding table that the experiment's tokenizer needs, trained once for all runs in `out`."""
    tokenizer = prepare_tokenizer(experiment, documents, out / "tokenizer", Silent())
    return -(-tokenizer.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
