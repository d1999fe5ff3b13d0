import logging
import os
import re
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from jaxllm.data import stdlib, stdlib_pages
from jaxllm.data.documents import Document, DocumentError
from jaxllm.data.stdlib import stdlib_documents

PLACE = "place-4711"
"""Part of the interpreter's path and of the working directory, a name that no documentation mentions."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[Document]:
    """Everything but the source code; made by a Python in a virtual environment, with a secret in the environment."""
    folder = tmp_path_factory.mktemp("home") / PLACE
    venv.create(folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(folder / "bin" / "python"))
        patch.chdir(folder)
        patch.setenv("JAXLLM_SECRET", "swordfish-4711")
        patch.setenv("PYTHONHASHSEED", "77")
        patch.setenv("PYTHONDOCS", "https://docs.example.org")
        return list(stdlib_documents())


@pytest.fixture(scope="module")
def text_of(corpus) -> dict[str, str]:
    return {document.name: document.text for document in corpus}


def test_size(corpus, text_of):
    pages = [text for name, text in text_of.items() if name.startswith("pydoc/")]
    topics = [text for name, text in text_of.items() if name.startswith("topics/")]
    assert len(text_of) == len(corpus) == len(pages) + len(topics)
    assert 170 <= len(pages) <= 230 and 3.5e6 < sum(map(len, pages)) < 7e6
    assert 60 <= len(topics) <= 100 and 0.4e6 < sum(map(len, topics)) < 1.2e6
    assert [document.name for document in corpus] == sorted(text_of)


def test_a_page_is_what_help_shows_without_path_and_link(text_of):
    page = text_of["pydoc/json"]
    assert page.startswith(
        "Help on package json:\n\nNAME\n    json\n\nDESCRIPTION\n    JSON (JavaScript Object Notation) <"
    )
    assert "PACKAGE CONTENTS\n    decoder\n    encoder\n" in page
    assert "    dumps(obj, *, skipkeys=False" in page
    assert "\nFILE\n" not in page and "MODULE REFERENCE" not in page
    assert text_of["pydoc/queue"].startswith("Help on module queue:\n\nNAME\n    queue - A multi-producer")
    assert text_of["topics/for"].startswith('The "for" statement\n')


def test_no_module_has_opened_said_or_doubled_anything(text_of):
    assert not {"pydoc/antigravity", "pydoc/posix", "pydoc/nt", "pydoc/_thread", "pydoc/__main__"} & set(text_of)
    assert "pydoc/this" in text_of and "Beautiful is better than ugly" not in text_of["pydoc/this"]


def test_nothing_of_this_machine_is_in_the_text(corpus):
    texts = "\n".join(document.text for document in corpus)
    traces = (PLACE, "swordfish-4711", "JAXLLM_SECRET", "docs.example.org")
    assert [trace for trace in traces if trace in texts] == []
    documented = "\n".join(topics.values())  # examples in the language reference may show an address
    found = re.findall(r".*<.* at 0x[0-9a-f]{6,}.*>.*", texts)
    assert [line for line in found if line.strip() not in documented] == []
    texts.encode("utf-8")  # no lone surrogates


def test_another_environment_gives_the_same_text(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module in ("json", "pydoc", "sitecustomize"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join([str(tmp_path), os.environ.get("LD_LIBRARY_PATH", "")]))
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    known, again = set(corpus), list(stdlib_documents())
    assert [document.name for document in again if document not in known] == []
    assert len(again) == len(corpus)
    assert os.listdir(tmp_path) and not list(tmp_path.rglob("*.pyc"))


def test_source_code(monkeypatch):
    monkeypatch.setattr(stdlib, "pages", lambda: iter(()))
    monkeypatch.setattr(stdlib, "topics", lambda: iter(()))
    documents = list(stdlib_documents(include_source=True))
    texts = {document.name: document.text for document in documents}
    library = Path(sysconfig.get_path("stdlib"))
    assert texts["source/json/decoder.py"] == (library / "json" / "decoder.py").read_text(encoding="utf-8")
    assert 500 < len(texts) == len(documents) < 1000
    assert 8e6 < sum(map(len, texts.values())) < 15e6
    parts = [name.split("/") for name in texts]
    assert parts == sorted(parts)
    folders = {part for name in parts for part in name[1:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data", "__pycache__"}
    assert not [name for name in texts if "sysconfigdata" in name or "sitecustomize" in name]
    assert list(stdlib_documents()) == []


def test_source_code_in_another_encoding(tmp_path):
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "latin.py").write_bytes("# coding: latin-1\r\nname = 'Löwis'\r\n".encode("latin-1"))
    (tmp_path / "setuptools.py").write_text("not of the standard library")
    found = list(stdlib.source(tmp_path, stdlib.source_files(tmp_path)))
    assert found == [Document("source/json/latin.py", "# coding: latin-1\nname = 'Löwis'\n")]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts another program in the place of the one that makes the pages."""

    def put(source: str) -> None:
        (tmp_path / "program.py").write_text(source)
        monkeypatch.setattr(stdlib, "_PROGRAM", tmp_path / "program.py")

    return put


def test_modules_without_a_page_are_passed_over_and_logged(program, caplog):
    program("""print('{"name": "winreg", "skipped": "ImportError: no"}\\n{"name": "x", "text": "page"}')""")
    with caplog.at_level(logging.INFO, logger="jaxllm.data.stdlib"):
        assert list(stdlib.pages()) == [Document("pydoc/x", "page")]
    assert caplog.messages == ["no page of module winreg: ImportError: no"]


def test_a_program_that_fails(program):
    program("raise SystemExit('the library is broken')")
    with pytest.raises(DocumentError, match=r"(?s)failed to make pydoc's pages .*exit status 1.*data.path.*is broken"):
        next(stdlib_documents())


def test_a_program_that_hangs(program, monkeypatch):
    program("import time; time.sleep(600)")
    monkeypatch.setattr(stdlib, "_TIMEOUT_SECONDS", 1)
    begin = time.monotonic()
    with pytest.raises(DocumentError, match="were not made within 1 seconds; train on a text of your own"):
        next(stdlib_documents())
    assert time.monotonic() - begin < 30


def test_a_python_without_its_language_reference(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DocumentError, match=r"comes without the language reference \(module pydoc_data.topics\)"):
        list(stdlib.topics())


@pytest.mark.parametrize(
    "attempt",
    [
        "open('made', 'w')",
        "open('made', 'ab')",
        "import os; os.open('made', os.O_CREAT | os.O_WRONLY)",
        "import os; os.system('touch made')",
        "import subprocess; subprocess.run(['touch', 'made'])",
        "import os; os.fork()",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('example.org', 80)",
    ],
)
def test_side_effects_are_refused(tmp_path, attempt):
    code = f"import sys, runpy; h = runpy.run_path({str(Path(stdlib_pages.__file__))!r})['_refuse_side_effects']"
    code += f"; sys.addaudithook(h); {attempt}"
    child = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert child.returncode == 1
    assert re.search("PermissionError: .* is refused while pages are made", child.stderr)
    assert os.listdir(tmp_path) == []
