"""What core says when something is wrong, in the other languages: every sentence that a page can show."""

from __future__ import annotations

import ast
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import words
from core import errors, events

CORE = Path(errors.__file__).parent
OTHERS = [code for code in words.languages() if code != words.DEFAULT]
# Of the command line, which is English, and of those who write the project's own catalogues.
UNSHOWN = ("cli", "claims", "glossary.py", "sweep.py", "pretrain.py")
SAYING = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
SAYING |= {events.Failed.__name__}
BLANK, FILLED = "\0", "7"


def variants(node: ast.expr) -> list[str]:
    """The texts that an expression may yield, BLANK in place of what is not known; none for what is no text."""
    if isinstance(node, ast.Constant):
        return [str(node.value)] if isinstance(node.value, str) else []
    if isinstance(node, ast.IfExp):
        return variants(node.body) + variants(node.orelse)
    if isinstance(node, ast.BinOp):
        return [a + b for a in variants(node.left) for b in variants(node.right)]
    if isinstance(node, ast.JoinedStr):
        parts = [variants(p.value if isinstance(p, ast.FormattedValue) else p) or [BLANK] for p in node.values]
        return ["".join(chosen) for chosen in itertools.product(*parts)]
    return []


def sentences(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every mistake that is made in a source; a name without a space is none."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in SAYING:
                for argument in node.args:
                    yield from ((node.lineno, text) for text in variants(argument) if " " in text.strip())


def shown() -> dict[str, str]:
    """Every sentence of core that a page may show, and where it stands."""
    found = {}
    for path in sorted(CORE.rglob("*.py")):
        place = path.relative_to(CORE)
        if place.parts[0] not in UNSHOWN:
            for line, text in sentences(path.read_text(encoding="utf-8")):
                found.setdefault(text, f"core/{place}:{line}")
    return found


def told(code: str, text: str) -> bool:
    """Whether a sentence is told in a language: with a number in its blanks, or spelt out phrase by phrase."""
    filled = text.replace(BLANK, FILLED)
    if words.of_core(code, filled) != filled:
        return True
    form = re.compile(".+".join(map(re.escape, text.split(BLANK))))
    return BLANK in text and any(form.fullmatch(entry) for entry in words.engine(code))


@pytest.mark.parametrize("code", OTHERS)
def test_every_mistake_is_told_in_every_language(code: str) -> None:
    said = shown()
    assert len(said) > 700
    assert {place: text for text, place in said.items() if not told(code, text)} == {}


NOTEBOOK = ("kernel.py", "kernels.py", "outputs.py", "inside.py", "permission.py")


def of_the_kernel() -> dict[str, str]:
    """Every sentence of core/notebook, whatever is done with it: texts of four words and more, but for docstrings."""
    found = {}
    for name in NOTEBOOK:
        tree = ast.parse((CORE / "notebook" / name).read_text(encoding="utf-8"))
        again = next((n.value for n in tree.body if isinstance(n, ast.Assign) and "AGAIN" in ast.unparse(n)), None)
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            within = parents.get(node)
            if not isinstance(node, (ast.Constant, ast.JoinedStr)) or isinstance(within, (ast.Expr, ast.JoinedStr)):
                continue
            called = ast.unparse(within.func) if isinstance(within, ast.Call) else ""
            if called in SAYING or called.startswith("logger."):  # mistakes are the test above's
                continue
            for text in variants(node):
                # A blank before a comma is who did it, one at either end a sentence of its own.
                whole = text.replace(BLANK, "You stopped it", 1) if text.startswith(f"{BLANK}, ") else text
                whole = whole.removesuffix(f" {BLANK}").removeprefix(f"{BLANK} ")
                ended = BLANK not in text or whole.endswith((".", "?", "!"))
                if (
                    len(re.findall(r"[A-Za-z]{2,}(?= |$)", whole)) >= 3
                    and len(whole.split()) >= 4
                    and ended
                    and whole != again
                    and "\n" not in whole
                ):
                    found[whole] = f"core/notebook/{name}:{node.lineno}"
    return found


@pytest.mark.parametrize("code", OTHERS)
def test_what_a_kernel_says_is_told_in_every_language(code: str) -> None:
    said = of_the_kernel()
    assert len(said) > 20
    assert {place: text for text, place in said.items() if not told(code, text)} == {}


def test_the_texts_of_a_mistake_are_found() -> None:
    source = (
        "def f(n, why):\n"
        "    if n:\n"
        "        raise BadInput(f'There {\"is\" if n == 1 else \"are\"} {n} of them.', 'Take ' + 'one.' if n else n)\n"
        "    raise errors.NotFound('no_kind', f'{why} it is.')\n"
        "    raise ValueError('of no interest')\n"
    )
    found = ["\0 it is.", "Take one.", "There are \0 of them.", "There is \0 of them."]
    assert sorted(text for _, text in sentences(source)) == found


@pytest.mark.parametrize("code", OTHERS)
def test_no_text_keeps_the_page_waiting(code: str) -> None:
    """A pattern with many blanks could try for seconds: here each meets its own words, filled with what it may take for
    several blanks, again and again."""
    for entry in words.engine(code):
        if words.BLANK.search(entry):
            text = 4 * (words.BLANK.sub("1 of 2: x, y", entry) + "!")
            began = time.process_time()
            words.of_core.__wrapped__(code, text)
            assert time.process_time() - began < 1, entry


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is no run \0 here.", True),
        ("Line \0 of \0: \0 is a list, and every text has one label here.", True),
        ("Nobody has translated \0.", False),
        ("Nobody has translated this.", False),
    ],
)
def test_a_sentence_that_has_no_translation_would_be_found(text: str, expected: bool) -> None:
    assert told("de", text) == expected
