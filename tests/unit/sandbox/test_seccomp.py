from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.sandbox import seccomp

HEADERS = {"x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), "aarch64": Path("/usr/include/asm-generic/unistd.h")}
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NEW_USER, NEW_NET, SIGCHLD, CLONE_VM = 0x10000000, 0x40000000, 17, 0x100


def verdict(program: bytes, arch: int, number: int, *arguments: int) -> str:
    """What the kernel would say: an interpreter for the instructions that filters use."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *(list(arguments) + [0] * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = place = 0
    while True:
        operation, if_true, if_false, k = code[place]
        place += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif operation == 0x06:
            return {0x7FFF0000: "allow", 0x80000000: "kill"}.get(k) or errno.errorcode[k - 0x50000]
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[operation]
            place += if_true if holds else if_false


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_forbidden_calls(machine: str) -> None:
    program, column = seccomp.program(machine), seccomp.MACHINES[machine][1]
    for name, numbers in seccomp.FORBIDDEN.items():
        assert verdict(program, ARCH[machine], numbers[column]) == "EPERM", name


def test_calls_that_depend_on_their_argument(machine: str) -> None:
    program, arch, column = seccomp.program(machine), ARCH[machine], seccomp.MACHINES[machine][1]
    clone, clone3, socket = seccomp.CLONE[column], seccomp.CLONE3[column], seccomp.SOCKET[column]
    assert verdict(program, arch, clone, SIGCHLD | CLONE_VM) == "allow"
    assert verdict(program, arch, clone, SIGCHLD | NEW_USER) == "EPERM"
    assert verdict(program, arch, clone, NEW_NET) == "EPERM"
    assert verdict(program, arch, clone3, 0) == "ENOSYS"
    assert [verdict(program, arch, socket, family) for family in (1, 2, 10, 16)] == ["allow", *["EAFNOSUPPORT"] * 3]


@given(number=st.integers(0, 1000), argument=st.integers(0, 2**64 - 1))
def test_everything_else_is_allowed(number: int, argument: int) -> None:
    for machine, (arch, column) in seccomp.MACHINES.items():
        special = {numbers[column] for numbers in seccomp.FORBIDDEN.values()}
        special |= {seccomp.CLONE[column], seccomp.CLONE3[column], seccomp.SOCKET[column]}
        assert (verdict(seccomp.program(machine), arch, number, argument) == "allow") == (number not in special) or number in (
            seccomp.CLONE[column],
            seccomp.SOCKET[column],
        )


def test_other_ways_in_are_killed() -> None:
    assert verdict(seccomp.program("x86_64"), 0x40000003, 20) == "kill"
    assert verdict(seccomp.program("x86_64"), ARCH["x86_64"], 0x40000000 | 39) == "kill"
    assert verdict(seccomp.program("aarch64"), ARCH["x86_64"], 39) == "kill"


def test_numbers_are_those_of_the_kernel(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"needs {header} (linux-libc-dev)")
    numbers = {name: int(value) for name, value in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())}
    column = seccomp.MACHINES[machine][1]
    table = {**seccomp.FORBIDDEN, "clone": seccomp.CLONE, "clone3": seccomp.CLONE3, "socket": seccomp.SOCKET}
    assert {name: pair[column] for name, pair in table.items()} == {name: numbers[name] for name in table}


def test_unknown_machines() -> None:
    assert not seccomp.supported("riscv64")
    assert seccomp.supported("x86_64")
