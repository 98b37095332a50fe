"""What a page says about itself: its title, its address, when it was published, its licence.

Read with patterns that cannot take long, from the beginning of a page, and for the licence, which mostly stands at its foot,
from its end too. What is known from elsewhere (the address and date of a web archive) is not overruled.
"""

from __future__ import annotations

import html
import re

from lianlu.data.licences.texts import licence_of_link
from lianlu.formats.documents import Document

HEAD_BYTES, FOOT_BYTES = 200_000, 50_000
_TAG = re.compile(r"<(meta|link|a|html)\s([^<>]{1,2000})>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"""([a-zA-Z:-]{1,30})\s{0,5}=\s{0,5}(?:"([^"]{0,1000})"|'([^']{0,1000})'|([^\s"'>]{1,1000}))""")
_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{1,500})</title", re.IGNORECASE)
_DATES = (
    "article:published_time",
    "datepublished",
    "date",
    "dc.date",
    "dc.date.issued",
    "dcterms.date",
    "pubdate",
    "publishdate",
)
_CHARSET = re.compile(
    rb"""(?:<meta\s[^<>]{0,500}?charset|<\?xml\s[^<>]{0,100}?encoding)\s{0,5}=\s{0,5}["']?([\w.:-]{2,40})""", re.IGNORECASE
)
_ADDRESSES = ("canonical", "og:url")


def charset(page: bytes) -> str | None:
    """The encoding that a page says it is in."""
    found = _CHARSET.search(page[:HEAD_BYTES])
    return found[1].decode("ascii", "replace") if found else None


def tell(document: Document, page: bytes) -> None:
    """Add to a document what its page tells."""
    head, foot = page[:HEAD_BYTES].decode("utf-8", "replace"), page[HEAD_BYTES:][-FOOT_BYTES:].decode("utf-8", "replace")
    told = _told(head)
    document.url = document.url or next((told[name] for name in _ADDRESSES if told.get(name, "").startswith("http")), "")
    document.date = document.date or next((told[name][:40] for name in _DATES if told.get(name)), "")
    document.license = document.license or told.get("license", "") or _told(foot).get("license", "")
    if (found := _TITLE.search(head)) and "\ufffd" not in found[1]:
        document.meta = {**document.meta, "title": " ".join(html.unescape(found[1]).split())}


def _told(text: str) -> dict[str, str]:
    """What meta tags and links say, the first of each name; of links with rel=license those that name a known one."""
    found: dict[str, str] = {}
    for tag, inside in _TAG.findall(text):
        own = {name.lower(): html.unescape(one or two or bare).strip() for name, one, two, bare in _ATTRIBUTE.findall(inside)}
        relation = own.get("rel", "").lower().split()
        if tag.lower() == "meta":
            name = own.get("property") or own.get("name") or own.get("itemprop") or ""
            found.setdefault(name.lower(), own.get("content", ""))
        elif "canonical" in relation:
            found.setdefault("canonical", own.get("href", ""))
        elif "license" in relation and (name := licence_of_link(own.get("href", ""))):
            found.setdefault("license", name)
    return {name: value for name, value in found.items() if value}
