from __future__ import annotations

import pytest

from lianlu.data.read import licenses

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
    assert licenses.identify(TEXTS[name]) == name
    assert licenses.identify(TEXTS[name].replace(" ", "\n   ") if "SPDX" not in TEXTS[name] else TEXTS[name]) == name


def test_the_files_of_a_folder_make_one_expression() -> None:
    mit, apache = TEXTS["MIT"], TEXTS["Apache-2.0"]
    assert licenses.of_files({"LICENSE": mit}) == "MIT"
    assert licenses.of_files({"LICENSE-MIT": mit, "LICENSE-APACHE": apache}) == "Apache-2.0 OR MIT"
    assert licenses.of_files({"LICENSE": mit, "COPYING": apache}) == "Apache-2.0 AND MIT"
    assert licenses.of_files({"LICENSE": mit, "LEGAL": "Ask us."}) == "MIT"
    lesser = "GNU LESSER GENERAL PUBLIC LICENSE Version 3, 29 June 2007"
    assert licenses.of_files({"COPYING": TEXTS["GPL-3.0"], "COPYING.LESSER": lesser}) == "LGPL-3.0"
    assert licenses.of_files({"LICENSE": ""}) == "NOASSERTION"


def test_names_of_licence_files_and_of_others() -> None:
    names = ("LICENSE", "licence.txt", "LICENSE.md", "COPYING", "COPYING.LESSER", "LICENSE-MIT", "UNLICENSE", "LICENSE_1_0.txt")
    assert all(map(licenses.is_license_name, names))
    others = ("license.py", "licenses.toml", "relicense.sh", "copying_files.md5.c", "LICENSE.spdx", "README", "license_test.go")
    assert not any(map(licenses.is_license_name, others))


def test_addresses_of_creative_commons_name_a_licence() -> None:
    assert licenses.of_link("https://creativecommons.org/licenses/by-nc-sa/4.0/deed.zh") == "CC-BY-NC-SA-4.0"
    assert licenses.of_link("http://creativecommons.org/publicdomain/zero/1.0/") == "CC0-1.0"
    assert licenses.of_link("https://example.org/license") == ""
