"""Whatever a word holds, bash gets that word and nothing else."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.script import command, needs, one_line, quote, script, write_file
from tests.launch.stage import NASTY, shellcheck

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30)


def heard(text: str) -> list[str]:
    """The words that bash makes of it."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {text}"], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_quoted_words_are_heard_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert heard(one_line(NASTY)) == list(NASTY)
    assert not (tmp_path / "pwned").exists()


@settings(max_examples=25, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=20))
def test_any_words_are_heard_as_they_are(words):
    assert heard(one_line(words)) == words
    assert heard(command(*words)) == words
    assert "\n" not in one_line(words)


def test_long_commands_go_on_in_further_lines():
    words = [f"--option-{i}=value {i}" for i in range(40)]
    assert max(map(len, command(*words).splitlines())) <= 110
    assert heard(command(*words)) == words


@pytest.mark.parametrize("word", ["a\0b", "a\udc80b"])
def test_what_no_command_line_can_carry_is_refused(word):
    with pytest.raises(ValueError, match="holds what can't be passed on"):
        quote(word)


@pytest.mark.parametrize("text", ["a\n", "$(touch pwned) `x` \\ '\"\n  b: |\n", "END_OF_FILE\nEND_OF_FILE_\n", "語\n"])
def test_files_are_written_exactly(tmp_path, text):
    path = tmp_path / "it's a file"
    subprocess.run(["bash", "-c", write_file(path, text)], check=True, cwd=tmp_path)
    assert path.read_text() == text
    assert not (tmp_path / "pwned").exists()


def test_a_missing_tool_is_named_with_what_to_install():
    done = subprocess.run(["bash", "-c", needs("no-such-tool", "it's at http://x")], capture_output=True, text=True)
    assert done.returncode == 127
    assert done.stderr == "error: no-such-tool is not on the path; install it: it's at http://x\n"


def test_a_title_can_not_leave_its_comment():
    text = script("a\ntouch pwned\r\x1b[2J", "true")
    assert text.splitlines()[1] == "# a touch pwned  [2J"
    assert shellcheck(text) == ""
