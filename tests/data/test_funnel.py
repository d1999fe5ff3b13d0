"""The report of what is left after each stage."""

from jaxllm.data.documents import Document
from jaxllm.data.funnel import Level, draw_funnel, excerpt, funnel_markdown, merged
from jaxllm.data.records import records
from jaxllm.data.stages import Outcome, judged


def outcomes(number, size=10):
    documents = [Document(f"{number}-{i}", f"text {i} of {number} – ü") for i in range(size)]
    [batch] = records(documents, "s")
    outcome = judged(batch, "quality", ["too long" if i % 3 == 0 else "bad" if i == 1 else None for i in range(size)])
    return Outcome(outcome.kept, outcome.dropped, {"lines": number})


def test_shards_together_are_as_one_pass_over_all():
    together, apart = Level("quality"), []
    for number in range(5):
        together.saw(outcomes(number), examples=2)
        apart.append(Level("quality"))
        apart[-1].saw(outcomes(number), examples=2)
    [total] = merged([[level] for level in apart], examples=2)
    assert total.to_json() == together.to_json()
    assert (total.documents, total.dropped, total.counts) == (25, 25, {"lines": 10})
    assert total.bytes == sum(
        len(f"text {i} of {n} – ü".encode()) for n in range(5) for i in range(10) if i % 3 and i > 1
    )
    assert list(total.reasons) == ["too long", "bad"]  # the most frequent first
    reason = total.reasons["too long"]
    assert (reason.documents, len(reason.examples)) == (20, 2)
    assert Level.from_json(total.to_json()) == total


def test_a_stage_of_several_says_which_of_them_dropped():
    level = Level("chain")
    level.saw(outcomes(1), examples=1)
    assert set(level.reasons) == {"quality: too long", "quality: bad"}


def test_the_page():
    read, quality = Level("read", 4, 1000, 300, estimated=True), Level("quality")
    quality.saw(outcomes(0, 2), examples=1)
    quality.tokens = 12
    page = funnel_markdown("web", [read, quality], ["a.gz, offset 7: is broken"])
    assert page.splitlines() == [
        "# web",
        "",
        "| stage | documents | bytes | tokens | dropped | of those before | left of all bytes |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| read | 4 | 1,000 | ≈ 300 | 0 | 0.0% | 100.0% |",
        "| quality | 0 | 0 | 12 | 2 | 100.0% | 0.0% |",
        "",
        "≈: estimated from the tokens of a sample of the documents and the bytes of all.",
        "",
        "## Could not be read (1)",
        "",
        "- a.gz, offset 7: is broken",
        "",
        "## quality",
        "",
        "- **too long**: 1 documents, 18 bytes",
        "  - `s/0-0`: ` text 0 of 0 – ü `",
        "- **bad**: 1 documents, 18 bytes",
        "  - `s/0-1`: ` text 1 of 0 – ü `",
        "- lines: 0",
    ]


def test_text_of_others_can_not_leave_its_place_in_the_page():
    level = Level("s", 0, 0)
    [batch] = records([Document("x", "```\n# not a heading\n``` `")], "s")
    level.saw(judged(batch, "s", ["r"]), examples=1)
    assert "  - `s/x`: ```` ``` # not a heading ``` ` ````" in funnel_markdown("t", [level])


def test_an_excerpt_is_one_line_and_says_where_it_was_cut():
    assert excerpt("a\n\n b\tc") == "a b c"
    assert excerpt("x" * 500, 10) == "xxxxxxxxxx…"
    assert excerpt(" " * 5000 + "late", 10) == "…"


def test_the_picture_is_the_same_each_time(tmp_path):
    levels = [Level("read", 10, 1000, 100), Level("quality", 5, 600, 50), Level("nothing", 0, 0, 0)]
    for name in ("a.png", "b.png"):
        draw_funnel(tmp_path / name, "web", levels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes() != b""
