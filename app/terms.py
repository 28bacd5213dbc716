"""A word of the glossary in a sentence: its definition on hover, at the keyboard and at a tap, as escaped HTML.

The word is a button-like stretch of text that can be focused; the definition stands behind it and is shown while the
pointer or the focus is there, and a screen reader reads it as the description. Everything that goes into the markup is
ours and is escaped here all the same; nothing that a visitor typed comes near it.
"""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from app import calc
from app.index import filled
from core import glossary

MARKDOWN = re.compile(r"([\\`*_\[\]<>$~:|#])")


def escaped(text: str) -> str:
    """A text inside Markdown that allows HTML: neither of the two finds a sign of its own in it."""
    return MARKDOWN.sub(lambda m: f"&#{ord(m[1])};", html.escape(text, quote=True).replace("&#x27;", "’"))


class Marker:
    """Marks the terms of one text; `used` says whether there was one, so that the text needs HTML at all.

    where: what tells this text from every other on the page, since the definitions need ids.
    """

    def __init__(self, where: str) -> None:
        self.where = zlib.crc32(where.encode())
        self.count = 0

    @property
    def used(self) -> bool:
        """Whether a term was marked."""
        return self.count > 0

    def __call__(self, shown: str, key: str) -> str:
        """The markup of one term; only the shown words where the glossary lacks it."""
        term = glossary.find(key)
        if term is None:
            return shown
        self.count += 1
        name = f"term-{self.where:08x}-{self.count}"
        told = f"<b>{escaped(term.short)}</b>: {escaped(term.text)}"
        return (
            f'<span class="term-box"><span class="term" tabindex="0" role="button" aria-describedby="{name}">'
            f'{escaped(shown)}</span><span class="term-text" role="tooltip" id="{name}">{told}</span></span>'
        )


def say(source: str, folder: Path, where: str, compute: Callable[[calc.Call, Path], str] = calc.text) -> None:
    """Draw a text of a lesson with its calcs filled in and its terms marked.

    where: as for `Marker`. compute: a calc as it is told.
    """
    from app.cells.context import unbroken

    marker = Marker(where)
    text = unbroken(filled(source, folder, compute, define=marker))
    st.markdown(text, unsafe_allow_html=marker.used)
