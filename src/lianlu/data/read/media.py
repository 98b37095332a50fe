"""Pictures of a document: `meta["media"]`, a list of {kind, uri, sha256, width, height, caption}, in the order of the text.

Their places in the text are Markdown marks, `![caption](uri)`. WanJuan's `img_list` (https://github.com/opendatalab/WanJuan1.0)
says the same with other words: url for uri, and numbers as strings; both directions are here. What is not known is left out.

Two formats have lists in place of a text: OBELICS (arXiv 2306.16527) `texts` and `images` side by side, of which one is null at
each place, and MMC4 (arXiv 2304.06939) `text_list`, with `image_info` that names the text before which each picture stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MARK = re.compile(
    r"!\[([^\[\]\n]{0,1000})\]\(\s*<?([^\s()<>]{1,2000}(?:\([^\s()]{0,200}\)[^\s()<>]{0,2000})?)>?(?:\s+\"[^\"\n]{0,500}\")?\s*\)"
)
_NUMBERS = ("width", "height")


def with_media(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The same meta with WanJuan's `img_list`, where there is one, as `media`."""
    images = meta.get("img_list")
    if not isinstance(images, list):
        return dict(meta)
    rest = {key: value for key, value in meta.items() if key != "img_list"}
    media = [_medium(image) for image in images if isinstance(image, Mapping | str)]
    odd = [image for image in images if not isinstance(image, Mapping | str)]
    return {**rest, **({"media": media} if media else {}), **({"img_list": odd} if odd else {})}


LISTS = ("texts", "text_list")
"""Fields with a list of texts in place of a text."""


def interleaved(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The text of a record that has lists in place of one, with marks where its pictures are, and the other fields with `media`.

    None if there are no such lists.
    """
    texts = next((row[name] for name in LISTS if isinstance(row.get(name), list)), None)
    if texts is None:
        return None
    rest = {key: value for key, value in row.items() if key not in (*LISTS, "images", "image_info")}
    pieces: list[Any] = []
    for place, text in enumerate(texts):
        pieces += [*_pictures_at(row, place), *([text] if isinstance(text, str) and text.strip() else [])]
    pieces += [one for place in range(len(texts), len(_list(row, "images"))) for one in _pictures_at(row, place)]
    media = [piece for piece in pieces if not isinstance(piece, str)]
    marks = (piece if isinstance(piece, str) else f"![{piece.get('caption', '')}]({piece['uri']})" for piece in pieces)
    return "\n\n".join(marks), {**rest, **({"media": media} if media else {})}


def _pictures_at(row: Mapping[str, Any], place: int) -> list[dict[str, Any]]:
    """The pictures before the text at this place, or in its place."""
    images = _list(row, "images")
    own = images[place : place + 1] + [
        one for one in _list(row, "image_info") if isinstance(one, Mapping) and one.get("matched_text_index") == place
    ]
    return [medium for one in own if isinstance(one, Mapping | str) if (medium := _medium(one)).get("uri")]


def _list(row: Mapping[str, Any], name: str) -> list[Any]:
    found = row.get(name)
    return found if isinstance(found, list) else []


def _medium(image: Mapping[str, Any] | str) -> dict[str, Any]:
    if isinstance(image, str):
        return {"kind": "image", "uri": image}
    own = {"uri" if key in ("url", "raw_url") else key: value for key, value in image.items() if value not in (None, "")}
    for name in _NUMBERS:
        if isinstance(number := own.get(name), str) and number.isascii() and number.isdigit():
            own[name] = int(number[:9])
    return {"kind": "image", **own}


def img_list(meta: Mapping[str, Any]) -> list[dict[str, str]]:
    """WanJuan's list of images: every field a string, empty where nothing is known."""
    media = meta.get("media")
    images = [one for one in media if isinstance(one, Mapping) and one.get("kind", "image") == "image"] if media else []
    return [
        {_wanjuan(name): str(one.get(name) or "") for name in ("uri", "sha256", "caption", "width", "height")} for one in images
    ]


def _wanjuan(name: str) -> str:
    return "url" if name == "uri" else name


def marked(text: str) -> list[dict[str, Any]]:
    """The pictures that Markdown marks in a text name, in order, each once."""
    found: dict[str, dict[str, Any]] = {}
    for caption, uri in MARK.findall(text) if "![" in text else ():
        found.setdefault(uri, {"kind": "image", "uri": uri, **({"caption": caption.strip()} if caption.strip() else {})})
    return list(found.values())
