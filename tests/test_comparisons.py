from tests.comparisons import signs_of

PARTLY = '''"""Needs requirements/parity.txt in part."""
import pytest
needs_gguf = pytest.mark.skipif(True, reason="in requirements/parity.txt")
def library():
    return pytest.importorskip("torch")
@pytest.fixture
def model():
    return library().nn
def test_alone(): ...
@needs_gguf
def test_marked(): ...
def test_calls(): library()
def test_in_itself(): pytest.importorskip("torch")
'''


def test_what_a_test_uses_says_whether_it_compares(tmp_path):
    file = tmp_path / "test_it.py"
    file.write_text(PARTLY)
    found = {"needs_gguf", "library", "model", "test_marked", "test_calls", "test_in_itself"}
    assert signs_of(file) == (False, found)


def test_a_module_that_needs_the_others_to_be_imported(tmp_path):
    file = tmp_path / "test_it.py"
    file.write_text("import pytest\ntorch = pytest.importorskip('torch')\ndef test_it(): ...\n")
    assert signs_of(file)[0]
