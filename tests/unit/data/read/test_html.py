from __future__ import annotations

from lianlu.data.read import html_head
from lianlu.data.read.extract import documents
from lianlu.data.read.html_child import by_trafilatura
from lianlu.data.read.html_extractor import HtmlExtractor
from lianlu.data.read.raw import Raw
from lianlu.formats.documents import Document

PARAGRAPHS = "".join(f"<p>Paragraph {n} tells how the ships came in at dusk, and what they carried.</p>" for n in range(6))
PAGE = f"""<html><head><title>Ships &amp; harbours
 | News</title><link rel="canonical" href="https://e.org/ships">
<meta property="article:published_time" content="2021-05-06T07:08:09Z">
</head><body><article><h1>Ships</h1>{PARAGRAPHS}</article>
<footer><a href='https://creativecommons.org/licenses/by-sa/4.0/' rel="license noopener">some rights</a></footer></body></html>"""

LATEX = "<annotation encoding='application/x-tex'>v_0</annotation>"


def test_a_page_tells_its_address_date_licence_and_title() -> None:
    pages = HtmlExtractor(5)
    found = documents(Raw("a.html", "html", 1, path="a.html"), PAGE.encode(), pages)
    assert isinstance(found, list)
    document = found[0]
    assert (document.url, document.date, document.license) == ("https://e.org/ships", "2021-05-06T07:08:09Z", "CC-BY-SA-4.0")
    assert document.meta == {"title": "Ships & harbours | News"}
    known = Document("a", "", url="https://archive.org/x", date="2022-01-01T00:00:00Z")
    found = documents(Raw("a", "html", 1, document=known), PAGE.encode(), pages)
    pages.close()
    assert isinstance(found, list)
    assert (found[0].url, found[0].date) == ("https://archive.org/x", "2022-01-01T00:00:00Z")


def test_a_licence_at_the_foot_of_a_long_page_is_found_and_odd_pages_harm_nobody() -> None:
    document = Document("a", "")
    html_head.tell(document, b"<p>" + b"x" * 400_000 + b"<a rel=license href=https://creativecommons.org/licenses/by/3.0/>by</a>")
    assert document.license == "CC-BY-3.0"
    for page in (b"<a " * 200_000, b"<meta " + b'a="' * 100_000, b"<title" * 100_000, b"\xff\x00<link rel=canonical href=>", b""):
        html_head.tell(Document("a", ""), page)


def test_what_is_hidden_is_no_text_and_formulas_are() -> None:
    page = PAGE.replace("<h1>", "<div style='color: red; Display : none'><p>Hidden words of a notice.</p></div><h1>").replace(
        "came in at dusk", f"came at <math><semantics><mi>v</mi>{LATEX}</semantics></math> knots"
    )  # fmt: skip
    page = page.replace("Paragraph 0 ", "Paragraph <p hidden>secret</p>zero <script type='math/tex'>x^2</script> ")
    text = by_trafilatura(page.encode())
    assert "Hidden words" not in text
    assert "secret" not in text
    assert "came at $v_0$ knots" in text
    assert "$x^2$" in text
    katex = f"<span class='katex'><span class='katex-mathml'><math>{LATEX}</math></span>drawn</span>"
    text = by_trafilatura(PAGE.replace("dusk", f"dusk {katex} then").encode())
    assert "dusk $v_0$ then" in text
    assert "drawn" not in text
