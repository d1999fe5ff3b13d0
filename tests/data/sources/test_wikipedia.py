"""Wiki dumps: pages, namespaces, redirects, history, parts of multistream dumps, damage."""

import bz2

import pytest

from jaxllm.data.documents import DocumentError, read_documents
from jaxllm.data.sources import Files

HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">\n  <siteinfo>\n'
    "    <sitename>Wikipedia</sitename>\n"
    "    <base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>\n  </siteinfo>\n"
)


def revision(text, number, model="wikitext"):
    return (
        f"<revision><id>{number}</id><timestamp>2024-01-0{number % 9 + 1}T00:00:00Z</timestamp><model>{model}</model>"
        f'<text xml:space="preserve">{text}</text></revision>'
    )


def page(number, text="Der ''Text'' &amp; die [[Stadt|Städte]].", namespace=0, more="", **kinds):
    body = revision(text, number, **kinds)
    title = f"Seite {number}"
    return f"  <page><title>{title}</title><ns>{namespace}</ns><id>{number}</id>{more}{body}</page>\n"


def dump(pages):
    return (HEAD + "".join(pages) + "</mediawiki>").encode()


def read(path, **settings):
    problems = []
    return [d for shard in Files(str(path), **settings).shards() for d in shard.read(problems.append)], problems


@pytest.mark.parametrize("suffix", ["", ".bz2"])
def test_pages_become_documents(tmp_path, suffix):
    path = tmp_path / f"dewiki.xml{suffix}"
    pages = [
        page(1),
        page(2, namespace=1),
        page(3, more='<redirect title="Seite 1" />'),
        page(4, "{}", model="json"),
        page(5, "alt").replace("</page>", revision("neu", 6) + "</page>"),
    ]
    path.write_bytes(bz2.compress(dump(pages)) if suffix else dump(pages))
    documents, problems = read(path)
    assert [(d.name, d.text) for d in documents] == [
        (f"{path.name}:1", "Der Text & die Städte."),
        (f"{path.name}:5", "neu"),
    ]
    assert documents[0].metadata == {
        "title": "Seite 1",
        "url": "https://de.wikipedia.org/wiki/Seite_1",
        "language": "de",
        "date": "2024-01-02T00:00:00Z",
        "namespace": 0,
        "page_id": "1",
        "revision_id": "1",
    }
    assert not problems
    documents, _ = read(path, wiki_namespaces=(1,), markup="raw")
    assert [d.text for d in documents] == ["Der ''Text'' & die [[Stadt|Städte]]."]


def test_parts_of_a_multistream_dump_together_are_the_dump(tmp_path):
    path = tmp_path / "dewiki-multistream.xml.bz2"
    streams = ["".join(page(number) for number in range(at, at + 10)) for at in range(0, 200, 10)]
    path.write_bytes(b"".join(bz2.compress(text.encode()) for text in [HEAD, *streams, "</mediawiki>"]))
    whole, _ = read(path)
    shards = Files(str(path), shard_bytes=1500).shards()
    assert len(shards) > 3 and len(whole) == 200
    parts = [d for shard in shards for d in shard.read()]
    assert parts == whole
    assert parts[-1].metadata == whole[-1].metadata and parts[-1].metadata["language"] == "de"


def test_damage_loses_only_the_pages_it_hits(tmp_path):
    path = tmp_path / "dewiki.xml.bz2"
    streams = [bz2.compress(text.encode()) for text in [HEAD, *(page(n) + page(n + 1) for n in range(1, 9, 2))]]
    bad = bytearray(streams[2])
    bad[40:60] = bytes(20)
    path.write_bytes(b"".join([*streams[:2], bytes(bad), *streams[3:]]))
    documents, [problem] = read(path)
    assert [d.name.partition(":")[2] for d in documents] == ["1", "2", "5", "6", "7", "8"]
    assert "damaged bzip2" in problem.message and problem.where == f"offset {len(streams[0]) + len(streams[1])}"


def test_pages_that_are_none_and_a_file_that_ends_early(tmp_path):
    path = tmp_path / "dewiki.xml"
    broken = page(2).replace("</title>", "</tite>")
    path.write_bytes(dump([page(1), broken, page(3), page(3), page(4)])[:-150])
    documents, problems = read(path)
    assert [d.name.partition(":")[2] for d in documents] == ["1", "3"]
    assert [p.message.partition(":")[0] for p in problems] == [
        "is not well-formed XML",
        "there is another page with the id 3 in front of it",
        "the file ends inside a page",
    ]
    assert problems[0].where == f"page at offset {len(HEAD.encode()) + len(page(1).encode()) + 2}"


def test_a_page_that_is_too_long(tmp_path):
    path = tmp_path / "dewiki.xml"
    path.write_bytes(dump([page(1), page(2, "x" * 2_000_000), page(3)]))
    documents, problems = read(path, max_document_bytes=200_000)
    assert [d.name.partition(":")[2] for d in documents] == ["1", "3"]
    assert ["longer than a document may be" in p.message for p in problems] == [True]


def test_other_xml_is_passed_over_in_folders_and_refused_by_name(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "pom.xml").write_text("<project/>")
    assert [d.name for d in read_documents(str(tmp_path))] == ["a.txt"]
    with pytest.raises(DocumentError, match=r"pom\.xml: is of no supported kind"):
        list(read_documents(str(tmp_path / "pom.xml")))


def test_a_namespace_that_is_no_number_is_reported(tmp_path):
    path = tmp_path / "a.xml"
    path.write_bytes(dump([page(1, namespace="x"), page(2)]))
    documents, problems = read(path)
    assert [d.metadata["page_id"] for d in documents] == ["2"] and "namespace" in str(problems[0])
