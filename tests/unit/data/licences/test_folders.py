"""The licence that the files of a folder tell together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.licences.folders import is_licence_file, licence_of_folder, tells_licence

TEXTS = {
    "MIT": "MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining\na copy "
    "software [...] The above copyright notice and this permission notice shall be included in all copies",
    "Apache-2.0": "                                 Apache License\n                           Version 2.0, January 2004\n",
    "GPL-3.0": "GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007\n ... GNU Affero General Public License",
    "AGPL-3.0": "GNU AFFERO GENERAL PUBLIC LICENSE\n   Version 3, 19 November 2007\n ... GNU General Public License",
    "BSD-3-Clause": "Redistribution and use in source and binary forms, with ... may be used to endorse or promote products",
    "BSD-2-Clause": "Redistribution and use in source and binary forms, with ... Redistributions in binary form must reproduce",
    "ISC": "Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee is "
    "hereby granted, provided that the above\ncopyright notice and this permission notice appear in all copies.",
    "0BSD": "Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee "
    "is hereby granted.",
    "CC-BY-SA-4.0": "Attribution-ShareAlike 4.0 International",
    "CC0-1.0": "CC0 1.0 Universal\n\nStatement of Purpose",
    "MulanPSL-2.0": "木兰宽松许可证, 第2版\n Mulan Permissive Software License，Version 2 (Mulan PSL v2)",
    "Apache-2.0 WITH LLVM-exception": "SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception\n",
    "NOASSERTION": "All rights reserved.",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_licence_is_told_by_its_words(name: str) -> None:
    assert licence_of_folder({"LICENSE": TEXTS[name]}) == name
    if "SPDX" not in name and "WITH" not in name:
        assert licence_of_folder({"LICENSE": TEXTS[name].replace(" ", "\n   ")}) == name


def test_the_files_of_a_folder_make_one_expression() -> None:
    mit, apache = TEXTS["MIT"], TEXTS["Apache-2.0"]
    assert licence_of_folder({"LICENSE": mit}) == "MIT"
    assert licence_of_folder({"LICENSE-MIT": mit, "LICENSE-APACHE": apache}) == "Apache-2.0 OR MIT"
    assert licence_of_folder({"LICENSE": mit, "COPYING": apache}) == "Apache-2.0 AND MIT"
    assert licence_of_folder({"LICENSE": mit, "LEGAL": "Ask us."}) == "MIT"
    lesser = "GNU LESSER GENERAL PUBLIC LICENSE Version 3, 29 June 2007"
    assert licence_of_folder({"COPYING": TEXTS["GPL-3.0"], "COPYING.LESSER": lesser}) == "LGPL-3.0"
    assert licence_of_folder({"LICENSE": ""}) == "NOASSERTION"


def test_files_that_explain_do_not_spoil_a_choice_and_other_files_offer_none() -> None:
    mit, apache, gpl = TEXTS["MIT"], TEXTS["Apache-2.0"], TEXTS["GPL-3.0"]
    both = {"LICENSE.APACHE": apache, "LICENSE.MIT": mit}
    assert licence_of_folder({**both, "LICENSE": "Either of the two holds, as you like."}) == "Apache-2.0 OR MIT"
    assert licence_of_folder({**both, "LICENSE.txt": gpl}) == "Apache-2.0 AND GPL-3.0 AND MIT"
    assert licence_of_folder({"LICENSE.txt": mit, "LICENSE.template.txt": gpl}) == "GPL-3.0 AND MIT"
    assert licence_of_folder({"LICENSE-BOOST": "Boost Software License - Version 1.0", **both}) == "Apache-2.0 OR BSL-1.0 OR MIT"
    assert licence_of_folder({"LICENSE-MIT": mit, "COPYING.GPLv3": gpl}) == "GPL-3.0 OR MIT"
    assert licence_of_folder({"LICENSE": f"{mit}\n\n{apache}"}) == "MIT AND Apache-2.0"


def test_lists_of_the_licences_of_others_count_last() -> None:
    others = {"LICENSE-THIRD-PARTY": TEXTS["GPL-3.0"]}
    assert licence_of_folder({**others, "LICENSE-MIT": TEXTS["MIT"]}) == "MIT"
    assert licence_of_folder({**others, "package.json": '{"license": "ISC"}'}) == "ISC"
    assert licence_of_folder({**others, "LICENSE": "Ask us."}) == "GPL-3.0"


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("package.json", '{"name": "a", "license": "MIT"}', "MIT"),
        ("package.json", '{"license": {"type": "ISC", "url": "https://example.org"}}', "ISC"),
        ("package.json", '{"licenses": [{"type": "MIT"}, {"type": "GPL-2.0"}]}', "MIT OR GPL-2.0"),
        ("package.json", '{"license": "SEE LICENSE IN LICENSE.txt"}', ""),
        ("package.json", '{"license": "UNLICENSED"}', "UNLICENSED"),
        ("composer.json", '{"license": ["LGPL-2.1-only", "GPL-3.0-or-later"]}', "LGPL-2.1-only OR GPL-3.0-or-later"),
        ("Cargo.toml", '[package]\nlicense = "MIT/Apache-2.0"\n', "MIT OR Apache-2.0"),
        ("Cargo.toml", '[workspace.package]\nlicense = "MPL-2.0"\n', "MPL-2.0"),
        ("Cargo.toml", "[package]\nlicense.workspace = true\n", ""),
        ("pyproject.toml", '[project]\nlicense = {text = "BSD-3-Clause"}\n', "BSD-3-Clause"),
        ("pyproject.toml", '[project]\nlicense = {file = "LICENSE"}\n', ""),
        ("pyproject.toml", f'[project]\nlicense = {{text = """{TEXTS["MIT"]}"""}}\n', "MIT"),
        ("pyproject.toml", '[tool.poetry]\nlicense = "GPL-3.0-only"\n', "GPL-3.0-only"),
        ("pyproject.toml", "[project", ""),
        ("package.json", "[" * 100_000, ""),
        ("COPYRIGHT", TEXTS["ISC"], "ISC"),
        ("COPYRIGHT", "Copyright 2020 Someone", ""),
    ],
)
def test_without_a_licence_file_manifests_and_copyrights_count(name: str, text: str, licence: str) -> None:
    assert tells_licence(name)
    assert not is_licence_file(name)
    assert licence_of_folder({name: text}) == licence
    assert licence_of_folder({name: text, "LICENSE": TEXTS["0BSD"]}) == "0BSD"
    assert licence_of_folder({name: text, "LICENSE": "Ask us."}) == (licence or "NOASSERTION")


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["license", "licenses", "type", "text", "package"]), inner
))  # fmt: skip


@given(JSON)
def test_any_manifest_is_read(table: Any) -> None:
    assert isinstance(licence_of_folder({"package.json": json.dumps(table)}), str)
    assert isinstance(licence_of_folder({"package.json": json.dumps({"license": table})}), str)


@pytest.mark.parametrize("name", ["LICENSE", "licence.txt", "COPYING.LESSER", "x/UNLICENSE", "LICENSE-MIT", "foo.license"])
def test_names_of_licence_files(name: str) -> None:
    assert is_licence_file(name)
    assert not is_licence_file(f"{name}/license_check.py")


def test_names_of_licence_files_and_of_others() -> None:
    names = ("LICENSE", "licence.txt", "LICENSE.md", "COPYING", "COPYING.LESSER", "LICENSE-MIT", "UNLICENSE", "LICENSE_1_0.txt")
    assert all(map(is_licence_file, (*names, "LICENSES.txt", "MIT-LICENSE", "bsd_license.txt")))
    others = ("license.py", "licenses.toml", "relicense.sh", "copying_files.md5.c", "LICENSE.spdx", "README", "license_test.go")
    assert not any(map(is_licence_file, (*others, "LICENSE.html", "how-to-license.md", "logo.png.license")))
    assert not any(map(tells_licence, (*others, "copyright.py", "package-lock.json", "README.md")))
