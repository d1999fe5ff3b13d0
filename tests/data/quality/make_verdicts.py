"""Writes verdicts.json: what datatrove's filters say of the documents of verdict_corpus.py.

    pip install datatrove==0.10.1 spacy==3.8.18
    python tests/data/quality/make_verdicts.py

For each document, by the hash of its text: the reasons of five filters, "" for a document that is kept, and the hash of
the text that C4's leaves. Documents that are already in the file and can't be made here, of another Python or without
the shared data, stay in it.
"""

import json
import sys
from itertools import chain
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4ParagraphFilter,
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

sys.path.insert(0, str(Path(__file__).parent))
from verdict_corpus import code_texts, documents, key_of, own_texts, shared_texts

PATH = Path(__file__).with_name("verdicts.json")
FILTERS = (
    GopherQualityFilter(),
    GopherRepetitionFilter(),
    FineWebQualityFilter(),
    C4ParagraphFilter(),
    C4QualityFilter(),
)


def main() -> None:
    verdicts = json.loads(PATH.read_text()) if PATH.exists() else {}
    for text in chain(documents(own_texts(), 5), documents(shared_texts(), 2), documents(code_texts(), 1)):
        reasons = []
        for one in FILTERS:
            document = Document(text=text, id="")
            verdict = one.filter(document)
            reasons.append("" if verdict is True else verdict[1])
        verdicts[key_of(text)] = [*reasons, "" if reasons[-1] else key_of(document.text)]
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in sorted(verdicts.items()))
    PATH.write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main()
