from __future__ import annotations

from pathlib import Path

from lianlu.data.docstrings import symbols
from lianlu.data.read import python_source
from lianlu.data.read.sources import METADATA, MODULE, Raw

SOURCE = '''"""Ships and what they carry."""

class Ship:
    """A thing that floats."""

    def __init__(self, name, /, *cargo, flag="none", **more):
        pass

    def sail(self, where, speed=3) -> None:
        """Go somewhere."""

    @staticmethod
    def count(fleet):
        """How many there are."""

    def _mend(self):
        """Private."""

async def load(ship, *, slowly=True):
    """Put things on a ship.

    More about it.
    """

def undocumented(): ...
'''


def test_symbols_are_read_from_the_syntax_tree() -> None:
    found = {symbol.full_name: symbol for symbol in symbols(SOURCE, "harbour")}
    assert list(found) == ["harbour", "harbour.Ship", "harbour.Ship.sail", "harbour.Ship.count", "harbour.load"]
    assert found["harbour.Ship"].signature == "Ship(name, /, *cargo, flag='none', **more)"
    assert found["harbour.Ship.sail"].signature == "Ship.sail(where, speed=3)"
    assert found["harbour.Ship.count"].parameters == ("fleet",)
    assert found["harbour.load"].parameters == ("ship", "slowly")
    assert found["harbour.load"].doc == "Put things on a ship.\n\nMore about it."
    assert symbols("def broken(:", "x") == []
    assert symbols("x" + "(" * 5000, "x") == []


def test_a_module_gives_its_source_and_its_docstrings() -> None:
    raw = Raw("harbour/__init__.py", MODULE, 1, "harbour/__init__.py", license="PSF-2.0")
    code, plain, ship = python_source.module_documents(raw, SOURCE)
    assert (code.id, code.domain, code.lang, code.text) == ("harbour/__init__.py", "code", "python", SOURCE)
    assert plain.id == "doc:harbour"
    assert plain.text.startswith("# harbour\n\nShips and what they carry.\n\n## harbour.load(ship, *, slowly=True)\n\nPut things")
    assert (ship.id, ship.domain, ship.license) == ("doc:harbour.Ship", "docs", "PSF-2.0")


def test_package_metadata_give_description_licence_and_home() -> None:
    raw = Raw("x-1", METADATA, 1, "x-1.dist-info/METADATA")
    text = (
        "Metadata-Version: 2.1\nName: x\nLicense: "
        + "long " * 40
        + "\nClassifier: License :: OSI Approved :: MIT License\nProject-URL: Home, https://x.org\n\n# X\n\nÜber x.\n"
    )
    document = python_source.package_document(raw, text)
    assert document.text == "# X\n\nÜber x.\n"
    assert (document.id, document.license, document.url, document.domain) == ("readme:x", "MIT License", "https://x.org", "docs")
    assert python_source.package_document(raw, "Name: y\n").text == ""


def test_the_listing_is_sorted_and_leaves_tests_and_tables_out() -> None:
    files = python_source.python_files()
    assert files == sorted(set(files))
    names = {path.relative_to(python_source.standard_library()).as_posix() for path in python_source.module_files()}
    assert {"textwrap.py", "json/decoder.py"} <= names
    assert not [
        name
        for name in names
        if name.startswith(("test/", "idlelib/", "site-packages/", "encodings/", "_sysconfigdata")) or "/tests/" in name
    ]
    listed = {Path(raw.file) for raw in python_source.list_python().raws}
    assert listed == set(files)
    assert python_source.module_name("json/__init__.py") == "json"
    assert python_source.module_name("json/decoder.py") == "json.decoder"
    assert not [path for path in python_source.metadata_files() if path.parent.name.startswith("lianlu-")]
