"""Pictures of a document: `meta["media"]`, a list of {kind, uri, sha256, width, height, caption}, in the order of the text.

Their places in the text are Markdown marks, `![caption](uri)`. WanJuan's `img_list` (https://github.com/opendatalab/WanJuan1.0)
says the same with other words: url for uri, and numbers as strings; both directions are here. What is not known is left out.
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


def _medium(image: Mapping[str, Any] | str) -> dict[str, Any]:
    if isinstance(image, str):
        return {"kind": "image", "uri": image}
    own = {"uri" if key == "url" else key: value for key, value in image.items() if value not in (None, "")}
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
