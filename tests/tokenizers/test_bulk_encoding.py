import pytest

from jaxllm.tokenizers import worker_processes
from jaxllm.tokenizers.bulk_encoding import BulkEncoder, encode_batch


@pytest.mark.parametrize("processes", [1, 2])
def test_ids_are_those_of_one_text_at_a_time(tokenizer, texts, processes):
    awkward = ["", "a", "\u3000", "🦙" * 100, *texts, ""]
    assert encode_batch(tokenizer, iter(awkward), processes) == [tokenizer.encode(text) for text in awkward]
    assert tokenizer.encode_batch(awkward, processes=processes) == [tokenizer.encode(text) for text in awkward]


def test_many_batches_stay_in_order(tokenizer, texts):
    lines = [line for text in texts for line in text.split("\n")]
    assert 40 * sum(map(len, lines)) > 8 * worker_processes.BATCH_CHARACTERS
    expected = [tokenizer.encode(line) for line in lines] * 40
    assert encode_batch(tokenizer, lines * 40, 2) == encode_batch(tokenizer, lines * 40, 1) == expected


def test_errors_come_through(tokenizer):
    with pytest.raises(ValueError, match="^character 1 of the text is .* half of a UTF-16 pair"):
        encode_batch(tokenizer, ["fine", "a\ud800"], 2)
    with pytest.raises(ValueError, match="^processes must be at least 1, got 0$"):
        encode_batch(tokenizer, ["a"], 0)


def test_processes_stay_for_several_batches(tokenizer, texts):
    with BulkEncoder(tokenizer, 2) as encode:
        for text in texts:
            assert encode([text]) == [tokenizer.encode(text)]
        # An error in one batch is not the end of the others.
        with pytest.raises(ValueError, match="half of a UTF-16 pair"):
            encode(["a\ud800"])
        assert encode(texts) == [tokenizer.encode(text) for text in texts]
