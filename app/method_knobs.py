"""A method's own settings on a calculator's page: a widget each, kept in the link, changeable by a button."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import form
from app.choices import Choice, number, one_of, switch, whole, words
from app.words import t
from core.config import RunConfig
from core.methods import METHODS
from core.outside import quoted


def settings(method: str, page: str, skip: Sequence[str] = ()) -> Any:
    """Widgets for a method's own settings; its Config. They are in the link as `lora.rank=16`.

    Args:
        skip: settings whose widgets the page draws elsewhere; their values count.
    """
    knobs = [k for k in form.knobs(RunConfig(method=method)) if k.part == "settings"]
    if not knobs:
        st.caption(t("form.no_settings"))
        return METHODS[method].Config()
    columns = st.columns(3, gap="medium")
    values = {}
    drawn = 0
    for knob in knobs:
        choice = choice_of(method, knob, page)
        if knob.name in skip:
            values[knob.name] = choice.start()
            continue
        with columns[drawn % 3]:
            values[knob.name] = _drawn(knob, choice)
        drawn += 1
    return METHODS[method].Config(**values)


def choice_of(method: str, knob: form.Knob, page: str) -> Choice:
    """The choice behind a method's setting."""
    meta, name = knob.meta, f"{method}.{knob.name}"
    low, high = meta.get("low"), meta.get("high")
    if knob.kind is bool:
        return Choice(page, name, bool(knob.default), switch)
    if knob.kind is int:
        return Choice(page, name, int(knob.default), whole(int(low or 0), int(high or 1 << 20)))
    if knob.kind is float:
        return Choice(page, name, float(knob.default), number(float(low or 0.0), float(high or 1e9)))
    if meta.get("choices"):
        return Choice(page, name, knob.default, one_of(list(meta["choices"])))
    return Choice(page, name, str(knob.default), words(200))


def _drawn(knob: form.Knob, choice: Choice) -> Any:
    choice.start()
    label, told, meta = knob.label, knob.help, knob.meta
    if knob.kind is bool:
        return st.toggle(label, choice.first, help=told, **choice.widget())
    if meta.get("choices"):
        options = list(meta["choices"])
        return st.selectbox(label, options, choice.index(options), help=told, **choice.widget())
    if knob.kind is int:
        return st.number_input(
            label,
            int(meta.get("low") or 0),
            int(meta.get("high") or 1 << 20),
            choice.first,
            step=1,
            help=told,
            **choice.widget(),
        )
    if knob.kind is float:
        high = float(meta.get("high") or 1e9)
        return st.number_input(
            label, float(meta.get("low") or 0.0), high, choice.first, step=0.01 if high <= 1 else 0.1, format="%g",
            help=told, **choice.widget(),
        )  # fmt: skip
    return str(st.text_input(label, choice.first, help=told, **choice.widget()) or "").strip()


def put(method: str, values: Any, page: str) -> list[str]:
    """Choose these settings, from a callback; None leaves them.

    Returns:
        those that the page cannot be set to, as `rank = 2048`; they stay as they were.
    """
    refused = []
    for knob in form.knobs(RunConfig(method=method)) if values is not None else ():
        if knob.part == "settings":
            choice = choice_of(method, knob, page)
            value = getattr(values, knob.name)
            if knob.kind is bool or choice.read(str(value)) is not None:
                choice.put(value)
            else:
                refused.append(f"{knob.name} = {quoted(value)}")
    return refused
