"""The linear classifier beside scikit-learn and fastText, on the same texts, labels and split, in one run.

    python experiments/benchmarks/data_classifier.py DATA

DATA is a folder with corpora/wiki_demo.txt (an article a line), corpora/c4_demo.jsonl and evals/mmlu/test/*.csv. Two
tasks: paragraphs of an encyclopedia or of web pages, split by page; and the subject of an exam question, out of 57.
Prints accuracy on the fifth of the texts that was held out, and seconds to train. fastText is left out where it is not
installed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import tempfile
import time
from pathlib import Path

from jaxllm.data.quality.linear_classifier import train_linear_classifier
from jaxllm.data.quality.text_statistics import TextStatistics

Examples = tuple[list[str], list[str]]


def encyclopedia_or_web(data: Path) -> tuple[Examples, Examples]:
    pages = [("encyclopedia", line) for line in (data / "corpora/wiki_demo.txt").read_text().splitlines() if line]
    pages += [("web", json.loads(line)["text"]) for line in (data / "corpora/c4_demo.jsonl").open()]
    random.Random(0).shuffle(pages)

    def pieces(some):
        found = []
        for label, text in some:
            words = text.split()
            found += [(label, " ".join(words[i : i + 60])) for i in range(0, max(len(words) - 30, 1), 60)]
        return [text for _, text in found], [label for label, _ in found]

    held_out = len(pages) // 5
    return pieces(pages[held_out:]), pieces(pages[:held_out])


def subject(data: Path) -> tuple[Examples, Examples]:
    rows = [
        (" ".join(row[:-1]), path.name.removesuffix("_test.csv"))
        for path in sorted((data / "evals/mmlu/test").glob("*.csv"))
        for row in csv.reader(path.open())
    ]
    random.Random(0).shuffle(rows)
    held_out = len(rows) // 5
    return tuple(
        ([text for text, _ in some], [label for _, label in some]) for some in (rows[held_out:], rows[:held_out])
    )


def ours(train: Examples, test: Examples) -> list[str]:
    model = train_linear_classifier(*train)
    found = model.probabilities([TextStatistics(text) for text in test[0]])
    return [model.labels[i] for i in found.argmax(axis=1)]


def scikit_learn(train: Examples, test: Examples) -> list[str]:
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        HashingVectorizer(ngram_range=(1, 2), n_features=2**20),
        SGDClassifier(loss="log_loss", alpha=1e-6, random_state=0),
    )
    return model.fit(*train).predict(test[0]).tolist()


def fasttext(train: Examples, test: Examples) -> list[str]:
    import fasttext as library

    def flat(text: str) -> str:
        return " ".join(text.lower().split())

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "train.txt")
        with open(path, "w") as stream:
            stream.writelines(f"__label__{label} {flat(text)}\n" for text, label in zip(*train, strict=True))
        model = library.train_supervised(path, wordNgrams=2, epoch=25, lr=0.5, bucket=2**20, thread=1, verbose=0)
    return [labels[0].removeprefix("__label__") for labels in model.predict([flat(text) for text in test[0]])[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    print("| task | texts | held out | classifier | accuracy | seconds |\n| --- | --- | --- | --- | --- | --- |")
    for task in (encyclopedia_or_web, subject):
        train, test = task(data)
        for classifier in (ours, scikit_learn, fasttext):
            begin = time.process_time()
            try:
                found = classifier(train, test)
            except ModuleNotFoundError:
                continue
            right = sum(one == label for one, label in zip(found, test[1], strict=True)) / len(found)
            took = time.process_time() - begin
            sizes = f"{len(train[0])} | {len(test[0])}"
            print(f"| {task.__name__} | {sizes} | {classifier.__name__} | {right:.4f} | {took:.1f} |")


if __name__ == "__main__":
    main()
