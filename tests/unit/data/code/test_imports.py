"""Which files need which, language by language, on small repositories and against grimp on real packages."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.code.graph import LANGUAGES, import_graph
from lianlu.data.code.imports import definitions, imports
from lianlu.data.code.lexer import pieces, statements
from lianlu.data.read.sources import language_of


def needs(files: dict[str, str]) -> dict[str, set[str]]:
    """What each file needs, early or late, without those that need nothing."""
    graph = import_graph(files, {path: language_of(path) for path in files})
    return {path: found for path in files if (found := graph.needs[path] | graph.late[path])}


def test_python() -> None:
    assert needs({
        "src/app/__init__.py": "from .core import run\nfrom .io import *\n",
        "src/app/core.py": "import os, app.io as files\nif True:\n    from . import late\n",
        "src/app/io.py": "def read(): pass\n",
        "src/app/late.py": "from app import \\\n    run\n",
        "src/app/sub/__init__.py": "",
        "src/app/sub/deep.py": '"""\nimport app.core\n"""\nfrom ..io import (read,  # import app.core\n  write)\n',
        "tests/test_app.py": "from app import read, run, VERSION\nfrom app.sub import deep\nimport json\n",
        "tests/json.py": "",
    }) == {
        "src/app/__init__.py": {"src/app/core.py", "src/app/io.py"},
        "src/app/core.py": {"src/app/io.py", "src/app/late.py"},
        "src/app/late.py": {"src/app/core.py"},
        "src/app/sub/deep.py": {"src/app/io.py"},
        "tests/test_app.py": {"src/app/core.py", "src/app/io.py", "src/app/__init__.py", "src/app/sub/deep.py", "tests/json.py"},
    }  # fmt: skip


def test_python_ignores_a_standard_module_named_like_a_file_of_another_folder() -> None:
    assert needs({"tools/queue.py": "", "main.py": "import queue\n", "pkg/__init__.py": "", "pkg/a.py": "import pkg.b\n"}) == {}


def test_a_batched_import_leads_to_the_files_that_define_what_is_used() -> None:
    files = {
        "net/__init__.py": "from .algorithms import *\nfrom .graph import Graph as G\n",
        "net/algorithms/__init__.py": "from .paths import *\nfrom .flows import flow\n",
        "net/algorithms/paths.py": "def shortest(): pass\n",
        "net/algorithms/flows.py": "def flow(): pass\n",
        "net/graph.py": "class Graph: pass\n",
        "one.py": "import net as n\nn.shortest(n.G())\n",
        "two.py": "from net import flow\n",
        "three.py": "from net import *\nshortest()\n",
        "four.py": "import net\n",
    }
    found = needs(files)
    assert found["one.py"] == {"net/algorithms/paths.py", "net/graph.py"}
    assert found["two.py"] == {"net/algorithms/flows.py"}
    assert found["three.py"] == {"net/algorithms/paths.py"}
    assert found["four.py"] == {"net/__init__.py"}


def test_javascript_and_typescript() -> None:
    assert needs({
        "packages/core/package.json": '{\n  "name": "@x/core",\n  "version": "1"\n}',
        "packages/core/src/index.ts": "export * from './a.js'\nexport { b as bee } from './b'\nexport default 1\n",
        "packages/core/src/a.ts": "export const one = 1\n",
        "packages/core/src/b.tsx": "// import './a'\nimport type { T } from './a'\nexport function b() {}\n",
        "packages/app/main.js": (
            "import { bee, one } from '@x/core'\nconst { readFile } = require('fs')\nconst u = require('./util')\n"
        ),
        "packages/app/util/index.js": "const lazy = () => import('../lazy')\nmodule.exports = { lazy }\n",
        "packages/app/lazy.mjs": "import def, * as all from '@x/core'\nall.one\n",
    }) == {
        "packages/core/src/index.ts": {"packages/core/src/a.ts", "packages/core/src/b.tsx"},
        "packages/core/src/b.tsx": {"packages/core/src/a.ts"},
        "packages/app/main.js": {"packages/core/src/a.ts", "packages/core/src/b.tsx", "packages/app/util/index.js"},
        "packages/app/util/index.js": {"packages/app/lazy.mjs"},
        "packages/app/lazy.mjs": {"packages/core/src/index.ts"},
    }  # fmt: skip


def test_java() -> None:
    base = "src/main/java/org/x"
    assert needs({
        f"{base}/A.java": (
            "package org.x;\nimport org.x.util.*;\nimport static org.x.B.Inner.go;\nimport java.util.List;\nclass A { Text t; }"
        ),
        f"{base}/B.java": "package org.x;\npublic class B { static class Inner {} }",
        f"{base}/C.java": "package org.x;\nclass C { B b; }",
        f"{base}/util/Text.java": "package org.x.util;\npublic class Text {}",
        f"{base}/util/Other.java": "package org.x.util;\npublic class Other {}",
    }) == {
        f"{base}/A.java": {f"{base}/B.java", f"{base}/util/Text.java"},
        f"{base}/C.java": {f"{base}/B.java"},
    }  # fmt: skip


def test_go() -> None:
    assert needs({
        "go.mod": "module example.com/app\n\ngo 1.22\n",
        "main.go": (
            'package main\n\nimport (\n\t"fmt"\n\tst "example.com/app/store"\n)\n\nfunc main() { st.Open(helper()) }\n'
        ),
        "helper.go": "package main\n\nfunc helper() int { return 1 }\n",
        "store/open.go": "package store\n\nfunc Open() {}\n",
        "store/other.go": "package store\n\nfunc Other() {}\n",
        "store/open_test.go": "package store\n\nfunc TestOpen() { Open() }\n",
    }) == {"main.go": {"helper.go", "store/open.go"}, "store/open_test.go": {"store/open.go"}}  # fmt: skip


def test_c_and_umbrella_headers() -> None:
    assert needs({
        "include/lib/all.h": "#pragma once\n/* everything */\n#include <lib/list.h>\n#include <lib/tree.h>\n",
        "include/lib/list.h": "typedef struct list { int n; } list;\nlist *list_new(void);\n",
        "include/lib/tree.h": "struct tree;\nvoid tree_walk(struct tree *t);\n",
        "src/main.c": '#include <stdio.h>\n#  include "lib/all.h"\n#include "own.h"\nint main(void) { list_new(); }\n',
        "src/own.h": "#define OWN 1\n",
        "compat/stdio.h": "int x;\n",
    }) == {
        "include/lib/all.h": {"include/lib/list.h", "include/lib/tree.h"},
        "src/main.c": {"include/lib/list.h", "src/own.h"},
    }  # fmt: skip


def test_rust() -> None:
    assert needs({
        "crates/a-b/src/lib.rs": "pub mod model;\nmod parse;\npub use model::Model;\n",
        "crates/a-b/src/model/mod.rs": "mod part;\nuse self::part::Part;\npub struct Model;\n",
        "crates/a-b/src/model/part.rs": "use super::super::parse::{self, Tree as T};\npub struct Part;\n",
        "crates/a-b/src/parse.rs": "use std::fmt;\n// use crate::x;\npub fn parse() { crate::model::go() }\npub struct Tree;\n",
        "crates/cli/src/main.rs": "use a_b::{parse::{parse, Tree}, Model};\nfn main() {}\n",
    }) == {
        "crates/a-b/src/lib.rs": {"crates/a-b/src/model/mod.rs", "crates/a-b/src/parse.rs"},
        "crates/a-b/src/model/mod.rs": {"crates/a-b/src/model/part.rs"},
        "crates/a-b/src/model/part.rs": {"crates/a-b/src/parse.rs"},
        "crates/a-b/src/parse.rs": {"crates/a-b/src/model/mod.rs"},
        "crates/cli/src/main.rs": {"crates/a-b/src/parse.rs", "crates/a-b/src/model/mod.rs"},
    }  # fmt: skip


def test_ruby_and_php() -> None:
    assert needs({
        "lib/gem.rb": "require 'json'\nrequire 'gem/core'\nrequire_relative 'gem/extra'\nautoload :Late, 'gem/late'\n",
        "lib/gem/core.rb": "# require 'gem/extra'\n",
        "lib/gem/extra.rb": "",
        "lib/gem/late.rb": "",
        "data/json.rb": "",
    }) == {"lib/gem.rb": {"lib/gem/core.rb", "lib/gem/extra.rb", "lib/gem/late.rb"}}  # fmt: skip
    assert needs({
        "index.php": "<?php\nrequire_once __DIR__ . '/src/boot.php';\nuse App\\Model\\{User, Team as T};\n",
        "src/boot.php": "<?php # include 'x.php'\n",
        "src/Model/User.php": "<?php\nnamespace App\\Model;\nclass User { public Team $team; }\n",
        "src/Model/Team.php": "<?php\nnamespace App\\Model;\nuse Psr\\Log\\Logger;\nclass Team {}\n",
    }) == {
        "index.php": {"src/boot.php", "src/Model/User.php", "src/Model/Team.php"},
        "src/Model/User.php": {"src/Model/Team.php"},
    }  # fmt: skip


def package_files(name: str) -> dict[str, str]:
    module = __import__(name)
    assert module.__file__ is not None
    folder = Path(module.__file__).parent
    return {path.relative_to(folder.parent).as_posix(): path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}


@pytest.mark.parametrize("name", ["rich", "pydantic", "starlette", "jinja2"])
def test_real_packages_agree_with_grimp(name: str) -> None:
    files = package_files(name)
    graph = import_graph(files, dict.fromkeys(files, "python"))
    path_of = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in files}
    theirs = grimp.build_graph(name, cache_dir=None)
    pairs = {
        (path_of[module], path_of[target])
        for module in theirs.modules & path_of.keys()
        for target in theirs.find_modules_directly_imported_by(module) & path_of.keys()
        if module != target
    }
    ours = {(path, target) for side in (graph.needs, graph.late) for path in side for target in side[path]}
    followed = {(path, target) for path, target in pairs if target.endswith("__init__.py")}
    assert pairs - followed <= ours
    assert graph.missing == []
    importers = {path for path, _ in followed}
    assert {path for path, _ in ours - pairs} <= importers  # what grimp does not have are names followed through a package


@given(st.text(alphabet="importfomxyz.*{}()\"'`#/\\\n ,;<>:=useqcrd_", max_size=120), st.sampled_from(sorted(LANGUAGES)))
def test_any_text_is_read_and_none_is_lost(text: str, lang: str) -> None:
    assert "".join(piece for _, piece in pieces(text, lang)) == text
    code = statements(text, lang)
    assert code.count("\n") == text.count("\n")
    imports(code, lang)
    names = {"python": "a.py", "javascript": "a.js", "typescript": "a.ts", "rust": "a.rs", "ruby": "a.rb", "cpp": "a.cpp"}
    path = names.get(lang, f"a.{lang}")
    assert import_graph({path: text, f"b/{path}": text}, {path: lang, f"b/{path}": lang}).needs.keys() == {path, f"b/{path}"}


HOSTILE = ["'\\", '"\\', "/*", '"""', "`", "import {", "{", "use a,", "import (", "a", "export a ", "(", 'r#"', "require ", " "]


@pytest.mark.parametrize("piece", HOSTILE)
def test_long_runs_of_one_mark_are_read_to_their_end(piece: str) -> None:
    """What would take a backtracking expression quadratic time, and this test minutes."""
    text = piece * 50_000
    for lang in sorted(LANGUAGES):
        assert sum(len(part) for _, part in pieces(text, lang)) == len(text)
        code = statements(text, lang)
        assert len(imports(code, lang)) < 10
        assert len(definitions(code, lang)) < 10
