"""Precision and recall of the finding of personal data, on the labelled texts beside this file.

    python tests/data/pii/measure.py

A finding counts as right only if its kind, its begin and its end are as marked.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from jaxllm.data.pii import KINDS, Finding, find

_MARK = re.compile(r"\[\[([A-Z_]+):(.*?)\]\](?!\][^:])", re.DOTALL)


def cases() -> list[tuple[str, set[Finding]]]:
    """Each text without its marks, and what was marked."""
    found = []
    for line in (Path(__file__).parent / "cases.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") or not line:
            continue
        line = line.replace("¦", "").replace("\\n", "\n")
        text, findings, at = "", set(), 0
        for mark in _MARK.finditer(line):
            text += line[at : mark.start()]
            findings.add(Finding(mark[1], len(text), len(text) + len(mark[2])))
            text += mark[2]
            at = mark.end()
        found.append((text + line[at:], findings))
    return found


def measured() -> tuple[dict[str, tuple[int, float, float]], list[str]]:
    """Per kind the number marked, precision and recall; and the errors, in words."""
    right, said, marked, errors = Counter(), Counter(), Counter(), []
    for text, wanted in cases():
        got = set(find(text))
        right.update(finding.kind for finding in got & wanted)
        said.update(finding.kind for finding in got)
        marked.update(finding.kind for finding in wanted)
        for word, findings in (("wrong", got - wanted), ("missed", wanted - got)):
            errors += [f"{word} {f.kind} {text[f.start : f.end]!r} in {text!r}" for f in findings]
    return {
        kind: (marked[kind], right[kind] / max(said[kind], 1), right[kind] / marked[kind]) for kind in KINDS
    }, errors


if __name__ == "__main__":
    table, errors = measured()
    print(f"{len(cases())} texts\n{'kind':<14}{'marked':>8}{'precision':>11}{'recall':>8}")
    for kind, (count, precision, recall) in table.items():
        print(f"{kind:<14}{count:>8}{precision:>11.3f}{recall:>8.3f}")
    print("\n".join(errors))
