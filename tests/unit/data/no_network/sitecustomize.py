"""No socket in this process or in any that it starts with this folder on PYTHONPATH; those of the kernel's own sort are left."""

import os
import socket
import traceback

_socket = socket.socket


class Blocked(_socket):
    """A socket that is not made, and a line in the file that says where it was asked for."""

    def __init__(self, family: int = -1, *rest: object, **more: object) -> None:
        if family == socket.AF_UNIX:  # pipes between processes of this machine
            super().__init__(family, *rest, **more)  # type: ignore[arg-type]
            return
        _tell("socket")
        raise OSError("there is no network")


def _refused(*_: object, **__: object) -> None:
    _tell("name")
    raise OSError("there is no network")


def _tell(what: str) -> None:
    with open(os.environ["NO_NETWORK_LOG"], "a", encoding="utf-8") as file:
        places = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[-3:-8:-1])
        file.write(f"{what} asked for by {places}\n")


socket.has_ipv6 = False  # urllib3 tries it out on this machine when it is imported
socket.socket = Blocked  # type: ignore[misc]
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = _refused  # type: ignore[assignment]
with open(os.environ["NO_NETWORK_LOG"], "a", encoding="utf-8") as log:
    log.write("process blocked\n")
