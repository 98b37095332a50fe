"""Licences of texts, headers and repositories."""

from __future__ import annotations

import email
import re
import sysconfig
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.code.licences import in_text, is_licence_file, kind_of, of_file, of_files, terms

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
    assert in_text(text) == licence


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("MIT", "permissive"), ("apache-2.0", "permissive"), ("GPL-3.0-or-later", "copyleft"), ("LGPL-2.1+", "weak"),
        ("MIT OR GPL-2.0-only", "permissive"), ("MIT AND GPL-2.0-only", "copyleft"), ("(MIT OR GPL-2.0) AND MPL-2.0", "weak"),
        ("Apache-2.0 WITH LLVM-exception", "permissive"), ("MIT AND Proprietary", "unknown"), ("", "unknown"), ("((", "unknown"),
        ("MIT/Apache-2.0", "permissive"), ('["mit", "apache-2.0"]', "permissive"), ('["MIT", "GPL-3.0"]', "copyleft"),
        ("MIT License", "permissive"), ("The Apache License, Version 2.0", "permissive"), ("[]", "unknown"), ("[", "unknown"),
        ("Apache Software License", "permissive"), ("GNU", "unknown"), ("GPLv3", "copyleft"),
        ("Mozilla Public License 2.0", "unknown"), ("CC-BY-NC-4.0", "unknown"),
    ],
)  # fmt: skip
def test_what_a_licence_asks(expression: str, kind: str) -> None:
    assert kind_of(expression) == kind


@pytest.mark.parametrize(
    ("own", "given", "licence"),
    [
        ("", "MIT", "MIT"), ("0BSD", "", "0BSD"), ("GPL-3.0-only", "MIT", "GPL-3.0-only"), ("MIT", "GPL-3.0", "GPL-3.0"),
        ("Apache-2.0", "MIT", "MIT"), ("MIT", "NOASSERTION", "MIT"), ("", "NOASSERTION", "NOASSERTION"), ("", "", ""),
        ("", "[]", ""), ("LicenseRef-mine", "MIT", "LicenseRef-mine"),
    ],
)  # fmt: skip
def test_a_file_never_asks_for_less_than_its_head_says(own: str, given: str, licence: str) -> None:
    assert of_file(f"# SPDX-License-Identifier: {own}\nx = 1\n" if own else "x = 1\n", given) == licence


def test_every_licence_that_is_read_from_a_repository_is_known() -> None:
    names = tomllib.loads((files("lianlu.data.read") / "licenses.toml").read_text("utf-8"))
    unknown = {name for name in names if kind_of(name) == "unknown"}
    assert unknown == {name for name in names if "-NC" in name or "-ND" in name}
    assert [terms(name) for name in ("", "MIT", "MPL-2.0", "GPL-2.0", "NOASSERTION")] == [0, 0, 1, 2, 3]


def test_a_file_has_its_own_licence_or_that_of_the_nearest_folder() -> None:
    assert of_files({
        "LICENSE": MIT, "a.py": "x = 1", "lib/b.py": "# SPDX-License-Identifier: 0BSD\n", "lib/c.py": "",
        "gpl/COPYING": GPL.format(2), "gpl/deep/d.c": "int d;", "web/package.json": '{\n "license": "MPL-2.0"\n}',
        "web/e.js": "", "web/package-lock.json": '{"license": "ISC"}',
    }) == {
        "LICENSE": "MIT", "a.py": "MIT", "lib/b.py": "0BSD", "lib/c.py": "MIT", "gpl/COPYING": "GPL-2.0",
        "gpl/deep/d.c": "GPL-2.0", "web/package.json": "MPL-2.0", "web/e.js": "MPL-2.0", "web/package-lock.json": "MPL-2.0",
    }  # fmt: skip
    assert of_files({"LICENSE-MIT": MIT, "LICENSE-GPL": GPL.format(2), "a.py": ""})["a.py"] == "GPL-2.0 AND MIT"


@pytest.mark.parametrize("name", ["LICENSE", "licence.txt", "COPYING.LESSER", "x/UNLICENSE", "LICENSE-MIT", "foo.license"])
def test_names_of_licence_files(name: str) -> None:
    assert is_licence_file(name)
    assert not is_licence_file(f"{name}/license_check.py")


@given(st.text(max_size=300), st.text(alphabet="() ANDORWITHMIT+-./", max_size=40))
def test_any_text_and_expression_is_read(text: str, expression: str) -> None:
    assert in_text(text) == ""
    assert in_text(MIT + text + expression).startswith("MIT")
    assert kind_of(expression) in ("permissive", "weak", "copyleft", "unknown")


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
            found = {name for text in texts for name in in_text(text).split(" AND ")}
            agreed += wanted <= found
            differing += [(meta.parent.name, stated, found)] if not wanted <= found else []
    if agreed + len(differing) < 20:
        pytest.skip("few packages here state a licence expression")
    assert len(differing) <= 0.1 * agreed, differing
