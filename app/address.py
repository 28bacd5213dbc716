"""Choices in the address: what a page shows can be linked to."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st


def linked(name: str, options: Sequence[str], default: str) -> str:
    """The choice that the address names, if it is one; else the default.

    Streamlit's own binding would put the widget's words into the address ("New people (knowledge)"), not its values.
    """
    wanted = st.query_params.get(name)
    return wanted if wanted is not None and wanted in options else default


def keep_in_link(name: str, default: str) -> None:
    """A widget's callback: its value into the address, unless it is the default."""
    value = st.session_state[name]
    if value == default:
        st.query_params.pop(name, None)
    else:
        st.query_params[name] = value


def linked_list(name: str, options: Sequence[str], default: Sequence[str]) -> list[str]:
    """The same of a choice of several, which the address names with commas between them."""
    wanted = st.query_params.get(name)
    if wanted is None:
        return list(default)
    return [part for part in wanted.split(",") if part in options] or list(default)


def keep_list_in_link(name: str, default: Sequence[str]) -> None:
    """A widget's callback, as `keep_in_link`."""
    values = st.session_state[name]
    if list(values) == list(default) or not values:
        st.query_params.pop(name, None)
    else:
        st.query_params[name] = ",".join(values)
