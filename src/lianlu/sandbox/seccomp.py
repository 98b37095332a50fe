"""The system calls that code in the sandbox cannot make, as a seccomp filter.

`sandbox.run` hands the bytes to bubblewrap (`--seccomp`). Namespaces already hide files, network and processes; the
filter closes what they leave open: nested user namespaces, tracing, kernel keys, memory that no limit counts (memfd,
System V), and interfaces with a history of kernel bugs. It is a deny-list: everything else is allowed.
Source: classic BPF as in linux/filter.h and linux/seccomp.h; numbers from the kernel's syscall tables.
Limits: x86_64 and aarch64; other machines get no sandbox.
"""

from __future__ import annotations

import errno
import platform
import struct

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_OFFSET, ARCH_OFFSET, FIRST_ARGUMENT_OFFSET = 0, 4, 16
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
X32_BIT = 0x40000000
AF_UNIX = 1
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
NEW_NAMESPACES = 0x7E020000

# Number on x86_64 and on aarch64.
FORBIDDEN = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
CLONE, CLONE3, SOCKET = (56, 220), (435, 435), (41, 198)
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def supported(machine: str | None = None) -> bool:
    """Whether there is a table for this machine's processor."""
    return (machine or platform.machine()) in MACHINES


def program(machine: str | None = None) -> bytes:
    """The filter for a processor, by default this machine's, as an array of struct sock_filter."""
    arch, column = MACHINES[machine or platform.machine()]
    code = [_op(LOAD, ARCH_OFFSET), _op(JUMP_EQUAL, arch, 1, 0), _op(RETURN, KILL), _op(LOAD, NUMBER_OFFSET)]
    if column == 0:
        code += [_op(JUMP_AT_LEAST, X32_BIT, 0, 1), _op(RETURN, KILL)]
    for numbers in FORBIDDEN.values():
        code += [_op(JUMP_EQUAL, numbers[column], 0, 1), _op(RETURN, FAIL | errno.EPERM)]
    # The flags of clone3 lie in memory, out of a filter's sight; C libraries fall back to clone when it is unknown.
    code += [_op(JUMP_EQUAL, CLONE3[column], 0, 1), _op(RETURN, FAIL | errno.ENOSYS)]
    code += _argument_rule(CLONE[column], _op(JUMP_ANY_BIT, NEW_NAMESPACES, 0, 1), errno.EPERM)
    code += _argument_rule(SOCKET[column], _op(JUMP_EQUAL, AF_UNIX, 1, 0), errno.EAFNOSUPPORT)
    return b"".join([*code, _op(RETURN, ALLOW)])


def _argument_rule(number: int, test: bytes, error: int) -> list[bytes]:
    """Fail the call `number` with `error` unless `test` on its first argument skips one instruction."""
    return [
        _op(JUMP_EQUAL, number, 0, 4),
        _op(LOAD, FIRST_ARGUMENT_OFFSET),
        test,
        _op(RETURN, FAIL | error),
        _op(RETURN, ALLOW),
    ]


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)
