"""A classifier of texts that learns what it is shown, and a filter that asks it."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest

from jaxllm.data.documents import Document
from jaxllm.data.quality.linear_classifier import (
    Classified,
    LinearClassifier,
    _features,
    load_linear_classifier,
    train_linear_classifier,
)
from jaxllm.data.quality.model_file import ModelFileError, save_arrays
from jaxllm.data.quality.text_statistics import TextStatistics
from jaxllm.data.records import records
from tests.data.quality.verdict_corpus import SENTENCES, code_texts


def batch_of(*texts):
    [batch] = records([Document(str(i), text) for i, text in enumerate(texts)], "s")
    return batch


def statistics(texts):
    return [TextStatistics(text) for text in texts]


def shuffled_words(text, chosen):
    words = text.split()
    chosen.shuffle(words)
    return " ".join(words)


@pytest.fixture(scope="module")
def examples():
    """Sentences, and bags of the same words, with which only the order of words can help."""
    chosen = random.Random(0)
    texts = [" ".join(chosen.choices(SENTENCES, k=3)) for _ in range(150)]
    return [*texts, *(shuffled_words(text, chosen) for text in texts)], ["prose"] * 150 + ["salad"] * 150


@pytest.fixture(scope="module")
def model(examples):
    return train_linear_classifier(*examples, buckets=2**14, epochs=5)


def accuracy(model, texts, labels):
    found = model.probabilities(statistics(texts)).argmax(axis=1)
    return np.mean([model.labels[i] == label for i, label in zip(found, labels, strict=True)])


def test_pairs_of_words_tell_what_words_alone_can_not(examples, model):
    chosen = random.Random(1)
    fresh = [" ".join(chosen.choices(SENTENCES, k=2)) for _ in range(50)]
    fresh, labels = [*fresh, *(shuffled_words(text, chosen) for text in fresh)], ["prose"] * 50 + ["salad"] * 50
    alone = train_linear_classifier(*examples, ngrams=1, buckets=2**14, epochs=5)
    assert accuracy(model, fresh, labels) == 1
    assert accuracy(alone, fresh, labels) < 0.7


def test_prose_and_code_of_the_standard_library():
    """Comments and docstrings beside code, 90 characters each, tested on files that were not trained on."""
    import io
    import tokenize

    def lines(text):
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING) and len(token.string) > 90:
                yield token.string.strip("#\"' \n")[:90], "prose"
        rows = text.splitlines()
        yield from ((" ".join(rows[i : i + 3])[:90], "code") for i in range(0, len(rows), 12))

    files = [list(lines(text)) for text in code_texts()]
    train, test = sum(files[::2], []), sum(files[1::2], [])
    model = train_linear_classifier(*zip(*train, strict=True), buckets=2**14, epochs=3)
    assert len(test) > 300 and accuracy(model, *zip(*test, strict=True)) > 0.85


def test_three_labels_are_probabilities():
    texts, labels = ["a a b", "c d", "e f e"] * 20, ["x", "y", "z"] * 20
    model = train_linear_classifier(texts, labels, buckets=2**10)
    found = model.probabilities(statistics(["a b", "d c", "f", "", "unseen words"]))
    assert found.sum(axis=1) == pytest.approx(1)
    assert found[:3].argmax(axis=1).tolist() == [0, 1, 2]
    assert found[3:].max() < 0.7  # little is known: the labels are equally frequent
    assert model.probabilities([]).shape == (0, 3)


def test_features_are_as_counted_one_by_one():
    """Against dictionaries: the n-grams of each text stay in it, weights are 1 + log of counts, of length one."""
    model = LinearClassifier(["x", "y"], np.zeros((2**30, 2), np.float32), 3, "spaces")
    texts = ["a b a b a", "", "b", "a b c"]
    columns, values, starts = _features(statistics(texts), model)
    parts = np.split(np.arange(len(columns)), starts[1:])
    for text, part in zip(texts, parts, strict=True):
        words, counts = text.split(), {(): 1}
        for n in (1, 2, 3):
            for i in range(len(words) - n + 1):
                ngram = tuple(words[i : i + n])
                counts[ngram] = counts.get(ngram, 0) + 1
        expected = np.array([1 + np.log(c) for c in counts.values()])
        assert len(set(columns[part])) == len(part)
        assert sorted(values[part]) == pytest.approx(sorted(expected / np.linalg.norm(expected)))
    last, first = set(columns[parts[3]]), set(columns[parts[0]])
    assert len(last & first) == 4  # the text itself, a, b, and a b


def test_training_twice_gives_the_same(examples, model):
    again = train_linear_classifier(*examples, buckets=2**14, epochs=5)
    assert np.array_equal(again.weights, model.weights)
    other = train_linear_classifier(*examples, buckets=2**14, epochs=5, seed=1)
    assert not np.array_equal(other.weights, model.weights)


def test_saved_and_loaded_in_another_process(examples, model, tmp_path):
    path = tmp_path / "m.npz"
    model.save(path)
    again = load_linear_classifier(path)
    assert np.array_equal(again.weights, model.weights) and load_linear_classifier(path) is again
    program = """if True:
        import json, sys
        from jaxllm.data.quality import TextStatistics, load_linear_classifier
        texts = [TextStatistics(text) for text in json.loads(sys.argv[2])]
        print(json.dumps(load_linear_classifier(sys.argv[1]).probabilities(texts).tolist()))"""
    texts = examples[0][140:160]
    answer = subprocess.run(
        [sys.executable, "-c", program, str(path), json.dumps(texts)], stdout=subprocess.PIPE, text=True, check=True
    )
    assert json.loads(answer.stdout) == model.probabilities(statistics(texts)).tolist()


def test_filter_keeps_one_label_and_takes_notes(model, tmp_path):
    path = str(tmp_path / "m.npz")
    model.save(path)
    prose, salad = " ".join(SENTENCES[:3]), shuffled_words(" ".join(SENTENCES[:3]), random.Random(2))
    outcome = Classified(path, "prose", note="prose")(batch_of(prose, salad))
    assert outcome.kept.column("id").to_pylist() == ["s/0"]
    assert outcome.dropped.column("reason").to_pylist() == ["probability of prose below 0.5"]
    assert json.loads(outcome.kept.column("metadata")[0].as_py())["prose"] > 0.9
    assert len(Classified(path, "prose", min_probability=0)(batch_of(prose, salad)).kept) == 2
    with pytest.raises(ValueError, match=r"m.npz: has no label 'verse'; its labels are \['prose', 'salad'\]"):
        Classified(path, "verse")(batch_of(prose))


def test_what_can_go_wrong_is_said(tmp_path):
    for texts, labels, complaint in (
        (["a"], ["x", "y"], "1 texts and 2 labels"),
        (["a", "b"], ["x", "x"], "two or more different labels"),
    ):
        with pytest.raises(ValueError, match=complaint):
            train_linear_classifier(texts, labels)
    with pytest.raises(ValueError, match="power of two, found 1000"):
        train_linear_classifier(["a", "b"], ["x", "y"], buckets=1000)
    path = tmp_path / "m.npz"
    with pytest.raises(ModelFileError, match="there is no such file; train a linear classifier"):
        Classified(str(path), "x")(batch_of("a"))
    save_arrays(path, "cake", {})
    with pytest.raises(ModelFileError, match="expected a linear classifier, found a cake"):
        load_linear_classifier(path)
