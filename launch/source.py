"""The code that the hosts get: a commit of this repository, or the working tree where that was asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path

from launch.script import command
from launch.training import REPOSITORY


def head(dirty: bool) -> str:
    """The commit that is checked out. Raises ValueError for changes that are not in it, unless `dirty`."""
    commit = _git("rev-parse", "HEAD").strip()
    changed = _git("status", "--porcelain").splitlines()
    if changed and not dirty:
        shown = "\n".join(f"  {line}" for line in changed[:10]) + ("\n  ..." if len(changed) > 10 else "")
        raise ValueError(
            f"the working tree differs from its commit, and a run should be found again by its commit:\n{shown}\n"
            "commit the changes, or send the tree as it is with --dirty"
        )
    return commit


def archive(commit: str, dirty: bool, to: Path | None = None) -> str:
    """Commands that write the source as a tar archive: compressed to the file `to`, or plain to the standard output.

    A dirty tree is archived through an index of its own, so that neither the tree nor the user's index is touched.
    """
    output = ("--format=tar.gz", "--output", str(to)) if to else ("--format=tar",)
    here = ("git", "-C", str(REPOSITORY))
    if not dirty:
        return command(*here, "archive", *output, commit)
    return "\n".join(
        (
            "(",
            "index=$(mktemp -d)",
            "trap 'rm -rf \"$index\"' EXIT",
            'export GIT_INDEX_FILE="$index/index"',
            command(*here, "read-tree", commit),
            command(*here, "add", "--all"),
            f"tree=$({command(*here, 'write-tree')})",
            f'{command(*here, "archive", *output)} "$tree"',
            ")",
        )
    )


def described(commit: str, dirty: bool) -> str:
    return f"{commit}-dirty" if dirty else commit


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], check=True, capture_output=True, text=True
        ).stdout
    except FileNotFoundError as error:
        raise ValueError("git is not on the path; install it: https://git-scm.com") from error
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{REPOSITORY} is no git repository with a commit to send: {error.stderr.strip()}") from error
