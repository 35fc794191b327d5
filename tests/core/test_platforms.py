"""What only POSIX has is asked for before it is used: Windows has none of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parents[1] / "support"

# Libraries keep what they found when they were imported: they are made for this system.
LESS = """
import subprocess, sys, tempfile, types
import filelock, psutil, timm, torch, torch._dynamo, torch.export

LACKING = {
    "os": "fork forkpty geteuid getuid getegid getgid getpgid getpgrp getsid killpg setsid setpgid "
    "nice uname mkfifo statvfs fchmod fchown chown lchown sched_getaffinity sched_setaffinity "
    "getloadavg sysconf wait wait3 wait4 WNOHANG O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_NONBLOCK",
    "signal": "SIGKILL SIGHUP SIGQUIT SIGPIPE SIGALRM SIGUSR1 SIGUSR2 SIGCHLD SIGTSTP SIGSTOP "
    "SIGCONT alarm setitimer pthread_sigmask pthread_kill sigwait",
}
for name, lacking in LACKING.items():
    whole, less = sys.modules[name], types.ModuleType(name)
    vars(less).update({k: v for k, v in vars(whole).items() if k not in lacking.split()})
    sys.modules[name] = less
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
"""
EXPORT = """
import os, signal

assert not hasattr(os, "killpg") and not hasattr(signal, "SIGKILL")
sys.path.append(sys.argv[1])

import timmx_core
from pocket_format import PocketBackend
from timmx_core.process import interrupts
from timmx_core.verification import worker
from timmx_core.isolation import process as child
from timmx_core.testing.plugins import manager_of

worker.BOOT = LESS + worker.BOOT
manager = manager_of(PocketBackend())
made = timmx_core.export("pocket", "test_resnet", output="made.pocket", manager=manager)
assert made.verdict.status == "verified", made.verdict
made = timmx_core.export(
    "pocket", "test_resnet", output="made.pocket", manager=manager, overwrite=True
)
assert timmx_core.verify("made.pocket", manager=manager).status == "verified"

with worker.Worker(PocketBackend()) as unused:
    pass
assert unused._process.returncode
child.GRACE = 0.0
process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
child._end([process])
assert process.returncode
process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
interrupts.clean_up()
assert not psutil.pid_exists(process.pid)
"""


def test_a_verification_where_posix_is_not(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"LESS = {LESS!r}\n{LESS}\n{EXPORT}")
    done = subprocess.run(
        [sys.executable, program, SUPPORT],
        cwd=tmp_path,
        env=os.environ | {"TIMMX_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "AttributeError" not in done.stderr
