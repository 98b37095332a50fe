"""Licences of texts and of files by their heads."""

from __future__ import annotations

import email
import re
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.licences.expressions import kind_of
from lianlu.data.licences.folders import is_licence_file
from lianlu.data.licences.texts import licence_in, licence_of_file, licence_of_link

MIT = """Copyright (c) 2020 Someone

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the "Software"), to deal in the Software without restriction. The above copyright notice and this permission notice
shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND."""
GPL = """This program is free software; you can redistribute it and/or modify it under the terms of the GNU General Public
License as published by the Free Software Foundation; either version {} of the License, or (at your option) any later version."""
BSD = """Redistributions of source code must retain the above copyright notice, this list of conditions and the following
disclaimer. Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the
following disclaimer in the documentation."""


def commented(text: str, mark: str) -> str:
    return "".join(f"{mark} {line}\n" for line in text.split("\n"))


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception\nint x;", "Apache-2.0 WITH LLVM-exception"),
        ("# SPDX-License-Identifier: (MIT OR GPL-2.0-only)\n", "(MIT OR GPL-2.0-only)"),
        ("/* SPDX-License-Identifier: MIT */", "MIT"),
        (commented(MIT, "#"), "MIT"),
        (commented(MIT, " *").replace("any person", "any human being"), "MIT"),
        (MIT + "\n\n" + BSD, "MIT AND BSD-2-Clause"),
        (BSD, "BSD-2-Clause"),
        (BSD + " may be used to endorse or promote products derived from this software without specific prior written permission",
         "BSD-3-Clause"),
        (commented(GPL.format(2), "//"), "GPL-2.0"),
        (commented(GPL.format(3), "//"), "GPL-3.0"),
        (GPL.format(3).replace("GNU General", "GNU Lesser General"), "LGPL-3.0"),
        (GPL.format(3).replace("GNU General", "GNU Affero General"), "AGPL-3.0"),
        ('# Licensed under the Apache License, Version 2.0 (the "License");', "Apache-2.0"),
        ("This Source Code Form is subject to the terms of the Mozilla Public License, v. 2.0.", "MPL-2.0"),
        ("def license(): return 'the license of this software is not told'", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_texts(text: str, licence: str) -> None:
    assert licence_in(text) == licence


@pytest.mark.parametrize(
    ("own", "given", "licence"),
    [
        ("", "MIT", "MIT"), ("0BSD", "", "0BSD"), ("GPL-3.0-only", "MIT", "GPL-3.0-only"), ("MIT", "GPL-3.0", "GPL-3.0"),
        ("Apache-2.0", "MIT", "MIT"), ("MIT", "NOASSERTION", "MIT"), ("", "NOASSERTION", "NOASSERTION"), ("", "", ""),
        ("", "[]", ""), ("LicenseRef-mine", "MIT", "LicenseRef-mine"),
    ],
)  # fmt: skip
def test_a_file_never_asks_for_less_than_its_head_says(own: str, given: str, licence: str) -> None:
    assert licence_of_file(f"# SPDX-License-Identifier: {own}\nx = 1\n" if own else "x = 1\n", given) == licence


@given(st.text(max_size=300), st.text(alphabet="() ANDORWITHMIT+-./", max_size=40))
def test_any_text_is_read(text: str, expression: str) -> None:
    assert licence_in(text) == ""
    assert licence_in(MIT + text + expression).startswith("MIT")


def test_installed_packages_say_the_same_in_words_and_in_their_metadata() -> None:
    agreed, differing = 0, []
    for meta in sorted(Path(sysconfig.get_path("purelib")).glob("*.dist-info/METADATA")):
        stated = email.message_from_string(meta.read_text("utf-8"))["License-Expression"]
        texts = [
            path.read_text("utf-8", "replace")
            for path in sorted(meta.parent.rglob("*"))
            if path.is_file() and is_licence_file(path.name)
        ]
        if stated and texts and kind_of(stated) != "unknown":
            wanted = set(re.split(r" (?:AND|OR) ", re.sub(r"[()]|-only|-or-later", "", stated)))
            found = {name for text in texts for name in licence_in(text).split(" AND ")}
            agreed += wanted <= found
            differing += [(meta.parent.name, stated, found)] if not wanted <= found else []
    if agreed + len(differing) < 20:
        pytest.skip("few packages here state a licence expression")
    assert len(differing) <= 0.1 * agreed, differing


def test_a_licence_is_not_taken_for_the_one_that_it_names() -> None:
    title = "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n"
    end = "consider whether to use the GNU Lesser General Public License instead of this License."
    assert licence_in(title + end) == "GPL-3.0"
    exception = "distribute this file as part of a program that contains a configuration script generated by Autoconf, you may"
    assert licence_in(commented(GPL.format(2), "#")) == "GPL-2.0"
    assert licence_in(commented(GPL.format(2) + f" As a special exception, if you {exception}", "#")) == ""


def test_addresses_of_creative_commons_name_a_licence() -> None:
    assert licence_of_link("https://creativecommons.org/licenses/by-nc-sa/4.0/deed.zh") == "CC-BY-NC-SA-4.0"
    assert licence_of_link("http://creativecommons.org/publicdomain/zero/1.0/") == "CC0-1.0"
    assert licence_of_link("https://example.org/license") == ""
