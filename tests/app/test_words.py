"""The words of the interface: every language has the same keys and blanks, and none is written into the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from app import words
from app.views import VIEWS
from core.errors import BadInput

APP = Path(words.__file__).parent
OTHERS = [code for code in words.languages() if code != words.DEFAULT]

SAYS = {
    "title", "header", "subheader", "markdown", "caption", "write", "button", "download_button", "form_submit_button",
    "link_button", "page_link", "text_input", "text_area", "number_input", "slider", "select_slider", "selectbox",
    "multiselect", "radio", "checkbox", "toggle", "segmented_control", "pills", "file_uploader", "expander", "popover",
    "tabs", "error", "warning", "info", "success", "toast", "spinner", "metric", "progress", "status",
}  # fmt: skip


def spoken(node: ast.expr | None) -> bool:
    """Whether an argument is a text with a word in it that is written there."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(
            re.search(r"[A-Za-z]{2}", re.sub(r":material/\w+:", "", node.value))
        )
    if isinstance(node, ast.JoinedStr):
        return any(spoken(part) for part in node.values if isinstance(part, ast.Constant))
    if isinstance(node, ast.IfExp):
        return spoken(node.body) or spoken(node.orelse)
    if isinstance(node, ast.BinOp):
        return spoken(node.left) or spoken(node.right)
    return isinstance(node, ast.List | ast.Tuple) and any(spoken(part) for part in node.elts)


def unmoved(path: Path) -> list[int]:
    """The lines of a file where a text is written into a call of Streamlit instead of app/locales."""
    out = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SAYS):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "st"):
            continue
        told = [*node.args[:1], *(k.value for k in node.keywords if k.arg in ("label", "help", "placeholder", "text"))]
        if any(spoken(argument) for argument in told):
            out.append(node.lineno)
    return out


def test_words_are_in_the_locales() -> None:
    found = {str(path.relative_to(APP)): lines for path in APP.rglob("*.py") if (lines := unmoved(path))}
    assert found == {}, "write these words into app/locales, and say them with app.words.t"


@pytest.mark.parametrize("code", OTHERS)
def test_a_language_has_every_key_with_the_same_blanks(code: str) -> None:
    english, other = words.catalogue(words.DEFAULT), words.catalogue(code)
    assert set(other) == set(english)
    for key, text in english.items():
        assert sorted(words.BLANK.findall(other[key])) == sorted(words.BLANK.findall(text)), key
        assert text.strip(), key
        assert other[key].strip(), key


@pytest.mark.parametrize("code", OTHERS)
def test_a_language_is_a_translation(code: str) -> None:
    """Nearly every longer text differs from the English one."""
    english, other = words.catalogue(words.DEFAULT), words.catalogue(code)
    same = [key for key, text in english.items() if len(text.split()) > 3 and other[key] == text]
    assert same == []


def test_every_key_that_the_code_names_is_there_and_every_key_is_named() -> None:
    source = "\n".join(p.read_text(encoding="utf-8") for p in APP.rglob("*.py"))
    keys = set(words.catalogue(words.DEFAULT))
    stems = {re.sub(r"\.(one|other)$", "", key) for key in keys}
    named = set(re.findall(r"""\b[tn]\(\s*f?["']([a-z_.]+)["']""", source))
    assert {key for key in named if key not in stems} == set()
    quoted = set(re.findall(r"""["']([a-z_]+\.[a-z_.]+)["']""", source))
    made = {f"{prefix}." for prefix in re.findall(r"""["']([a-z_]+(?:\.[a-z_]+)*)\.\{""", source)}
    unused = {s for s in stems if s not in quoted and not any(s.startswith(prefix) for prefix in made)}
    assert unused - {"language.name"} == set()


def test_blanks_plurals_and_what_is_missing() -> None:
    assert words.said("en", "home.continue", title="A {b}") == "Continue: A {b}"
    assert words.said("de", "home.continue", title="X") == "Weiter: X"
    assert words.n("home.steps", 1) == "1 step"
    assert words.n("home.steps", 1200) == "1,200 steps"
    with pytest.raises(BadInput, match=r"home\.nothing"):
        words.said("en", "home.nothing")


def test_every_page_has_a_name_and_a_sentence_in_every_language() -> None:
    for code in words.languages():
        for view in VIEWS:
            name = view.url_path or "course"
            assert words.said(code, f"page.{name}.title")
            assert words.said(code, f"page.{name}.summary").endswith((".", "?", ")"))
            if view.section:
                assert words.said(code, f"menu.{view.section}")
