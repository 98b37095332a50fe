"""The page's own Markdown, in the browser it runs in: what it understands, and that nothing a model writes comes alive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import Script, Visit, opened

pytestmark = pytest.mark.e2e

RENDER = """async (source) => {
  const { show } = await import("/web/markdown.js");
  const place = document.createElement("div");
  show(place, source);
  return place.innerHTML;
}"""
ALLOWED = {
    "a", "blockquote", "br", "button", "code", "del", "div", "em", "h3", "h4", "h5", "h6", "hr", "input", "li", "ol", "p", "pre",
    "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
# every element and attribute that a text made, and where its links lead
INSPECT = """async (sources) => {
  const { show } = await import("/web/markdown.js");
  const found = { tags: new Set(), attributes: new Set(), links: new Set(), lost: [] };
  for (const source of sources) {
    const place = document.createElement("div");
    document.body.append(place);
    show(place, source);
    for (const node of place.querySelectorAll("*")) {
      found.tags.add(node.tagName.toLowerCase());
      for (const name of node.getAttributeNames()) found.attributes.add(name);
      if (node.href) found.links.add(new URL(node.href).protocol);
    }
    const letters = (text) => (text.match(/[A-Za-z0-9]/g) ?? []).length;
    place.querySelectorAll(".bar button").forEach((node) => node.remove());
    if (letters(place.textContent) > letters(source)) found.lost.push(source);
    place.remove();
  }
  return Object.fromEntries(Object.entries(found).map(([name, values]) => [name, [...values]]));
}"""
GROW = """async (source) => {
  const { show } = await import("/web/markdown.js");
  const grown = document.createElement("div");
  for (let end = 0; end <= source.length; end += 1) show(grown, source.slice(0, end));
  const whole = document.createElement("div");
  show(whole, source);
  return grown.innerHTML === whole.innerHTML;
}"""


@pytest.fixture(scope="module")
def sheet(browser: Any, api: tuple[Script, str]) -> Iterator[Visit]:
    """A tab to render in."""
    context, made = opened(browser, api[1])
    yield made
    context.close()
    assert made.troubles == []


BOX = '<input type="checkbox" disabled="">'
LINK = 'target="_blank" rel="noopener noreferrer nofollow"'


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", "<p>plain</p>"),
        ("two\nlines\n\nnext", "<p>two<br>lines</p><p>next</p>"),
        ("# One\n### Three ##\n####### seven", "<h3>One</h3><h5>Three</h5><p>####### seven</p>"),
        ("**b** __b__ *i* _i_", "<p><strong>b</strong> <strong>b</strong> <em>i</em> <em>i</em></p>"),
        ("***bi*** ~~s~~", "<p><strong><em>bi</em></strong> <del>s</del></p>"),
        ("2 * 3 * 4, snake_case_name, **open", "<p>2 * 3 * 4, snake_case_name, **open</p>"),
        ("`a < b` and ``x ` y``", "<p><code>a &lt; b</code> and <code>x ` y</code></p>"),
        ("`open", "<p>`open</p>"),
        (r"\*not\* \# \<", "<p>*not* # &lt;</p>"),
        ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("1. a\n\n   more\n2. b", "<ol><li><p>a</p><p>more</p></li><li>b</li></ol>"),
        ("* a\nlazy\n\nafter", "<ul><li>a<br>lazy</li></ul><p>after</p>"),
        ("- [x] done\n- [ ]", f'<ul><li class="task">{BOX} done</li><li>[ ]</li></ul>'),
        ("> q\n> > r\n\np", "<blockquote><p>q</p><blockquote><p>r</p></blockquote></blockquote><p>p</p>"),
        ("---\n***", "<hr><hr>"),
        (
            "| a | b |\n|:-:|--:|\n| 1 \\| 2 | `x` |\n| short |",
            '<div class="scroll"><table><thead><tr><th class="center">a</th><th class="right">b</th></tr></thead><tbody>'
            '<tr><td class="center">1 | 2</td><td class="right"><code>x</code></td></tr>'
            '<tr><td class="center">short</td><td class="right"></td></tr></tbody></table></div>',
        ),
        ("a | b, no table", "<p>a | b, no table</p>"),
        ("[t](http://a.org/x?y&z)", f'<p><a href="http://a.org/x?y&amp;z" title="http://a.org/x?y&amp;z" {LINK}>t</a></p>'),
        ("see http://a.org/b_c_d.", f'<p>see <a href="http://a.org/b_c_d" title="http://a.org/b_c_d" {LINK}>http://a.org/b_c_d</a>.</p>'),
        ("![pic](http://a.org/p.png)", f'<p><a href="http://a.org/p.png" title="http://a.org/p.png" {LINK}>pic</a></p>'),
        ("<https://a.org>", f'<p><a href="https://a.org/" title="https://a.org/" {LINK}>https://a.org</a></p>'),
        ("[a](b.html) [x]", "<p>[a](b.html) [x]</p>"),
    ],
)  # fmt: skip
def test_what_it_understands(sheet: Visit, source: str, expected: str) -> None:
    assert sheet.page.evaluate(RENDER, source) == expected


def test_code_is_coloured_copied_and_kept_to_the_letter(visit: Visit, script: Script, browser: Any) -> None:
    body = "def f(x):\n    # it's <b>\n    return 'a' + 1.5"
    script.replies["code"] = [f"Here:\n\n```python\n{body}\n```\n\nand `more`."]
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.ask("code")
    block = visit.page.locator(".code")
    assert block.locator("pre").text_content() == body
    assert block.locator(".bar span").inner_text() == "python"
    assert block.locator(".token-word").all_inner_texts() == ["def", "return"]
    assert block.locator(".token-comment").all_inner_texts() == ["# it's <b>"]
    assert block.locator(".token-string").all_inner_texts() == ["'a'"]
    assert block.locator(".token-number").all_inner_texts() == ["1.5"]
    block.get_by_role("button", name="Copy").click()
    block.get_by_role("button", name="Copied").wait_for()
    assert visit.page.evaluate("navigator.clipboard.readText()") == body
    for language in ("", "none-such", "js", "sql", "sh", "json"):
        assert body in visit.page.evaluate(RENDER.replace("innerHTML", "textContent"), f"```{language}\n{body}\n```")


ATTACKS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x) [y](file:///etc/passwd) [z](blob:https://a/b)",
    "![x](javascript:alert(1)) ![y](x onerror=alert(1))",
    "<javascript:alert(1)> <https://a.org onclick=alert(1)>",
    '[x](https://a.org "onmouseover=alert(1)")',
    '[x](https://a.org"onmouseover="alert(1))',
    "```\"><img src=x onerror=alert(1)>\n</code></pre><script>alert(1)</script>\n```",
    "```js onload=alert(1)\n`${alert(1)}`\n```",
    "| <img src=x onerror=alert(1)> |\n|---|\n| <script>alert(1)</script> |",
    "- <iframe srcdoc='<script>alert(1)</script>'>\n> <object data=x>\n# <style>*{display:none}</style>",
    "**<b onclick=alert(1)>** `<i>` ~~<u>~~ \\<script>",
    "<a href='javascript:alert(1)'>x</a> <form action=//evil><button>go</button></form>",
    "{{constructor.constructor('alert(1)')()}} ${alert(1)}",
]  # fmt: skip


def test_nothing_a_model_writes_comes_alive(visit: Visit, script: Script) -> None:
    alerts: list[str] = []
    asked: list[str] = []
    visit.page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    visit.page.on("request", lambda request: asked.append(request.url))
    script.replies["attack"] = [f"{attack}\n\n" for attack in ATTACKS]
    shown = visit.ask("attack")
    for attack in ("<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "[x](javascript:alert(1))"):
        assert attack in shown
    visit.ask("<img src=x onerror=alert(1)><script>alert(1)</script>")
    found = visit.page.evaluate(INSPECT, ATTACKS)
    assert set(found["tags"]) <= ALLOWED
    assert set(found["links"]) <= {"http:", "https:"}
    assert not {name for name in found["attributes"] if name.startswith("on") or name in ("src", "srcdoc", "style")}
    live = "document.querySelectorAll('#log img, #log script, #log iframe, #log object, #log svg, #log style').length"
    assert visit.page.evaluate(live) == 0
    assert alerts == []
    assert {url.split("/")[3] for url in asked} <= {"v1", "web"}


def test_the_policy_stops_what_would_slip_through(visit: Visit) -> None:
    refused = """() => {
      try { document.body.innerHTML = "<b>x</b>"; return "let in"; } catch (error) { return error.name; }
    }"""
    assert visit.page.evaluate(refused) == "TypeError"
    started = "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); }"
    with pytest.raises(Exception, match="TrustedScript"):
        visit.page.evaluate(started)
    assert visit.page.evaluate("window.ran") is None
    visit.troubles.clear()  # the policy's own notes of what this test tried


MARKS = ["*", "**", "_", "`", "```", "~~", "[", "](", ")", "<", ">", "|", "|-|", "- ", "1. ", "# ", "> ", "\\", "!"]
WORDS = ["word", "http://a.org", "javascript:x", "<img src=x>", "\u4e2d", "\t", "```py\n", "a|b\n-|-\n", "\n", "\n\n", "    "]
PIECES = st.sampled_from(MARKS + WORDS)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=30).map("".join), min_size=20, max_size=20))
def test_any_text_gives_only_known_elements_and_invents_nothing(sheet: Visit, texts: list[str]) -> None:
    found = sheet.page.evaluate(INSPECT, texts)
    assert set(found["tags"]) <= ALLOWED
    assert set(found["links"]) <= {"http:", "https:"}
    assert not {name for name in found["attributes"] if name.startswith("on") or name == "src"}
    assert found["lost"] == []


@settings(max_examples=15, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join))
def test_a_text_that_grows_ends_as_if_it_had_come_at_once(sheet: Visit, text: str) -> None:
    assert sheet.page.evaluate(GROW, text)


@pytest.mark.parametrize(
    "text", ["[" * 20_000, "*a " * 8000, "`" * 9999, "> " * 5000, "- " * 5000 + "x", "**a" * 6000, "|" * 20_000]
)
def test_long_odd_texts_take_no_time(sheet: Visit, text: str) -> None:
    timed = RENDER.replace("return place.innerHTML", "return place.textContent.length")
    assert sheet.page.evaluate(timed, text) > 0
