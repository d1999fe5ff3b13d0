"""A stage for launch/run: a repository of its own, and a path on which every outside tool is a recording stand-in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
# A training that goes on, though not for ever: a test that fails leaves nothing behind.
GOES_ON = "for ((i = 0; i < 400; i++)); do sleep 0.05; done"
# What every Unix has; nothing else of this machine is on the path.
UNIX = (
    "awk",
    "bash",
    "basename",
    "cat",
    "chmod",
    "cut",
    "date",
    "dirname",
    "env",
    "git",
    "grep",
    "gzip",
    "head",
    "id",
    "kill",
    "mkdir",
    "mkfifo",
    "mktemp",
    "mv",
    "nohup",
    "printf",
    "ps",
    "rm",
    "sed",
    "seq",
    "setsid",
    "sleep",
    "sort",
    "tail",
    "tar",
    "tee",
    "touch",
    "tr",
    "true",
    "uname",
    "wc",
)
# Writes its own name and arguments down, then does what NAME.does says.
STAND_IN = r"""#!/usr/bin/env bash
name=${0##*/}
printf '%s\0' "$name" "$@" >> "$STAGE/calls"
printf '\n\0' >> "$STAGE/calls"
if [[ -f $STAGE/$name.does ]]; then source "$STAGE/$name.does"; fi
"""
# Words that a careless launcher would split, expand or execute.
NASTY = (
    "--data.path=a b",
    '--name=it\'s "quoted"',
    "--x=$(touch pwned)`touch pwned`",
    "--y=$HOME ${HOME} $$ \\ \\n *.md ~ ! # ; & | < >",
    "--z=two\nlines\tand a tab",
    "--v=a back\\slash, x and\nan 'apostrophe'",
    "--u=naïve 語 🙂",
    "",
    "--",
    "-n",
)


@dataclass
class Stage:
    folder: Path
    repository: Path
    environment: dict[str, str] = field(default_factory=dict)

    def launch(self, *words: str, **options) -> subprocess.CompletedProcess[str]:
        return self.run([sys.executable, str(self.repository / "launch" / "run"), *words], **options)

    def run(self, words: list[str], *, cwd: Path | None = None, timeout: float = 60, **environment: str):
        return subprocess.run(
            words,
            cwd=cwd or self.repository,
            env=self.variables(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def variables(self, **environment: str) -> dict[str, str]:
        return {
            "PATH": str(self.folder / "bin"),
            "STAGE": str(self.folder),
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            **self.environment,
            **environment,
        }

    def tool(self, name: str, does: str = "") -> None:
        """A stand-in, which records its call and then executes `does`."""
        path = self.folder / "bin" / name
        path.unlink(missing_ok=True)
        path.write_text(STAND_IN)
        path.chmod(0o755)
        (self.folder / f"{name}.does").write_text(does)

    def calls(self, name: str | None = None) -> list[list[str]]:
        """Every call of the stand-ins so far, as the words that they got."""
        path = self.folder / "calls"
        text = path.read_bytes().decode() if path.exists() else ""
        calls = [record.split("\0") for record in text.split("\0\n\0")[:-1]]
        return [call for call in calls if name in (None, call[0])]

    def logs(self, job: str) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted((self.repository / "logs" / job).glob("*.log"))}


def build(folder: Path) -> Stage:
    """A fresh stage in an empty folder."""
    repository = folder / "repository"
    repository.mkdir()
    shutil.copytree(REPOSITORY / "launch", repository / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    (repository / "experiments").mkdir()
    (repository / "experiments" / "tiny.py").write_text("def experiment(): ...\n")
    (repository / ".gitignore").write_text("__pycache__/\n/logs/\n/runs/\n/.venv/\n")
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for tool in UNIX:
        found = shutil.which(tool)
        if found:
            os.symlink(found, bin_folder / tool)
    for words in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        ("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--message=first"),
    ):
        subprocess.run(["git", "-C", str(repository), *words], check=True)
    return Stage(folder, repository)


def shellcheck(text: str) -> str:
    """What shellcheck has to say of a script. Quoted dollars (SC2016) are the training's own."""
    tool = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert tool, "shellcheck is not installed: pip install -r requirements/test.txt"
    return subprocess.run([tool, "--exclude=SC2016", "-"], input=text, capture_output=True, text=True).stdout
