"""`deltalab lessons`: what it says, and the exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

from app import command, index
from core import cli
from core.cli import serve
from core.notebook import permission
from tests.app.test_index import write

LESSONS = Path(__file__).parents[1] / "browser" / "lessons"


@pytest.fixture
def lessons(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(index, "ROOT", LESSONS)
    return LESSONS


def run(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = command.main(["lessons", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_list(lessons: Path, capsys: Any) -> None:
    code, out, _ = run(capsys, "list", "--json")
    assert code == 0
    (row,) = json.loads(out)["lessons"]
    assert (row["slug"], row["number"], row["address"]) == ("00_code", 0, "/code")
    assert row["cells"] == {"code": 1, "exercise": 1}
    code, out, _ = run(capsys, "list")
    assert out.startswith("00_code ")


def test_export_writes_valid_notebooks(lessons: Path, capsys: Any, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "export", "00_code", "--to", str(tmp_path / "out"), "--json")
    assert code == 0
    (path,) = json.loads(out)["notebooks"]
    nbformat.validate(nbformat.read(path, as_version=4))
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "export", "--to", str(tmp_path / "file"))
    assert code == 2
    assert "Name another folder with --to." in err


def test_check_names_file_and_line(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "Some {calc}`no_such_function(a=1)` here.\n")
    monkeypatch.setattr(index, "ROOT", path.parents[1])
    code, out, _ = run(capsys, "check", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["lessons"] == 1
    assert {"lesson", "line", "sentence"} == set(found["mistakes"][0])
    assert any("no_such_function" in m["sentence"] for m in found["mistakes"])
    code, _, err = run(capsys, "check")
    assert code == 1
    assert f"{path.parent.name}/lesson.md:" in err


@pytest.mark.parametrize("arguments", [("check", "99_nothing"), ("export", "99_nothing"), ("record", "99_nothing")])
def test_a_lesson_that_is_not_there_is_bad_input(lessons: Path, capsys: Any, arguments: tuple[str, ...]) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "There is no lesson '99_nothing'. There are: 00_code." in err


def test_the_engine_alone_has_no_lessons(capsys: Any) -> None:
    assert cli.main(["lessons", "list"]) == 2
    assert command.main([]) == 0
    assert "lessons" in capsys.readouterr().out


def test_an_operator_is_told_what_code_may_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.notebook import sandbox

    off = permission.permission(reachable=True, environment={})
    assert "--code on turns them on" in serve._code_words(off)
    on = permission.permission(reachable=True, environment={"DELTALAB_CODE": "on"})
    monkeypatch.setattr(sandbox, "sandbox", lambda: sandbox.Sandbox(False, "bubblewrap (bwrap) is not installed"))
    assert "can run code here, with the rights of this account: bubblewrap" in serve._code_words(on)
    monkeypatch.setattr(sandbox, "sandbox", lambda: sandbox.Sandbox(True))
    assert "in a sandbox" in serve._code_words(on)


def test_check_finds_lessons_that_are_in_each_others_way(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "ROOT", tmp_path)
    for name in ("03_rank", "03_other", "04_rank", "05_search"):
        shutil.copytree(LESSONS / "00_code", tmp_path / name)
    code, _, err = run(capsys, "check")
    assert code == 1
    assert [line for line in err.splitlines() if "already" in line] == [
        "03_rank/lesson.md:1: 03_other has the number 3 already.",
        "04_rank/lesson.md:1: 03_rank has the address 'rank' already.",
        "05_search/lesson.md:1: There is a page at /search already; call it otherwise.",
    ]
    _, mistakes = index.scan(tmp_path)
    assert len(mistakes) == 3


def test_check_reads_a_lesson_wherever_it_lies(lessons: Path, capsys: Any, tmp_path: Path) -> None:
    path = write(tmp_path, "Some {calc}`no_such_function(a=1)` here.\n")
    for given in (path, path.parent):
        code, _, err = run(capsys, "check", str(given))
        assert code == 1
        assert "There is no calc function 'no_such_function'" in err
    code, _, err = run(capsys, "check", str(tmp_path))
    assert code == 2
    assert "There is no lesson" in err


def test_no_lessons_at_all_is_a_mistake(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "ROOT", tmp_path / "nowhere")
    code, out, err = run(capsys, "check")
    assert (code, out) == (2, "")
    assert "There is no lesson in" in err
