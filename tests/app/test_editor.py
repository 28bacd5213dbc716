"""The code editor: its colours can be read, what was built is what the source says, its parts' licences are there."""

from __future__ import annotations

import json
import re

import pytest

from app import components
from tests.app.test_charts import CONFIG, contrast

FOLDER = components.FOLDER / "editor"
SOURCE = (FOLDER / "source" / "editor.js").read_text(encoding="utf-8")
BUILT = (FOLDER / "editor.js").read_text(encoding="utf-8")
COLOURS = dict(re.findall(r"(\w+): \"light-dark\((#\w{6}, #\w{6})\)\"", SOURCE))


@pytest.mark.parametrize("name", COLOURS)
def test_highlighted_code_can_be_read(name: str) -> None:
    for theme, colour in zip(("light", "dark"), COLOURS[name].split(", "), strict=True):
        assert contrast(colour, CONFIG["theme"][theme]["secondaryBackgroundColor"]) >= 4.5, theme


def test_every_kind_of_token_has_a_colour() -> None:
    assert set(COLOURS) == {"keyword", "string", "number", "comment", "name"}


def test_the_built_file_is_of_this_source() -> None:
    """`make editor` builds it; what the source says in so many words, it says too."""
    for text in [*COLOURS.values(), "cm-wrong", "aria-keyshortcuts", "setTriggerValue", "editor.css"]:
        assert text.replace(", ", ",") in BUILT.replace(", ", ","), text
    wait = re.search(r"const WAIT_MS = (\d+)", SOURCE)
    assert wait is not None
    assert f"={wait[1]}" in BUILT or f",{wait[1]})" in BUILT


def test_codemirror_is_the_version_that_works() -> None:
    lock = json.loads((FOLDER / "package-lock.json").read_text(encoding="utf-8"))
    # (codemirror@6 without a minor version resolves to a mispublished 5.)
    assert lock["packages"]["node_modules/codemirror"]["version"] == "6.0.2"
    licences = (FOLDER / "LICENSES.txt").read_text(encoding="utf-8")
    for part in ("codemirror 6.0.2 (MIT)", "@codemirror/lang-python", "@lezer/python", "Permission is hereby granted"):
        assert part in licences


def test_nothing_is_loaded_from_elsewhere() -> None:
    hosts = set(re.findall(r"https?://([\w.-]+)", BUILT))
    assert hosts <= {"www.w3.org", "codemirror.net", "github.com", "bugzilla.mozilla.org", "discuss.codemirror.net"}
