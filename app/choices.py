"""Choices that a link restores and a button can change: each has a value in the session and a name in the address.

    batch = Choice("vram", "batch", 1, whole(1, 512))
    batch.start()                                                              # from the link, at the first drawing
    st.select_slider("Batch", [1, 2, 4], value=batch.first, **batch.widget())
    st.button("Batch 1", on_click=batch.put, args=(1,))                        # a callback that changes it

The value is kept beside the widget, not in it, and the widget is told its value as its default. (A value that is set
through Streamlit's session state reaches the browser once: if the script runs again at once, it may never arrive, and
the browser answers with the widget's first option.) A button that changes a choice gives its widget a new key.
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


def stop(stops: Sequence[int]) -> Reader:
    """Reads one of some whole numbers: those at which a slider stops."""

    def read(text: str) -> int | None:
        value = whole(min(stops), max(stops))(text)
        return value if value in stops else None

    return read


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
        """Of its widget, until a button changes it."""
        return f"{self.page}-{self.name}"

    def _slot(self, what: str) -> str:
        return f"{self.key}:{what}"

    @property
    def widget_key(self) -> str:
        """Of its widget now: a new one after each `put`."""
        version = st.session_state.get(self._slot("version"), 0)
        return f"{self.key}.{version}" if version else self.key

    def start(self) -> Any:
        """Give it its value, unless its widget is there and has one: the link's, else what it was, else the default.

        Returns the value.
        """
        if self.widget_key not in st.session_state:
            said = st.query_params.get(self.name)
            value = self.read(said) if said is not None else None
            if said and value is None:
                refused(self.page)[self.name] = said
            if value is None:
                value = st.session_state.get(self._slot("value"), self.default)
            st.session_state[self._slot("value")] = st.session_state[self._slot("first")] = value
            self._to_link(value)
        return self.value

    @property
    def value(self) -> Any:
        """What is chosen now."""
        return st.session_state.get(self._slot("value"), self.default)

    @property
    def first(self) -> Any:
        """What the widget is to show when it appears."""
        return st.session_state.get(self._slot("first"), self.default)

    def index(self, options: Sequence[Any]) -> int:
        """`first` as a position among options."""
        return options.index(self.first) if self.first in options else 0

    def widget(self) -> dict[str, Any]:
        """Arguments of its widget, beside its default."""
        return {"key": self.widget_key, "on_change": self.keep}

    def shown(self) -> dict[str, Any]:
        """The same and the default, for widgets that take it as `value`."""
        return {"value": self.first, **self.widget()}

    def among(self, options: Sequence[Any]) -> dict[str, Any]:
        """The same for a selectbox with these options."""
        return {"options": options, "index": self.index(options), **self.widget()}

    def one(self) -> dict[str, Any]:
        """The same for a segmented control."""
        return {"default": self.first, **self.widget()}

    def keep(self) -> None:
        """The widget's callback: what it shows is the value, and stands in the address unless it is the default."""
        value = st.session_state.get(self.widget_key, self.default)
        st.session_state[self._slot("value")] = value
        refused(self.page).pop(self.name, None)
        self._to_link(value)

    def put(self, value: Any) -> None:
        """Choose it, from a callback."""
        refused(self.page).pop(self.name, None)
        st.session_state[self._slot("version")] = st.session_state.get(self._slot("version"), 0) + 1
        st.session_state[self._slot("value")] = st.session_state[self._slot("first")] = value
        self._to_link(value, anew=True)

    def _to_link(self, value: Any, *, anew: bool = False) -> None:
        """The address says what is chosen, if that is not the default; an address that says so already is left."""
        if value is None or value == self.default:
            if self.name in st.query_params:
                del st.query_params[self.name]
            return
        text = self.written(value)
        if anew or st.query_params.get(self.name) != text:
            st.query_params[self.name] = text

    def written(self, value: Any) -> str:
        """A value as the address has it."""
        return ("on" if value else "off") if isinstance(value, bool) else str(value)


def refused(page: str) -> dict[str, str]:
    """What the link said of a page's choices and cannot be, by name, until the choice is made otherwise."""
    found: dict[str, str] = st.session_state.setdefault(f"{page}:refused", {})
    return found


__all__ = ["Choice", "number", "one_of", "refused", "switch", "whole", "words"]
