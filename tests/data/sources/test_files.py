"""Files as shards: names, cuts, every format once, and damage stepped over with everything else kept."""

import bz2
import errno
import gzip
import io
import json
import pickle
import time
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from jaxllm.data.documents import Document, DocumentError, read_documents
from jaxllm.data.sources import Files, Problem


def read(path, **settings) -> tuple[list[Document], list[Problem]]:
    """All documents, with what was wrong; each shard goes through pickle, as on its way to a worker."""
    problems: list[Problem] = []
    shards = pickle.loads(pickle.dumps(Files(str(path), **settings).shards()))
    return [document for shard in shards for document in shard.read(problems.append)], problems


def texts(documents) -> list[str]:
    return [document.text for document in documents]


def rows(count, width=20):
    return [{"text": f"row {i} " + "x" * width, "url": f"https://a/{i}"} for i in range(count)]


def write_jsonl(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


# Metadata


def test_other_fields_become_metadata(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "x", "url": "u", "score": float("nan"), "tags": ["a"], "id": 7}])
    table = pa.table({"text": ["x"], "date": pa.array([0], pa.timestamp("s")), "vector": [[1.0, 2.0]], "n": [None]})
    pq.write_table(table, tmp_path / "b.parquet")
    [json_row, table_row], _ = read(tmp_path)
    assert json_row.metadata == {"url": "u", "score": None, "tags": ["a"], "id": 7}
    assert table_row.metadata == {"date": "1970-01-01T00:00:00"}
    [json_row, table_row], _ = read(tmp_path, metadata_fields=("url", "vector"))
    assert json_row.metadata == {"url": "u"} and table_row.metadata == {"vector": [1.0, 2.0]}


def test_the_text_may_have_another_name(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"content": "x"}])
    pq.write_table(pa.table({"content": ["y"]}), tmp_path / "b.parquet")
    assert texts(read(tmp_path, text_field="content")[0]) == ["x", "y"]


# Formats that tests/data/test_documents.py does not read


@pytest.mark.parametrize("compression", ["", ".gz", ".bz2"])
def test_arrow_files_and_streams(tmp_path, compression):
    table = pa.table({"text": [f"text {i}" for i in range(3000)], "i": list(range(3000))})
    pa.feather.write_feather(table, tmp_path / "a.feather", compression="uncompressed")
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    if compression:
        pack = gzip.compress if compression == ".gz" else bz2.compress
        for path in list(tmp_path.iterdir()):
            path.with_name(path.name + compression).write_bytes(pack(path.read_bytes()))
            path.unlink()
    documents, problems = read(tmp_path)
    assert texts(documents) == [f"text {i}" for i in range(3000)] * 2 and not problems
    assert documents[3001].name == f"b.arrow{compression}:2" and documents[3001].metadata == {"i": 1}


def test_html_is_read_as_its_main_text_or_as_it_is(tmp_path):
    body = "<p>" + "The quick brown fox jumps over the lazy dog, again and again. " * 3 + "</p>"
    html = f"<html lang=en><title>Fox é</title><nav><a href=/>Home</a></nav>{body}</html>"
    (tmp_path / "a.html").write_bytes(html.encode("latin-1"))
    [document], _ = read(tmp_path)
    assert document.text.startswith("The quick") and "Home" not in document.text
    assert document.metadata == {"title": "Fox é", "language": "en", "charset": "cp1252"}
    [raw], _ = read(tmp_path, markup="raw")
    assert raw.text == html


def test_encodings_are_guessed_only_if_asked(tmp_path):
    (tmp_path / "a.txt").write_bytes("naïve café".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes("\ufeffnaïve".encode("utf-16"))
    (tmp_path / "c.txt").write_text("naïve 三")
    documents, problems = read(tmp_path)
    assert texts(documents) == ["naïve 三"]
    assert [problem.path[-5:] for problem in problems] == ["a.txt", "b.txt"]
    assert "byte 0xef at offset 2" in problems[0].message
    documents, problems = read(tmp_path, encoding="detect")
    assert [text.lstrip("\ufeff") for text in texts(documents)] == ["naïve café", "naïve", "naïve 三"] and not problems


# Shards


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_large_file_is_cut_and_nothing_changes(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    values = rows(2000)
    if kind == "jsonl":
        write_jsonl(path, values)
    else:
        pq.write_table(pa.Table.from_pylist(values), path, row_group_size=100, compression="none")
    whole, _ = read(path)
    shards = Files(str(path), shard_bytes=8000).shards()
    assert len(shards) > 5 and sum(shard.num_bytes for shard in shards) == pytest.approx(path.stat().st_size, rel=0.01)
    assert len({shard.name for shard in shards}) == len(shards)
    parts = [list(shard.read()) for shard in reversed(shards)][::-1]
    assert [document for part in parts for document in part] == whole == list(read_documents(str(path)))
    assert whole[1234] == Document(f"a.{kind}:1235", values[1234]["text"])
    assert whole[1234].metadata == {"url": "https://a/1234"}


def test_small_files_share_a_shard_and_keep_their_order(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(f"{i}" * 100)
    shards = Files(str(tmp_path), shard_bytes=350).shards()
    assert [len(shard.parts) for shard in shards] == [3, 3, 3, 1]
    assert [shard.name for shard in shards] == ["0.txt+2", "3.txt+2", "6.txt+2", "9.txt"]
    assert texts(d for shard in shards for d in shard.read()) == [f"{i}" * 100 for i in range(10)]


def test_the_version_follows_the_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    [before] = Files(str(path)).shards()
    assert before.version == Files(str(path)).shards()[0].version
    path.write_text("three")
    assert before.version != Files(str(path)).shards()[0].version
    assert before.version != Files(str(path), markup="raw").shards()[0].version


@pytest.mark.parametrize(
    "settings", [{"shard_bytes": 0}, {"max_document_bytes": 0}, {"markup": "html"}, {"encoding": "latin-1"}]
)
def test_impossible_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Files("x", **settings)


# Damage: everything else is kept


def test_a_broken_line_between_good_ones(tmp_path):
    lines = ['{"text": "a"}', '{"text": "b"', '{"text": 3}', '{"body": "d"}', '{"text": "e"}']
    (tmp_path / "a.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"text": "\xff"}\n{"text": "g"}')
    documents, problems = read(tmp_path)
    assert [(d.name, d.text) for d in documents] == [("a.jsonl:1", "a"), ("a.jsonl:5", "e"), ("a.jsonl:7", "g")]
    assert [problem.where for problem in problems] == ["line 2", "line 3", "line 4", ""]
    assert "(line 6)" in problems[3].message and all(problem.path.endswith("a.jsonl") for problem in problems)


def test_half_a_surrogate_pair_in_another_field(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "title": "\\ud800"}\n{"text": "b", "title": "\\ud83d\\ude42"}\n')
    documents, [problem] = read(tmp_path)
    assert texts(documents) == ["b"] and "'title' holds an unpaired surrogate" in problem.message


def test_a_corrupt_gzip_member_in_the_middle_of_json_lines(tmp_path):
    packed = [gzip.compress(json.dumps({"text": f"{i} " + "ab" * 500}).encode() + b"\n") for i in range(5)]
    bad = bytearray(packed[2])
    bad[-10:-4] = bytes(6)
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join([*packed[:2], bytes(bad), *packed[3:]]))
    documents, [problem] = read(tmp_path)
    assert [document.text[0] for document in documents] == ["0", "1", "3", "4"]
    assert problem.where == f"offset {len(packed[0]) * 2}" and "damaged gzip" in problem.message


def test_lines_cut_by_damage_are_one_problem(tmp_path):
    whole = b"".join(json.dumps({"text": f"{i} " + "ab" * 50}).encode() + b"\n" for i in range(300))
    pieces = [gzip.compress(whole[at : at + 5000]) for at in range(0, len(whole), 5000)]  # members end inside lines
    bad = bytearray(pieces[3])
    bad[len(bad) // 2] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join([*pieces[:3], bytes(bad), *pieces[4:]]))
    documents, problems = read(tmp_path)
    numbers = [int(document.text.split()[0]) for document in documents]
    assert len(problems) == 1 and numbers == sorted(set(numbers))
    missing = sorted(set(range(300)) - set(numbers))
    assert missing == list(range(missing[0], missing[-1] + 1)) and len(missing) < 50


def test_a_truncated_gzip_keeps_its_whole_lines(tmp_path):
    raw = gzip.compress("".join(json.dumps(row) + "\n" for row in rows(500, 50)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(raw[: len(raw) // 2])
    documents, [problem] = read(tmp_path)
    assert 100 < len(documents) < 400 and "ends inside a gzip member" in problem.message


def test_a_damaged_row_group_and_a_truncated_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.Table.from_pylist(rows(300)), path, row_group_size=100, **options)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"row 150 ", b"row 15O ", 1))
    documents, [problem] = read(path)
    assert [document.name for document in documents] == [f"a.parquet:{i}" for i in (*range(1, 101), *range(201, 301))]
    assert problem.where == "rows 101 to 200"
    path.write_bytes(raw[:-200])
    (tmp_path / "b.txt").write_text("good")
    documents, [problem] = read(tmp_path)
    assert texts(documents) == ["good"] and "is not a readable Parquet file" in problem.message


def test_a_truncated_arrow_stream_keeps_what_came_before(tmp_path):
    table = pa.table({"text": [f"text {i}" for i in range(1000)]})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    raw = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(raw[: len(raw) * 3 // 4])
    documents, [problem] = read(tmp_path)
    assert len(documents) in range(600, 800, 100) and "is not a readable Arrow file" in problem.message


def test_an_empty_file_among_others(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.jsonl").write_text("\n")
    (tmp_path / "c.txt").write_text("c")
    documents, [problem] = read(tmp_path)
    assert texts(documents) == ["a", "c"] and "b.jsonl: is empty" in str(problem)
    with pytest.raises(DocumentError, match=r"b\.jsonl: is empty"):
        list(read_documents(str(tmp_path)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_single_line_as_long_as_a_disk_never_fills_memory(tmp_path, name):
    with open(tmp_path / name, "wb") as file:
        if name == "a.jsonl":
            file.write(b'{"text": "before"}\n{"text": "')
        file.seek(64 << 20, 1)  # a hole, which reads as zeros
        file.write(b'"}\n{"text": "after"}\n' if name == "a.jsonl" else b"x")
    tracemalloc.start()
    documents, [problem] = read(tmp_path, max_document_bytes=2 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts(documents) == (["before", "after"] if name == "a.jsonl" else [])
    assert "longer than a document may be (2,097,152 bytes)" in problem.message and peak < 8 << 20
    assert problem.where == ("line 2" if name == "a.jsonl" else "")


def test_a_full_disk_is_not_taken_for_damage(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(OSError, match="No space left"):
        read(tmp_path)


def test_what_a_report_raises_ends_reading(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"body": 1}, {"text": "c"}])
    [shard] = Files(str(tmp_path)).shards()

    def stop(problem):
        raise KeyError(problem.where)

    documents = shard.read(stop)
    assert next(documents).text == "a"
    with pytest.raises(KeyError, match="line 2"):
        next(documents)


# Zip archives


def write_zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_entries_of_a_zip_are_files(tmp_path):
    write_zip(tmp_path / "inner.zip", {"x.txt": "never"})
    jsonl = '{"text": "j1"}\n{"text": "j2"}\n'
    entries = {"b/c.txt": "text", "a.jsonl.gz": gzip.compress(jsonl.encode()), ".x.txt": "hidden", "d.exe": "MZ"}
    write_zip(tmp_path / "a.zip", {**entries, "inner.zip": (tmp_path / "inner.zip").read_bytes()})
    (tmp_path / "inner.zip").unlink()
    documents, problems = read(tmp_path)
    assert [(d.name, d.text) for d in documents] == [
        ("a.zip/a.jsonl.gz:1", "j1"),
        ("a.zip/a.jsonl.gz:2", "j2"),
        ("a.zip/b/c.txt", "text"),
    ]
    assert not problems


def test_of_a_bomb_and_of_a_file_cut_short_no_part_is_a_document(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxllm.data.compression._EXPANSION_ALLOWED", 1 << 20)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"a" * (8 << 20)))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"some text " * 9)[:-9])
    (tmp_path / "good.txt").write_text("good")
    documents, problems = read(tmp_path)
    assert texts(documents) == ["good"]
    assert ["decompression bomb" in p.message for p in problems] == [True, False]


def test_bad_entries_of_a_zip(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path, {"a.txt": "first", "bomb.txt": bytes(50_000_000), "c.txt": "damaged " * 50, "z.txt": "last"})
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("c.txt").header_offset
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.txt", "again")
    raw = bytearray(path.read_bytes())
    raw[at + 40] ^= 0xFF
    path.write_bytes(raw)
    documents, problems = read(path)
    assert texts(documents) == ["first", "last"]
    assert [p.where or p.path.rpartition("!")[2] for p in problems] == ["entry a.txt", "entry bomb.txt", "c.txt"]
    assert ["another entry" in p.message for p in problems] == [True, False, False]
    assert "decompression bomb" in problems[1].message and "damaged zip entry" in problems[2].message
    path.write_bytes(b"PK nothing")
    assert "is not a readable zip archive" in str(read(path)[1][0])


def test_values_of_other_columns_that_python_can_not_hold(tmp_path):
    broken = pa.array([b"good", b"\xff"], pa.binary()).view(pa.string())
    times = pa.array([1, 2], pa.timestamp("ns"))
    nested = pa.array([[1], [2]], pa.list_(pa.timestamp("us")))
    table = pa.table({"text": ["one", "two"], "broken": broken, "times": times, "nested": nested})
    pq.write_table(table, tmp_path / "a.parquet")
    documents, problems = read(tmp_path / "a.parquet", metadata_fields=("broken", "times", "nested"))
    assert texts(documents) == ["one", "two"]
    assert documents[0].metadata["broken"] == "good" and "broken" not in documents[1].metadata
    json.dumps([document.metadata for document in documents])
    assert any("broken" in problem.message and "row 2" in problem.where for problem in problems)


def test_a_zip_of_many_entries_takes_no_more_time(tmp_path):
    write_zip(tmp_path / "a.zip", {f"{number:05}.txt": f"entry {number}" for number in range(12_000)})
    start = time.process_time()
    assert len(read(tmp_path / "a.zip")[0]) == 12_000
    assert time.process_time() - start < 3


def test_a_damaged_entry_of_any_method_costs_no_other(tmp_path):
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        path = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("1.txt", "to be damaged " * 50)
            archive.writestr("2.txt", "the other one")
        raw = bytearray(path.read_bytes())
        raw[40:70] = b"\xff" * 30
        path.write_bytes(raw)
        documents, problems = read(path)
        assert texts(documents) == ["the other one"] and "1.txt" in str(problems[0])
