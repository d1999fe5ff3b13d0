"""Main text of pages: boilerplate goes, form stays, nothing a page may hold breaks it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data.documents import Document
from jaxllm.data.extraction.html import HtmlToText, extract
from jaxllm.data.records import records, texts_of

SENTENCE = "The old lighthouse stood on the cliff for two hundred years, and its lamp was lit every evening. "
PAGE = f"""<!DOCTYPE html><html lang="en-GB"><head><title>The &quot;Lighthouse&quot;</title>
<meta property="article:published_time" content="2023-04-05"><meta name=author content="A. Keeper">
<link rel="license" href="https://creativecommons.org/licenses/by/4.0/"><link rel=canonical href="https://a.b/c">
<style>p {{ color: red }}</style><script>if (a < b) document.write("<p>no</p>")</script></head>
<body class="has-sidebar"><header><a href="/">Home</a> <a href="/x">News</a></header>
<nav><ul><li><a href=1>One</a><li><a href=2>Two</a></ul></nav>
<div id="content"><h1>Lighthouse</h1><p>{SENTENCE * 2}<p>{SENTENCE}See <a href="x">the keeper's log</a>.
<h2>Parts</h2><ul><li>the lamp<li>the stairs<ul><li>upper<li>lower</ul></ul>
<ol start=3><li>three</li><li>four</li></ol>
<pre>def f(x):
    return x &lt; 1
</pre>
<table><tr><th>Year<th>Keeper</tr><tr><td>1800<td><p>Smith</p></td></tr></table>
<h2>Nothing below</h2></div>
<div class="sidebar">{SENTENCE}</div><div class="related-posts"><p>{SENTENCE}</p></div>
<div style="display: none">{SENTENCE}</div>
<ul><li><a href=a>A link to somewhere</a><li><a href=b>And to somewhere else</a></ul>
<footer>Copyright 2023. All rights reserved.</footer></body></html>"""

MAIN = f"""# Lighthouse

{(SENTENCE * 2).strip()}

{SENTENCE}See the keeper's log.

## Parts

- the lamp
- the stairs
  - upper
  - lower
3. three
4. four

```
def f(x):
    return x < 1
```

Year | Keeper
1800 | Smith"""


def test_the_main_text_keeps_its_form():
    found = extract(PAGE)
    assert found.text == MAIN
    assert found.metadata == {
        "title": 'The "Lighthouse"',
        "language": "en-GB",
        "date": "2023-04-05",
        "author": "A. Keeper",
        "licence": "https://creativecommons.org/licenses/by/4.0/",
        "canonical_url": "https://a.b/c",
    }


def test_a_stage_extracts_what_was_read_raw():
    [batch] = records([Document("a", PAGE), Document("b", "<nav>menu</nav>")], "web")
    outcome = HtmlToText()(batch)
    assert texts_of(outcome.kept) == [MAIN] and outcome.dropped.column("reason").to_pylist() == ["nothing left"]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("just text, no markup", "just text, no markup"),
        (f"<p>{SENTENCE}", SENTENCE.strip()),
        (f"<P>{SENTENCE}</p><script>var a = '<p>no</p>'", SENTENCE.strip()),
        (f"<p>{SENTENCE}<!-- {SENTENCE} --></p><!-- never closed {SENTENCE}", SENTENCE.strip()),
        (f"<p title='a > b' class=\"x>y\">{SENTENCE}</p>", SENTENCE.strip()),
        (f"</div></td></p><p>{SENTENCE}</div></ul>", SENTENCE.strip()),
        (f"<p>1 < 2 &amp; 3 &gt; 2. {SENTENCE}</p>", f"1 < 2 & 3 > 2. {SENTENCE}".strip()),
        (
            f"<p>日本語の文章です。{'これは長い段落で、' * 12}終わり。</p>",
            f"日本語の文章です。{'これは長い段落で、' * 12}終わり。",
        ),
        (f"<h2>Title<a class=headerlink href=#t>¶</a></h2><p>{SENTENCE}</p>", f"## Title\n\n{SENTENCE.strip()}"),
        (
            f"<dl><dt>ANSI, a body<dd><a href=x>Institute</a></dl><p>{SENTENCE}",
            f"ANSI, a body\n\nInstitute\n\n{SENTENCE.strip()}",
        ),
        ("<ul>" + "<li><a href=x>link</a>" * 20 + "</ul>", ""),
        (f"<div class=nav-content-comments><p>{SENTENCE * 12}</p></div>", (SENTENCE * 12).strip()),
    ],
)
def test_pages_of_all_sorts(html, text):
    assert extract(html).text == text


def test_cells_of_a_layout_table_stay_apart():
    cells = f"<td><p>{SENTENCE}</p><p>{SENTENCE}</p><p>x</p></td><td><h2>Head</h2><p>{SENTENCE}</p></td>"
    assert " | " not in extract(f"<table><tr>{cells}</tr></table>").text


@given(
    st.lists(
        st.sampled_from(list("<>/'\"=!-& ab\n") + ["<p", "<!--", "</", "<td>", "<li>", "<ul>", "<pre>", "</pre>", "<a"])
    )
)
def test_any_text_is_a_page(parts):
    extract("".join(parts))


@pytest.mark.parametrize(
    "part",
    [
        "<",
        "<a ",
        "<a '",
        '<b ">" ',
        "<!--",
        "<div>x",
        "<td>",
        "<ul><li>",
        "</p>",
        "&",
        "<script>",
        "<p a=1 ",
        "<button>",
    ],
)
def test_hostile_pages_take_no_more_time_than_others(part):
    html = part * (40_000 // len(part)) + "'"
    start = time.perf_counter()
    extract(html)
    extract(html + ">")
    assert time.perf_counter() - start < 10


def test_agreement_with_trafilatura():
    trafilatura = pytest.importorskip("trafilatura", reason="needs trafilatura (make parity)")
    from experiments.benchmarks.data_extraction import f1

    article = "".join(f"<h2>Part {i}</h2><p>{SENTENCE}It was year {i}.</p><p>{SENTENCE * 2}</p>" for i in range(8))
    html = PAGE.replace("<h2>Parts</h2>", article + "<h2>Parts</h2>")
    assert f1(extract(html).text, trafilatura.extract(html)) > 0.95
