"""Attempts to get out of the sandbox: to files, the network, more rights, secrets. Every one has to fail as expected.

Where it does no harm the same probe runs outside as a control, so that one which could never succeed is noticed.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from lianlu.sandbox import seccomp

pytestmark = pytest.mark.e2e
IS_ROOT = os.geteuid() == 0

# Files


def test_files_outside_are_not_there(box: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(box.secret)
    paths = ["/etc/passwd", "/etc/hostname", str(tmp_path / "secret.txt"), __file__]
    probe = f"for path in {paths}: attempt(lambda: open(path).read())"
    assert box.outside(probe).count("GOT") == len(paths)
    box.denied(probe, "FileNotFoundError")


@pytest.mark.skipif(not IS_ROOT, reason="only root can read it outside")
def test_shadow(box: Any) -> None:
    probe = "attempt(lambda: open('/etc/shadow').read())"
    assert box.outside(probe).startswith("GOT")
    box.denied(probe, "FileNotFoundError")


def test_homes_are_empty(box: Any) -> None:
    home = str(Path.home())
    assert box.outside(f"import os; print(*os.listdir({home!r}))").split()
    probe = f"""
        import os
        for root, folders, files in os.walk({home!r}):
            for name in files:
                print(root + "/" + name)
    """
    python = str(Path(sys.base_prefix).resolve())
    assert all(line.startswith(python) for line in box.run(probe).stdout.splitlines())


def test_only_the_work_folder_can_be_written(box: Any, tmp_path: Path) -> None:
    probe = "attempt(lambda: open('file', 'w').write('x'))"
    assert box.outside(probe, tmp_path).startswith("GOT")
    assert box.run(probe).stdout.startswith("GOT")
    places = ["/", "/usr", "/usr/bin", "/usr/lib", "/dev", "/proc", "/etc", "/var", "/home", "/root", str(tmp_path), "/run"]
    everywhere = f"""
        import os, sys
        for place in [sys.prefix, *{places}]:
            attempt(lambda: open(place + "/new-file", "w").write("x"))
            attempt(lambda: os.makedirs(place + "/new-folder"))
    """
    box.denied(everywhere.replace(repr(str(tmp_path)), "'/nowhere'"), "OSError", "FileNotFoundError", "PermissionError")
    box.run(everywhere)
    assert os.listdir(tmp_path) == ["file"]


def test_existing_files_cannot_be_changed(box: Any) -> None:
    probe = """
        import json, os
        attempt(lambda: open(json.__file__, "a"))
        attempt(lambda: os.remove(json.__file__))
        attempt(lambda: os.chmod("/usr/bin/env", 0o777))
        attempt(lambda: os.rename("/usr/bin/env", "/tmp/env"))
    """
    box.denied(probe, "OSError", "PermissionError")


def test_links_and_detours_lead_nowhere(box: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text(box.secret)
    target = str(tmp_path / "secret.txt")
    link = f"""
        import os
        os.symlink({target!r}, "link")
        attempt(lambda: open("link").read())
    """
    assert box.secret in box.outside(link, tmp_path)
    box.denied(link, "FileNotFoundError")
    detours = [f"/tmp/..{target}", f"/proc/self/root{target}", f"/proc/1/root{target}", f"/proc/self/cwd/..{target}"]
    probe = f"""
        import os
        for path in {detours}:
            attempt(lambda: open(path).read())
        attempt(lambda: os.link({target!r}, "hard"))
        attempt(lambda: os.chroot(".."))
    """
    box.denied(probe, "FileNotFoundError", "PermissionError")


def test_devices(box: Any) -> None:
    listing = "import os; print(sorted(os.listdir('/dev')))"
    assert box.run(listing).stdout.strip() == "['full', 'null', 'random', 'shm', 'urandom', 'zero']"
    paths = ["/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/tty", "/dev/ptmx", "/dev/vda", "/dev/sda", "/proc/kcore"]
    probe = f"""
        import os, stat
        for path in {paths}:
            attempt(lambda: open(path, "rb").read(1))
        attempt(lambda: os.mknod("mem", 0o666 | stat.S_IFCHR, os.makedev(1, 1)))
    """
    box.denied(probe, "FileNotFoundError", "PermissionError")


def test_kernel_settings(box: Any) -> None:
    paths = ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/sys/kernel/x"]
    box.denied(f"for path in {paths}: attempt(lambda: open(path, 'w'))", "OSError", "PermissionError", "FileNotFoundError")


# Network


def test_no_way_to_a_listener(box: Any, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as named,
    ):
        hidden, path = f"\0lianlu-{os.getpid()}", str(tmp_path / "s")
        for server, address in ((abstract, hidden), (named, path)):
            server.bind(address)
            server.listen()
        probe = f"""
            import socket
            attempt(lambda: socket.create_connection(("127.0.0.1", {tcp.getsockname()[1]}), 3))
            attempt(lambda: socket.socket(socket.AF_UNIX).connect({hidden!r}))
            attempt(lambda: socket.socket(socket.AF_UNIX).connect({path!r}))
        """
        assert box.outside(probe).count("GOT") == 3
        box.denied(probe, "OSError", "ConnectionRefusedError", "FileNotFoundError")


def test_no_network(box: Any) -> None:
    probe = """
        import socket
        for family in ("INET", "INET6", "NETLINK", "PACKET", "ALG", "VSOCK"):
            attempt(lambda: socket.socket(getattr(socket, "AF_" + family), socket.SOCK_DGRAM))
    """
    assert box.outside(probe).startswith("GOT")
    box.denied(probe, "OSError")
    box.denied("import socket; attempt(lambda: socket.getaddrinfo('example.org', 80))", "gaierror")
    interfaces = "print([line.split(':')[0].strip() for line in open('/proc/net/dev').readlines()[2:]])"
    assert box.run(interfaces).stdout.strip() == "['lo']"


# Rights


def test_no_rights_and_no_way_to_get_them(box: Any) -> None:
    assert "'0'" not in box.run("import os; print([str(i) for i in (*os.getresuid(), *os.getresgid(), *os.getgroups())])").stdout
    box.denied("import os\nfor become in (os.setuid, os.setgid): attempt(lambda: become(0))", "PermissionError", "OSError")
    status = (
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith(('NoNewPrivs', 'Seccomp:', 'CapEff'))))"
    )
    assert box.run(status).stdout.split() == ["0" * 16, "1", "2"]
    assert box.outside(status).split()[1:] == ["0", "0"]


def test_setuid_programs_have_no_effect(box: Any) -> None:
    probe = """
        import os
        print(*(bool(os.statvfs(path).f_flag & os.ST_NOSUID) for path in ("/usr", "/usr/bin/su", "/tmp", "/dev/shm")))
    """
    assert box.run(probe).stdout.split() == ["True"] * 4
    assert box.outside(probe).startswith("False")
    become = "import subprocess; print(subprocess.run(['/usr/bin/su', '-c', 'id'], capture_output=True, text=True, input=''))"
    answer = box.run(become).stdout
    assert "returncode=" in answer
    assert "returncode=0" not in answer
    assert "uid=" not in answer


def test_no_new_namespaces(box: Any) -> None:
    number = seccomp.CLONE[platform.machine() == "aarch64"]
    probe = f"""
        import subprocess
        for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):
            attempt(lambda: call("unshare", flag))
        attempt(lambda: call("syscall", {number}, 0x10000000 | 17, 0, 0, 0, 0))
        attempt(lambda: subprocess.run(["/usr/bin/unshare", "--user", "true"], check=True, stderr=-3))
    """
    assert box.outside('attempt(lambda: call("unshare", 0x10000000))').startswith("GOT")
    box.denied(probe, "PermissionError", "CalledProcessError")


def test_mount(box: Any) -> None:
    probe = """
        attempt(lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None))
        attempt(lambda: call("umount2", b"/tmp", 2))
    """
    box.denied(probe, "PermissionError")
    if IS_ROOT:
        assert box.outside(probe, before=("unshare", "--mount")).count("GOT") == 2


def test_forbidden_system_calls(box: Any) -> None:
    """With nonsense for arguments, which only the filter refuses with "not permitted"."""
    column = platform.machine() == "aarch64"

    def probe(names: list[str]) -> str:
        numbers = [seccomp.FORBIDDEN[name][column] for name in names]
        return f"for number in {numbers}: attempt(lambda: call('syscall', number, -1, -1, -1, -1, -1))"

    assert box.denied(probe(list(seccomp.FORBIDDEN)), "PermissionError") == len(seccomp.FORBIDDEN)
    control = box.outside(probe(["kcmp", "keyctl", "memfd_create", "process_vm_readv", "fsopen"]))
    assert control.count("\n") == 5
    assert "PermissionError" not in control


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86_64 has other ways into the kernel")
def test_other_ways_into_the_kernel(box: Any) -> None:
    x32 = "import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 39); print('GOT past')"
    assert box.outside(x32).startswith("GOT")
    assert box.run(x32).exit_code == -signal.SIGSYS
    # mov eax, 20; int 0x80; ret: the 32-bit getpid.
    legacy = """
        import ctypes, mmap
        page = mmap.mmap(-1, 4096, prot=7)
        page.write(b"\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3")
        print("GOT", ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
    """
    assert box.run(legacy).exit_code in (-signal.SIGSYS, -signal.SIGSEGV)


def test_tracing(box: Any) -> None:
    me = "attempt(lambda: call('ptrace', 0, 0, 0, 0))\n"
    assert box.outside(me).startswith("GOT")
    box.denied(me + "attempt(lambda: call('ptrace', 16, 1, 0, 0))", "PermissionError")
    box.denied("attempt(lambda: open('/proc/1/mem', 'r+b').read(1))", "PermissionError", "OSError")


def test_limits_cannot_be_raised(box: Any) -> None:
    probe = """
        import resource
        for name in ("AS", "CPU", "FSIZE", "NOFILE", "NPROC", "CORE"):
            attempt(lambda: resource.setrlimit(getattr(resource, "RLIMIT_" + name), (resource.RLIM_INFINITY,) * 2))
    """
    box.denied(probe, "ValueError", "PermissionError")


# Secrets


def test_environment_holds_no_secret(box: Any) -> None:
    probe = f"""
        import glob, os
        text = repr(os.environ).encode()
        for path in glob.glob("/proc/[0-9]*/environ"):
            try:
                text += open(path, "rb").read()
            except OSError:
                pass
        print({box.secret!r}.encode() in text, len(text) > 50)
    """
    assert box.outside(probe).split() == ["True", "True"]
    assert box.run(probe).stdout.split() == ["False", "True"]


def test_only_the_three_standard_descriptors(box: Any) -> None:
    probe = """
        import os
        for descriptor in range(300):
            try:
                print(descriptor, os.readlink(f"/proc/self/fd/{descriptor}").split(":")[0])
            except OSError:
                pass
    """
    assert box.run(probe).stdout.split() == ["0", "/dev/null", "1", "pipe", "2", "pipe"]
