"""`deltalab serve --teacher-key-file`: a key that cannot be one is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.cli.serve import _teacher_key
from core.errors import BadInput


def test_the_app_is_told_where_the_key_stands_and_not_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "key.txt"
    file.write_text("long-enough-key\n")
    assert _teacher_key(str(file)) == {"DELTALAB_TEACHER_KEY_FILE": str(file)}
    assert _teacher_key("") == {}


def test_a_missing_or_short_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        _teacher_key(str(tmp_path / "none"))
    (tmp_path / "short").write_text("abc")
    with pytest.raises(BadInput, match="too short"):
        _teacher_key(str(tmp_path / "short"))


def test_the_app_asks_for_a_key_of_the_same_length() -> None:
    from app.classroom import SHORTEST_KEY
    from core.cli import serve

    assert serve.SHORTEST_KEY == SHORTEST_KEY
