"""Build the sdist of every package, and from it the wheel: `python scripts/build.py [FOLDER]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(folder: Path) -> None:
    for project in sorted(ROOT.glob("packages/*/pyproject.toml")):
        command = ["uv", "build", "--quiet", "--out-dir", str(folder.resolve())]
        subprocess.run([*command, str(project.parent)], check=True)
    for built in sorted(folder.glob("timmx_*")):
        print(built)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist"))
