"""A `timmx` for the PATH: each command is a fork of a process that has imported torch and timm.

For the commands of a page of the documentation, which are many. What a command is given, its
descriptors, folder and environment, goes through a socket; run as a script, this file is the side
that answers.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import warm_timmx

from timmx_core.process.interrupts import die_with_parent

_CLIENT = """\
#!{python} -IS
import json, os, socket, sys
# The command finds on its PATH what it would find without this one.
os.environ["PATH"] = os.environ["PATH"].replace({folder!r} + os.pathsep, "")
asked = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "variables": dict(os.environ)}}
data = json.dumps(asked).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(data).to_bytes(8)], [0, 1, 2])
    server.sendall(data)
    code = server.recv(1)
sys.exit(code[0] if code else 1)
"""


@functools.cache
def folder_of_command() -> Path:
    """The folder that holds such a `timmx`, of this process's environment."""
    folder = Path(tempfile.mkdtemp(prefix="timmx-warm-"))
    address = str(folder / "socket")
    process = subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE)

    def end() -> None:
        process.kill()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    assert process.stdout is not None
    process.stdout.readline()  # it listens
    command = folder / "timmx"
    text = _CLIENT.format(python=sys.executable, folder=str(folder), address=address)
    command.write_text(text, encoding="utf-8")
    command.chmod(0o755)
    return folder


def serve(address: str) -> None:
    """Answer until the process that started this one ends."""
    die_with_parent("SIGKILL")
    warm_timmx.import_what_exports_need()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # commands that ended leave nothing to wait for
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("listening", flush=True)
        while True:
            client, _ = server.accept()
            with client:
                if os.fork() == 0:
                    server.close()
                    _answer(client)


def _answer(client: socket.socket) -> None:
    """In a forked process: run the command in another, and tell its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, descriptors, _, _ = socket.recv_fds(client, 8, 3)
    with client.makefile("rb") as stream:
        asked = json.loads(stream.read(int.from_bytes(length)))
    pid = os.fork()
    if pid == 0:
        client.close()
        warm_timmx.become(asked["arguments"], asked["folder"], asked["variables"], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    client.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
