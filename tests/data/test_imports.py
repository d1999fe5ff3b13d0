"""Token files of other programs, written here as their makers describe them."""

import struct

import numpy as np
import pytest

from jaxllm.data.array_record import ArrayRecordDocuments, write_array_record
from jaxllm.data.config import DataConfig
from jaxllm.data.documents import Document
from jaxllm.data.imports.mapped import TokenFileError
from jaxllm.data.imports.megatron import open_megatron
from jaxllm.data.imports.nanogpt import open_nanogpt
from jaxllm.data.loader import TrainLoader
from jaxllm.data.token_store import Layout, write_token_store

END = 50256


def documents_of(source) -> list[list[int]]:
    return [source.read(i, 0, 10**9).tolist() for i in range(source.documents)]


# nanoGPT


def test_nanogpt_documents_lie_between_end_of_text_ids(tmp_path):
    np.array([5, 6, END, 7, END, END, 8, 9, 10, END], np.uint16).tofile(tmp_path / "train.bin")
    source = open_nanogpt(tmp_path / "train.bin", vocab_size=50257)
    assert documents_of(source) == [[5, 6], [7], [8, 9, 10]]
    assert source.lengths.tolist() == [2, 1, 3] and source.lengths_of(1, 3).tolist() == [1, 3]
    assert source.num_tokens == 6 and source.end_of_text == END
    assert source.read(2, 1, 2).tolist() == [9] and source.read(0, 1, 99).tolist() == [6]


def test_a_file_of_characters_is_one_document(tmp_path):
    np.arange(65, dtype=np.uint16).tofile(tmp_path / "val.bin")
    assert open_nanogpt(tmp_path / "val.bin").lengths.tolist() == [65]


def test_the_header_of_llm_c(tmp_path):
    path = tmp_path / "fineweb.bin"
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 4
    path.write_bytes(header.tobytes() + np.array([END, 1, 2, 3], "<u2").tobytes())
    assert documents_of(open_nanogpt(path)) == [[1, 2, 3]]
    header[:3] = 20240801, 7, 2
    path.write_bytes(header.tobytes() + np.array([100_000, 1], "<u4").tobytes())
    assert documents_of(open_nanogpt(path, end_of_text=128_000)) == [[100_000, 1]]
    header[2] = 5
    path.write_bytes(header.tobytes() + np.array([100_000, 1], "<u4").tobytes())
    with pytest.raises(TokenFileError, match="its header tells of 5 tokens, the file holds 2"):
        open_nanogpt(path)
    header[1] = 9
    path.write_bytes(header.tobytes())
    with pytest.raises(TokenFileError, match="unknown version 9"):
        open_nanogpt(path)


@pytest.mark.parametrize(
    "content, complaint", [(b"", "0 bytes"), (b"abc", "3 bytes"), (b"\x50\xc4" * 3, "no document")]
)
def test_damaged_nanogpt_files(tmp_path, content, complaint):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(TokenFileError, match=f"x.bin: .*{complaint}"):
        open_nanogpt(tmp_path / "x.bin")


def test_nanogpt_ids_outside_the_vocabulary_and_files_that_are_missing(tmp_path):
    np.array([1, 2, 400], "<u2").tofile(tmp_path / "x.bin")
    with pytest.raises(TokenFileError, match="token 2 is 400, outside a vocabulary of 257"):
        open_nanogpt(tmp_path / "x.bin", vocab_size=257)
    with pytest.raises(TokenFileError, match="none.bin: can't be read: No such file"):
        open_nanogpt(tmp_path / "none.bin")


# Megatron


def index(lengths, firsts, *, code=8, width=2, magic=b"MMIDIDX\x00\x00", version=1, modes=b"", pointers=None) -> bytes:
    pointers = np.cumsum([0, *lengths])[:-1] * width if pointers is None else pointers
    return (
        magic
        + struct.pack("<Q", version)
        + struct.pack("<B", code)
        + struct.pack("<Q", len(lengths))
        + struct.pack("<Q", len(firsts))
        + np.array(lengths, np.int32).tobytes()
        + np.array(pointers, np.int64).tobytes()
        + np.array(firsts, np.int64).tobytes()
        + modes
    )


@pytest.fixture
def dataset(tmp_path):
    """Three documents: two sequences, one, one; the first and the last end in end-of-text (--append-eod)."""
    ids = [1, 2, 3, 4, END, 5, 6, 7, END]
    np.array(ids, "<u2").tofile(tmp_path / "text.bin")
    (tmp_path / "text.idx").write_bytes(index([2, 3, 2, 2], [0, 2, 3, 4]))
    return tmp_path / "text"


def test_a_megatron_document_is_all_its_sequences(dataset):
    for name in (dataset, f"{dataset}.bin", f"{dataset}.idx"):
        assert documents_of(open_megatron(name, end_of_text=END, vocab_size=50257)) == [[1, 2, 3, 4], [5, 6], [7]]
    assert documents_of(open_megatron(dataset, end_of_text=0))[0] == [1, 2, 3, 4, END]


@pytest.mark.parametrize("code, dtype", [(1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2")])
def test_every_type_of_ids(tmp_path, code, dtype):
    np.array([1, 2, 100], dtype).tofile(tmp_path / "t.bin")
    width = np.dtype(dtype).itemsize
    (tmp_path / "t.idx").write_bytes(index([1, 2], [0, 1, 2], code=code, width=width, modes=b"\0\0"))
    assert documents_of(open_megatron(tmp_path / "t", end_of_text=99)) == [[1], [2, 100]]


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "text.idx: is no index of Megatron"),
        (index([9], [0, 1], magic=b"TNTIDX\x00\x00\x00"), "text.idx: is no index of Megatron"),
        (index([9], [0, 1], version=2), "has version 2, known is version 1"),
        (index([9], [0, 1], code=7), r"type code 7; known are \[1, 2, 3, 4, 5, 8\]"),
        (index([9], [0, 1], code=11), "type code 11"),
        (index([2, 7], [0, 1, 2])[:-1], "tells of 2 sequences and 3 document indices, which take 82 bytes; it has 81"),
        (index([2, 9], [0, 1, 2]), "text.bin: holds 9 ids, its index text.idx points to id 11"),
        (index([2, -7], [0, 1, 2]), "sequence 1 has a negative length"),
        (index([2, 7], [0, 1]), "document indices do not lead from sequence 0 to 2"),
        (index([2, 7], [0, 2, 1, 2]), "document indices do not lead from sequence 0 to 2"),
        (index([2, 3], [0, 2], pointers=[0, 6]), "sequence 1 does not follow the one before it in its document"),
        (index([2, 3], [0, 1, 2], pointers=[0, 5]), "text.bin: holds 9 ids"),
        (index([], [0]), "holds no sequence"),
        (index([0, 0], [0, 1, 2]), "holds no document with any token"),
    ],
)
def test_damaged_indices(dataset, content, complaint):
    dataset.with_suffix(".idx").write_bytes(content)
    with pytest.raises(TokenFileError, match=complaint):
        open_megatron(dataset, end_of_text=END)


def test_megatron_files_that_are_missing_or_cut(dataset):
    dataset.with_suffix(".bin").write_bytes(b"abc")
    with pytest.raises(TokenFileError, match=r"text.bin: 3 bytes of tokens are no whole number of 2-byte ids"):
        open_megatron(dataset, end_of_text=END)
    dataset.with_suffix(".bin").unlink()
    with pytest.raises(TokenFileError, match="text.bin: can't be read"):
        open_megatron(dataset, end_of_text=END)
    with pytest.raises(TokenFileError, match="no.idx: can't be read"):
        open_megatron(dataset.with_name("no"), end_of_text=END)


# Training on them, and ArrayRecord


def test_batches_from_each_are_those_from_a_store(tmp_path, tokenizer):
    texts = ["hello world", "x", "twenty characters ..", "abc" * 9]
    store = write_token_store(
        tmp_path / "s", [Document(t, t) for t in texts], tokenizer, layout=Layout(shard_tokens=20)
    )
    end = tokenizer.end_of_text
    ids = [list(text.encode()) for text in texts]
    np.array([i for document in ids for i in [*document, end]], "<u2").tofile(tmp_path / "n.bin")
    np.array([i for document in ids for i in [*document, end]], "<i4").tofile(tmp_path / "m.bin")
    lengths = [len(document) + 1 for document in ids]
    (tmp_path / "m.idx").write_bytes(index(lengths, range(5), code=4, width=4))
    sources = [
        store,
        open_nanogpt(tmp_path / "n.bin", end_of_text=end),
        open_megatron(tmp_path / "m", end_of_text=end),
    ]
    batches = []
    for source in sources:
        with TrainLoader(source, DataConfig(), row_length=16, batch_size=4) as loader:
            batches.append(loader.batch_at(3))
    for batch in batches[1:]:
        for name, array in batches[0].items():
            np.testing.assert_array_equal(batch[name], array)


def test_array_record_files_for_grain(tmp_path, tokenizer):
    import grain

    texts = ["hello", "wörld", "x" * 1000]
    store = write_token_store(tmp_path / "s", [Document(f"n/{t}", t) for t in texts], tokenizer)
    assert write_array_record(tmp_path / "a" / "x.arrayrecord", store) == 3
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.arrayrecord"]
    source = ArrayRecordDocuments(tmp_path / "a" / "x.arrayrecord")
    assert [(name, bytes(ids.tolist()).decode()) for name, ids in source] == [(f"n/{t}", t) for t in texts]
    shuffled = grain.MapDataset.source(source).shuffle(seed=1)
    assert sorted(len(shuffled[i][1]) for i in range(3)) == [5, 6, 1000]
    with pytest.raises(FileExistsError, match="already exists"):
        write_array_record(tmp_path / "a" / "x.arrayrecord", store)


def test_array_record_files_that_are_damaged(tmp_path, tokenizer):
    from array_record.python.array_record_module import ArrayRecordWriter

    with pytest.raises(TokenFileError, match="none: is no file with any record"):
        ArrayRecordDocuments(tmp_path / "none")
    (tmp_path / "junk").write_bytes(b"junk" * 40_000)
    with pytest.raises(TokenFileError, match="junk: can't be read as ArrayRecord"):
        ArrayRecordDocuments(tmp_path / "junk")
    writer = ArrayRecordWriter(str(tmp_path / "other"), "group_size:1")
    writer.write(b"something else")
    writer.close()
    with pytest.raises(TokenFileError, match="record 0 is not a document of ids"):
        _ = ArrayRecordDocuments(tmp_path / "other")[0]
