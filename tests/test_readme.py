"""The README tells the truth: its tree is the disk's, its figures are the records', its commands exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests import figures

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def tree_paths() -> list[str]:
    """Paths in the README's tree: two spaces a level, a folder ends in a slash, what follows two spaces is a remark."""
    block = re.search(r"```text\ndeltalab/\n(.*?)```", TEXT, re.S)
    assert block is not None
    stack: list[str] = []
    paths = []
    for line in block.group(1).splitlines():
        found = re.match(r"( *)(\S+)", line)
        if found is None:
            continue
        level = len(found.group(1)) // 2
        name = found.group(2)
        stack[level:] = [name.rstrip("/")]
        paths.append("/".join(stack) + ("/" if name.endswith("/") else ""))
    return paths


def tracked() -> set[str]:
    """Files that belong to the project, as git lists them (new ones included)."""
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    if out.returncode != 0:
        pytest.skip("not a git checkout")
    return {p for p in out.stdout.splitlines() if (ROOT / p).exists()}


def test_everything_in_the_tree_is_on_the_disk() -> None:
    missing = [p for p in tree_paths() if not (ROOT / p).exists() or p.endswith("/") != (ROOT / p).is_dir()]
    assert missing == []


def test_everything_on_the_disk_is_in_the_tree() -> None:
    """Every top-level entry and every module of the four layers is named, or stands in a folder whose line ends it."""
    listed = set(tree_paths())
    folders_with_children = {p.rsplit("/", 1)[0] + "/" for p in (q.rstrip("/") for q in listed) if "/" in p}
    closed = {p for p in listed if p.endswith("/") and p not in folders_with_children}
    unnamed = []
    for path in sorted(tracked()):
        parts = path.split("/")
        parents = {"/".join(parts[:i]) + "/" for i in range(1, len(parts))}
        if path in listed or parents & closed or path.endswith("__init__.py"):
            continue
        unnamed.append(path)
    assert unnamed == []


def test_the_measured_figures_are_those_of_the_records() -> None:
    assert figures.section() in TEXT, "run: python -m tests.figures --write"


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"`make ([a-z]+)`", TEXT)) <= targets


def test_every_picture_and_link_into_the_repository_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_make_test_has_the_parts_that_its_collection_knows() -> None:
    """Which hold every test once: what wants to be alone; of the rest what needs a browser; and what does not."""
    from tests import conftest

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r'-m "([a-z ]+)"', makefile) == [conftest.SIDE_BY_SIDE, conftest.BROWSER, conftest.ALONE]
