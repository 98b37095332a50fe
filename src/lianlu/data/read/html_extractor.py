"""The text of HTML pages, by trafilatura or another extractor, in a child process that can be killed.

A page that takes a parser minutes, or gigabytes, or crashes it, costs its limit and nothing else: the child dies, the page
is rejected with a reason, and the next page gets a new child.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from lianlu.core.errors import MissingExtraError
from lianlu.data.read.child import Child
from lianlu.data.rules.thresholds import Verdict

Name = Literal["trafilatura", "resiliparse", "magic-html"]
MODULES: dict[Name, str] = {"trafilatura": "trafilatura", "resiliparse": "resiliparse", "magic-html": "magic_html"}


class HtmlExtractor:
    """Takes pages, gives texts; the child starts with the first page and lives until `close`.

    `limit_s` is processor time a page. Raises: MissingExtraError if the extractor is not installed.
    """

    def __init__(self, limit_s: float, name: Name = "trafilatura") -> None:
        if find_spec(MODULES[name]) is None:
            hint = f"pip install lianlu[{name}]" + (" (it needs Python 3.12 or later)" if name == "magic-html" else "")
            raise MissingExtraError(f"extraction by {name} needs the library {name}", hint=hint)
        self.child = Child(("lianlu.data.read.html_child", name), limit_s)

    def extract(self, page: bytes) -> str | Verdict:
        """The article of a page, or why there is none."""
        answer = self.child.ask(page)
        if isinstance(answer, Verdict):
            return answer
        text = answer.decode()
        return text if text.strip() else Verdict("extract.nothing_found", 0, 1)

    def close(self) -> None:
        """End the child."""
        self.child.close()
