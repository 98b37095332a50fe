"""The Python that is checked in is that of the .proto files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lianlu.serve.grpc.v1 import engine_pb2, engine_pb2_grpc

FOLDER = Path(engine_pb2.__file__).parent
ROOT = FOLDER.parents[3]


def described(path: Path) -> str:
    """The line of a generated file that holds all that its .proto declares."""
    (line,) = (line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("DESCRIPTOR ="))
    return line


@pytest.mark.parametrize("name", ["engine", "health"])
def test_generated_code_agrees_with_the_proto(name: str, tmp_path: Path) -> None:
    from grpc_tools import protoc

    path = FOLDER / f"{name}.proto"
    assert protoc.main(["protoc", f"-I{ROOT}", f"--python_out={tmp_path}", str(path)]) == 0
    made = tmp_path / path.relative_to(ROOT).with_name(f"{name}_pb2.py")
    assert described(FOLDER / f"{name}_pb2.py") == described(made), "run scripts/grpc.sh"


def test_stubs_have_every_method() -> None:
    (service,) = engine_pb2.DESCRIPTOR.services_by_name.values()
    assert service.full_name == "lianlu.v1.Engine"
    for method in service.methods:
        assert hasattr(engine_pb2_grpc.EngineServicer, method.name)
