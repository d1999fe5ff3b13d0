import gzip
import json
import os
import shutil
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jaxllm.data.documents import Document, DocumentError, read_documents

TEXTS = ["first\r\nline", "zweites Stück", "三つ目 🙂"]


def write_jsonl(path, texts=TEXTS):
    path.write_text(
        "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts)), encoding="utf-8"
    )


def write_parquet(path, texts=TEXTS, **options):
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), path, **options)


def compress(path, suffix):
    raw = path.read_bytes()
    packed = path.with_name(path.name + suffix)
    packed.write_bytes(gzip.compress(raw) if suffix == ".gz" else zstandard.ZstdCompressor().compress(raw))
    path.unlink()
    return packed


def read(path) -> list[Document]:
    return list(read_documents(str(path)))


def error_of(path) -> str:
    with pytest.raises(DocumentError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".md", ".jsonl", ".parquet"])
def test_every_kind_plain_and_compressed_gives_the_same_documents(tmp_path, kind, compression):
    path = tmp_path / f"corpus{kind}"
    match kind:
        case ".jsonl":
            write_jsonl(path)
        case ".parquet":
            write_parquet(path, row_group_size=2)
        case _:
            path.write_bytes("".join(TEXTS).encode())
    if compression:
        path = compress(path, compression)
    if kind in (".txt", ".md"):
        assert read(path) == [Document(path.name, "".join(TEXTS))]
    else:
        assert read(path) == [Document(f"{path.name}:{n}", text) for n, text in enumerate(TEXTS, start=1)]


def test_upper_case_suffixes_and_several_compressed_streams_in_one_file(tmp_path):
    (tmp_path / "A.TXT").write_text("a")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    compressor = zstandard.ZstdCompressor()
    (tmp_path / "c.txt.zst").write_bytes(compressor.compress(b"one ") + compressor.compress(b"two"))
    assert [document.text for document in read(tmp_path)] == ["a", "one two", "one two"]


def test_zstd_stream_longer_than_any_buffer(tmp_path):
    text = "".join(f"{n * n}\n" for n in range(200_000))
    (tmp_path / "a.txt").write_text(text)
    assert read(compress(tmp_path / "a.txt", ".zst"))[0].text == text


def test_a_folder_is_read_in_order_of_names_that_do_not_depend_on_where_it_lies(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    for name in ["b.txt", "a/z.md", "a/b/c.txt", "a.txt", "z.py", ".hidden.txt", ".git/x.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    write_jsonl(folder / "rows.jsonl")
    names = [document.name for document in read(folder)]
    assert names == ["a.txt", "a/b/c.txt", "a/z.md", "b.txt", "rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]
    shutil.move(folder, tmp_path / "there")
    assert [document.name for document in read(tmp_path / "there")] == names
    assert [document.name for document in read(f"{tmp_path}/th*e/**/*")] == [f"there/{name}" for name in names]
    assert [document.name for document in read(f"{tmp_path}/there/**/*.txt")] == ["a.txt", "a/b/c.txt", "b.txt"]
    monkeypatch.chdir(tmp_path)
    assert [document.name for document in read("there")] == names
    assert [document.name for document in read("there/*.txt")] == ["a.txt", "b.txt"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [document.name for document in read("~/there")] == names


def test_a_glob_that_matches_folders_reads_them(tmp_path):
    for name in ["part-1/a.txt", "part-2/b.txt", "other/c.txt"]:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    assert [document.name for document in read(f"{tmp_path}/part-*")] == ["part-1/a.txt", "part-2/b.txt"]


def test_a_path_with_wildcard_characters_that_exists_is_that_file(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert read(tmp_path / "a[1].txt") == [Document("a[1].txt", "x")]


def test_links_are_followed_and_a_circle_ends(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("a")
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "corpus")
    assert [document.name for document in read(tmp_path / "corpus")] == ["linked/a.txt"]


def test_byte_order_mark_is_not_text_and_blank_lines_are_no_rows(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n\n  \n{"text": ""}')
    assert read(tmp_path) == [Document("a.txt", "hello"), Document("b.jsonl:1", "x"), Document("b.jsonl:4", "")]


def test_jsonl_is_streamed(tmp_path):
    path = tmp_path / "large.jsonl"
    with open(path, "w") as file:
        for _ in range(3000):
            file.write(json.dumps({"text": "x" * 10_000}) + "\n")
    tracemalloc.start()
    try:
        assert sum(len(document.text) for document in read_documents(str(path))) == 30_000_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("type_", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_string_types(tmp_path, type_):
    table = pa.table(
        {
            "text": pa.array(TEXTS, pa.string()).cast(type_)
            if "dict" not in str(type_)
            else pa.array(TEXTS).dictionary_encode()
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert [document.text for document in read(tmp_path / "a.parquet")] == TEXTS


# Bad input


def test_paths_that_lead_nowhere(tmp_path):
    assert "no such file or folder" in error_of(tmp_path / "missing.txt")
    assert "no file matches" in error_of(tmp_path / "*.txt")
    assert "the folder holds 0 files" in error_of(tmp_path)
    (tmp_path / "a.py").write_text("x")
    assert "the folder holds 1 files, none of them of a supported kind: .txt, .md, " in error_of(tmp_path)
    assert "the pattern matches 1 files, none" in error_of(tmp_path / "*.py")
    assert "supported are .txt, .md, " in error_of(tmp_path / "a.py")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x"))
    assert "supported are" in error_of(tmp_path / "a.gz")


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.txt.gz", "a.txt.zst"])
@pytest.mark.parametrize("content", [b"", b" \n\n"])
def test_empty_files(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    if path.suffix in (".gz", ".zst") and content:
        path = tmp_path / "a.txt"
        path.write_bytes(content)
        path = compress(path, name[5:])
    assert "is empty" in error_of(path)


def test_an_empty_file_in_a_folder_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(DocumentError, match=r"b\.txt: is empty"):
        read(tmp_path)


def test_undecodable_text_gives_the_byte_offset(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    assert "byte 0xff at offset 3 can't be decoded" in error_of(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfabc\xff")
    assert "byte 0xff at offset 6 can't be decoded" in error_of(tmp_path / "b.txt")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "x"}\n{"text": "\xe9"}\n')
    assert "byte 0xe9 at offset 24 (line 2) can't be decoded" in error_of(tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "x"', "line 2: is not valid JSON"),
        ("[1]", "line 2: expected an object with a field 'text', found list"),
        ('{"body": "x", "a": 1}', "line 2: has no field 'text'; its fields are ['a', 'body']"),
        ('{"text": null}', "line 2: the field 'text' must be a string, found NoneType"),
        ('{"text": "\\ud800"}', "line 2: the field 'text' holds an unpaired surrogate"),
        ("[" * 200_000, "line 2: is not valid JSON"),
        ('{"text": ' + "9" * 10_000 + "}", "line 2: is not valid JSON"),
    ],
)
def test_broken_json_lines_give_the_line_and_keep_what_came_before(tmp_path, line, complaint):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good \\ud83d\\ude42"}\n' + line + "\n")
    documents = read_documents(str(path))
    assert next(documents) == Document("a.jsonl:1", "good 🙂")
    with pytest.raises(DocumentError) as caught:
        next(documents)
    assert f"{path}, {complaint}" in str(caught.value)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".parquet"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "not compressed"])
def test_damaged_compressed_files(tmp_path, kind, suffix, damage):
    path = tmp_path / f"a{kind}"
    text = "".join(f"{n * n}" for n in range(20_000))
    match kind:
        case ".jsonl":
            write_jsonl(path, [text])
        case ".parquet":
            write_parquet(path, [text])
        case _:
            path.write_text(text)
    path = compress(path, suffix)
    raw = bytearray(path.read_bytes())
    match damage:
        case "truncated":
            raw = raw[: len(raw) - 20]
        case "changed":
            raw[len(raw) // 2 : len(raw) // 2 + 40] = bytes(40)
        case "not compressed":
            raw = b"plain text"
    path.write_bytes(raw)
    assert f"damaged {'gzip' if suffix == '.gz' else 'zstd'} data" in error_of(path)


def test_unreadable_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 this is not a table PAR1")
    assert "is not a readable Parquet file" in error_of(path)
    write_parquet(path, [f"{n * n}" for n in range(5000)])
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert "is not a readable Parquet file" in error_of(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(400) + whole[middle + 400 :])
    assert "is not a readable Parquet file" in error_of(path)
    path.write_bytes(b"")
    assert "is not a readable Parquet file" in error_of(path)


def test_parquet_page_checksums_are_checked_where_there_are_any(tmp_path):
    path = tmp_path / "a.parquet"
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    write_parquet(path, ["a needle in a haystack"], write_page_checksum=True, **options)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"a needle in", b"a noodle in", 1))
    assert "is not a readable Parquet file" in error_of(path)


def test_parquet_without_the_right_column(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), path)
    assert "has no column 'text'; its columns are ['body', 'id']" in error_of(path)
    pq.write_table(pa.table({"text": [1]}), path)
    assert "the column 'text' must hold strings, found int64" in error_of(path)
    pq.write_table(pa.table({"text": ["x", None]}), path)
    assert f"{path}, row 2: the column 'text' is null" in error_of(path)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert "is empty" in error_of(path)


@pytest.mark.parametrize(("name", "package"), [("a.parquet", "pyarrow"), ("a.txt.zst", "zstandard")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name, package):
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    message = error_of(tmp_path / name)
    assert f"needs the package {package}" in message and f"pip install {package}" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    assert "can't be read: Permission denied" in error_of(tmp_path / "a.txt")


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(DocumentError, match=r"a\.txt: can't be read: No such file"):
        read(tmp_path)
