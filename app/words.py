"""Every word of the interface, in the visitor's language: `t("home.title")`, `n("home.steps", 3)`.

The words are in app/locales, a folder of TOML files a language (pages, cells of lessons, widgets, tools, figures),
under the same keys in each language; a test compares keys and blanks.
What a language lacks is said in English. Lessons, glossary and questions are content, not interface: they stand in
their own files, in English. What the engine itself says of its knobs, methods and terms stands in core, in English; the
folder `engine` of a language has the same sentences in it, under the English ones: `from_core(method.SUMMARY)`.

A blank is written {name} and filled by keyword: `t("home.far", step=2, steps=5)`. Words that depend on a number have
the keys one and other: `n("home.steps", 1)` -> "1 step". Numbers are written by their callers, in English; in a blank
they get the decimal sign of the language, and `number` gives it to those that stand alone.

The language is the one that the address names (?lang=de), else the one that the learner chose, else English. It stays
in the address, so that a link shows what its sender saw.
"""

from __future__ import annotations

import re
import sys
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.numbers import ENGLISH, NARROW_SPACE, Told, written
from core.errors import BadInput

FOLDER = Path(__file__).resolve().parent / "locales"
DEFAULT = "en"
PARAMETER = "lang"
ENGINE = "engine"
KEPT = "settings/lang"
"""Where the learner's choice is kept, in their progress."""
BLANK = re.compile(r"\{(\w+)\}")
SENTENCE = re.compile(r"(?<=[.!?:;]) (?=[A-Z\d„\"'(])")
"""Between two sentences of core."""
NAMED = re.compile(r"(?P<name>.*[^\W\d]\S*) (?P<number>\d[\d.,]*(?: %)?)")
"""A name and its number, in a list."""
VERBATIM = {
    "command",
    "file",
    "label",
    "model",
    "name",
    "path",
    "query",
    "text",
    "title",
    "token",
    "version",
    "versions",
}
"""Blanks that are filled with what somebody typed or called something: no numbers, even where they look like some."""
VALUE = "v"
"""A blank in a sentence of core that a number begins."""
WITHIN = r"(?:(?!\. [A-Z]).)"
"""What may stand in a blank: not the end of one sentence and the beginning of the next."""
_SESSION = "_lang"


@lru_cache
def languages() -> dict[str, str]:
    """Code and own name of each language, the default first: {"en": "English", "de": "Deutsch"}."""
    codes = sorted((f.name for f in FOLDER.iterdir() if f.is_dir()), key=lambda code: (code != DEFAULT, code))
    return {code: catalogue(code)["language.name"] for code in codes}


@lru_cache
def catalogue(code: str) -> dict[str, str]:
    """All words of a language by key: nested tables become dotted keys.

    Raises:
        ValueError: two of its files have the same key.
    """
    flat: dict[str, str] = {}

    def walk(prefix: str, table: dict[str, Any]) -> None:
        for key, value in table.items():
            name = f"{prefix}.{key}" if prefix else key
            if isinstance(value, dict):
                walk(name, value)
            elif name in flat:
                raise ValueError(f"app/locales/{code} has {name} twice")
            else:
                flat[name] = str(value)

    for file in sorted((FOLDER / code).glob("*.toml")):
        walk("", tomllib.loads(file.read_text(encoding="utf-8")))
    return flat


def said(code: str, key: str, **blanks: Any) -> str:
    """The words of a key in a language, else in English.

    Raises:
        BadInput: no language has the key.
    """
    text = catalogue(code).get(key) or catalogue(DEFAULT).get(key)
    if text is None:
        raise BadInput(f"There are no words for {key!r}.", f"Add them to app/{FOLDER.name}/{DEFAULT}.")
    if not blanks:
        return text
    signs = separators(code)
    told = {
        name: value if name in VERBATIM or isinstance(value, Told) else written(str(value), signs)
        for name, value in blanks.items()
    }
    return Told(BLANK.sub(lambda m: str(told.get(m[1], m[0])), text))


@lru_cache
def separators(code: str) -> tuple[str, str]:
    """What a language writes before the decimals, and between thousands."""
    decimal = catalogue(code).get("language.decimal", ENGLISH[0])
    return ENGLISH if decimal == ENGLISH[0] else (decimal, NARROW_SPACE)


def number(text: str) -> str:
    """A number with its unit, written in English, as the visitor's language writes it; any other text as it is."""
    return written(text, separators(current()))


def t(key: str, **blanks: Any) -> str:
    """The words of a key in the visitor's language."""
    return said(current(), key, **blanks)


def n(key: str, count: float, **blanks: Any) -> str:
    """The words of a key for so many: its `one` for 1, its `other` for every other number; {count} is the number."""
    return said(current(), f"{key}.{'one' if count == 1 else 'other'}", **{"count": f"{count:,}", **blanks})


@lru_cache
def engine(code: str) -> dict[str, str]:
    """Sentences and names of core in a language, by their English; empty for English.

    Raises:
        ValueError: two of its files have the same entry.
    """
    out: dict[str, str] = {}
    for file in sorted((FOLDER / code / ENGINE).glob("*.toml")):
        more = tomllib.loads(file.read_text(encoding="utf-8"))
        if twice := out.keys() & more.keys():
            raise ValueError(f"app/locales/{code}/{ENGINE} has {', '.join(sorted(twice))} twice")
        out |= more
    return out


def from_core(text: str) -> str:
    """What core says, in the visitor's language; as core says it where that has no words for it."""
    return of_core(current(), text)


def inside(text: str) -> str:
    """What core says of work that is on, behind a colon: as `from_core`; English begins with a small letter."""
    told = from_core(text)
    return told if told != text else f"{text[:1].lower()}{text[1:]}"


@lru_cache(maxsize=4096)
def of_core(code: str, text: str) -> str:
    """What core says, in a language: the text as a whole, else as a sentence with blanks, else sentence by sentence.

    An entry of `engine` may have blanks, {name}, where core puts in what it knows: "{gpus} cards hold it." What stands
    in one is said in the language, too, if it has words for it, and a number gets its decimal sign. Of a text that is
    known in part nothing is said otherwise: half of each language is harder to read than either.
    """
    if not engine(code) or not text:
        return text
    whole = _known(code, text)
    if whole is not None:
        return whole
    sentences = SENTENCE.split(text)
    told = [_known(code, one) or _listed(code, one) for one in sentences] if len(sentences) > 1 else [None]
    return text if None in told else " ".join(map(str, told))


def _known(code: str, text: str) -> str | None:
    """One entry of `engine` that says it all."""
    found = engine(code).get(text)
    if found is not None:
        return found
    for pattern, words in _with_blanks(code):
        match = pattern.fullmatch(text)
        if match is not None:
            filled = {name: _blank(code, value) for name, value in match.groupdict().items()}
            return BLANK.sub(lambda m, filled=filled: filled.get(m[1], m[0]), words)  # type: ignore[misc]
    return None


def _listed(code: str, sentence: str) -> str | None:
    """A sentence, or a part of one, that is a list of entries."""
    body = sentence.rstrip(".;")
    told = [_known(code, part) for part in body.split("; ")]
    return None if None in told else "; ".join(map(str, told)) + sentence[len(body) :]


def _blank(code: str, value: str) -> str:
    """What stands in a blank of a sentence of core: one thing or a list, in words, as a number, or a name with one."""
    if "; " in value:  # first, since an entry with blanks would take several for one
        return "; ".join(_blank(code, part) for part in value.split("; "))
    told = [_known(code, part) for part in value.split(", ")]
    if None not in told:
        return ", ".join(map(str, told))
    found = _known(code, value) if len(told) > 1 else None
    if found is not None:
        return found
    named = NAMED.fullmatch(value)
    if named is not None:
        name = named["name"]
        return f"{_known(code, name) or name} {written(named['number'], separators(code))}"
    return written(value, separators(code))


@lru_cache
def _with_blanks(code: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """The entries with blanks as patterns; the one that fixes most of its text first."""
    found = []
    for english, words in engine(code).items():
        if BLANK.search(english) is None:
            continue
        seen: set[str] = set()
        pattern = ""
        for i, part in enumerate(BLANK.split(english)):
            if i % 2 == 0:
                pattern += re.escape(part)
            else:
                inside = rf"\d{WITHIN}*?" if part == VALUE else f"{WITHIN}+?"
                pattern += f"(?P={part})" if part in seen else f"(?P<{part}>{inside})"
                seen.add(part)
        found.append((len(BLANK.sub("", english)), re.compile(pattern, re.DOTALL), words))
    return tuple((pattern, words) for _, pattern, words in sorted(found, key=lambda one: -one[0]))


def has(key: str) -> bool:
    """Whether there are words for a key."""
    return key in catalogue(DEFAULT)


def current() -> str:
    """The visitor's language as `settle` found it; English where no page is drawn."""
    if "streamlit" not in sys.modules:  # a notebook draws figures too, and need not load it for that
        return DEFAULT
    import streamlit as st
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    if get_script_run_ctx(suppress_warning=True) is None:  # no visitor: what is made ready when the server starts
        return DEFAULT
    found = st.session_state.get(_SESSION, DEFAULT)
    return found if isinstance(found, str) and found in languages() else DEFAULT


def settled() -> bool:
    """Whether this session has a language already."""
    import streamlit as st

    return _SESSION in st.session_state


def settle(stored: str | None) -> str:
    """Settle the language at the start of a page: the address's, else this session's, else the stored one.

    stored: what the learner chose at another time. Returns the language.
    """
    import streamlit as st

    asked = st.query_params.get(PARAMETER)
    if asked in languages():
        st.session_state[_SESSION] = asked
    elif not settled():
        st.session_state[_SESSION] = stored if stored in languages() else DEFAULT
    return current()


def in_address() -> None:
    """Let the address name the language, unless it is English; once the page that it belongs to is known."""
    import streamlit as st

    code, asked = current(), st.query_params.get(PARAMETER)
    if code == DEFAULT:
        if asked is not None and asked != DEFAULT:
            del st.query_params[PARAMETER]
    elif asked != code:
        st.query_params[PARAMETER] = code


def choose(code: str) -> None:
    """Change the language of this visit."""
    import streamlit as st

    st.session_state[_SESSION] = code
    if PARAMETER in st.query_params:
        del st.query_params[PARAMETER]
    in_address()
