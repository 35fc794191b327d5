"""The runner of fenced commands itself: what it accepts, and what it must not let pass."""

from __future__ import annotations

from pathlib import Path

import docrun
import pytest

PAGE = docrun.ROOT / "page.md"


def fence(body: str, language: str = "console") -> docrun.Fence:
    return docrun.Fence(PAGE, 1, language, body, not_run=False)


def page(folder: Path, text: str) -> list[docrun.Fence]:
    path = folder / "page.md"
    path.write_text(text)
    return docrun.read_fences(path)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("hello", "hello\n"),
        ("took 1.2 s", "took 33 s\n"),
        ("a  1 b", "a 2      b\n"),
        ("a ... c", "a b c\n"),
        ("a\n...\nz", "a\nb\nc\nz\n"),
        ("a\n...", "a\n"),
        ("44.7 MB", "9 MB"),
    ],
)
def test_loose_comparison_accepts(shown: str, printed: str) -> None:
    assert docrun.matches(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("hello", "hullo"),
        ("verified", "verified\nfailed"),
        ("a\nb", "a"),
        ("resnet18", "resnet50"),
        ("a ... c", "a\nc"),
        ("took 1 s", "took s"),
    ],
)
def test_loose_comparison_refuses(shown: str, printed: str) -> None:
    assert not docrun.matches(shown, printed)


def test_commands_share_a_shell_and_a_folder(tmp_path: Path) -> None:
    body = "$ A=b\n$ echo $A > file\n$ cat \\\n    file\nb\n"
    docrun.run_console(fence(body), tmp_path)


def test_exit_codes_are_exact(tmp_path: Path) -> None:
    docrun.run_console(fence("$ (exit 5)\n$ echo $?\n5\n"), tmp_path)
    with pytest.raises(docrun.PageError, match="shown"):
        docrun.run_console(fence("$ (exit 6)\n$ echo $?\n5\n"), tmp_path)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("$ false\n", "exit code 1"),
        ("$ exit 3\n", "ended early"),
        ("$ echo a\nb\n", "printed"),
        ("echo a\n", "starts with"),
    ],
)
def test_failures_are_seen(tmp_path: Path, body: str, why: str) -> None:
    with pytest.raises(docrun.PageError, match=why):
        docrun.run_console(fence(body), tmp_path)


def test_a_reason_right_before_leaves_a_fence_out(tmp_path: Path) -> None:
    text = "*Not run: needs a GPU.*\n\n```bash\nfalse\n```\n\n```bash\ntrue\n```\n"
    assert [f.not_run for f in page(tmp_path, text)] == [True, False]


@pytest.mark.parametrize(
    ("text", "why"), [("```\nls\n```\n", "a fence in"), ("```bash\nls\n", "not closed")]
)
def test_every_fence_says_what_it_is(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(docrun.PageError, match=why):
        page(tmp_path, text)


def test_rewriting_keeps_what_still_holds(tmp_path: Path) -> None:
    text = "a\n```console\n$ echo 1\n2\n$ echo b\nc\n$ pwd\n```\n\nz\n"
    (tmp_path / "page.md").write_text(text)
    docrun.rewrite(tmp_path / "page.md", tmp_path)
    changed = text.replace("c\n$", "b\n$").replace("pwd\n", "pwd\n/home/me\n")
    assert (tmp_path / "page.md").read_text() == changed
