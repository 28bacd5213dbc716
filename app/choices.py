"""Choices that a link restores and a button can change: each has a place in the session and a name in the address.

    batch = Choice("vram", "batch", 1, whole(1, 512))
    batch.start()                                            # from the link, at the first drawing of the page
    st.select_slider("Batch", [1, 2, 4], **batch.widget())   # no default of its own
    st.button("Batch 1", on_click=batch.put, args=(1,))      # a callback that changes it

The widget is given no default: Streamlit would not let a callback change a widget that has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

Reader = Callable[[str], Any]


def whole(low: int, high: int) -> Reader:
    """Reads a whole number within bounds; None for anything else."""

    def read(text: str) -> int | None:
        try:
            value = int(text)
        except ValueError:
            return None
        return value if low <= value <= high else None

    return read


def number(low: float, high: float) -> Reader:
    """Reads a number within bounds."""

    def read(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        return value if low <= value <= high else None

    return read


def one_of(options: Sequence[str]) -> Reader:
    """Reads one of some words."""
    return lambda text: text if text in options else None


def switch(text: str) -> bool | None:
    """Reads on or off."""
    return {"on": True, "off": False}.get(text)


def words(most: int) -> Reader:
    """Reads a text of at most so many characters."""
    return lambda text: text if len(text) <= most else None


@dataclass(frozen=True)
class Choice:
    """page: that it is on. name: in the address. default: what a link need not say. read: of the address's text, None
    for nonsense."""

    page: str
    name: str
    default: Any
    read: Reader

    @property
    def key(self) -> str:
        """Of its widget."""
        return f"{self.page}-{self.name}"

    def start(self) -> Any:
        """Give it its value, unless it has one: the link's, else the default. Returns the value."""
        if self.key not in st.session_state:
            said = st.query_params.get(self.name)
            value = self.read(said) if said is not None else None
            st.session_state[self.key] = self.default if value is None else value
        return st.session_state[self.key]

    @property
    def value(self) -> Any:
        """What is chosen now."""
        return st.session_state.get(self.key, self.default)

    def widget(self) -> dict[str, Any]:
        """Arguments of its widget."""
        return {"key": self.key, "on_change": self.keep}

    def keep(self) -> None:
        """The widget's callback: the value into the address, unless it is the default."""
        value = st.session_state.get(self.key, self.default)
        if value is None or value == self.default:
            st.query_params.pop(self.name, None)
        else:
            st.query_params[self.name] = ("on" if value else "off") if isinstance(value, bool) else str(value)

    def put(self, value: Any) -> None:
        """Choose it, from a callback."""
        st.session_state[self.key] = value
        self.keep()


__all__ = ["Choice", "number", "one_of", "switch", "whole", "words"]
