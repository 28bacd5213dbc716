"""The rule of 16 to 20 bytes a parameter, to take apart: choose what is kept, and see every byte of it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_lessons_a, compare, localized
from app.cells.svg import draw
from app.schema import Rule
from app.words import from_core, t
from core.anatomy import table_of
from core.claims import decimal_text
from core.memory import per_parameter
from core.memory.per_parameter import RECIPES, Recipe
from core.units import count_text

NAME = "byte-rule"
OPTIONS = {"recipe": Rule("word"), "model": Rule("text"), "line": Rule("bool")}

MODELS = ("embedded", "Llama-3.2-1B", "Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B")
WEIGHTS = (2, 4)  # bytes
OPTIMIZERS = {"adamw": "adamw", "adamw_8bit": "eight_bit", "momentum": "momentum", "sgd": "sgd"}
"""An optimizer -> the key of its words."""
CLAIMS = {"over": 1.2e12, "about": 8e11}
"""What is claimed of the 70B model: the key of its words -> bytes."""
OWN = "own"


def model_name(model: str) -> str:
    """A model's name for people."""
    return t("widgets.course_model") if model == "embedded" else model


def render(options: dict[str, Any], key: str) -> None:
    """Recipe and its parts; the squares; the total for a model, beside the claims where it is the 70B model."""
    start = str(options.get("recipe", "mixed"))
    titles = {
        name: t("widgets.byte_rule.recipe_bytes", title=from_core(title), bytes=f"{per_parameter.each(recipe):.3g}")
        for name, (title, recipe) in RECIPES.items()
    }
    chosen = st.selectbox(
        t("widgets.byte_rule.recipe"), [*titles, OWN], index=list(titles).index(start), key=f"{key}-recipe",
        format_func=lambda name: t("widgets.byte_rule.own") if name == OWN else titles[name],
    )  # fmt: skip
    recipe = _own(key) if chosen == OWN else RECIPES[str(chosen)][1]
    parts = per_parameter.parts(recipe)
    total = per_parameter.each(recipe)
    left, right = st.columns([3, 2], vertical_alignment="center")
    with left:
        draw(*charts_lessons_a.byte_squares(parts), most_wide=400)
    with right:
        localized.metric(t("widgets.byte_rule.trains"), t("widgets.byte_rule.bytes", bytes=f"{total:.4g}"))
        frozen = t("widgets.byte_rule.bytes", bytes=f"{per_parameter.frozen(recipe):g}")
        localized.metric(t("widgets.byte_rule.frozen"), frozen)
    with st.expander(t("widgets.byte_rule.parts"), key=f"{key}-table"):
        localized.grid(charts_lessons_a.parts_table(parts), hide_index=True, alt=t("widgets.byte_rule.parts_alt"))
    name = str(options.get("model", "Llama-3.1-70B"))
    model = st.select_slider(t("widgets.model"), MODELS, value=name, format_func=model_name, key=f"{key}-model")
    parameters = table_of(str(model)).total
    st.markdown(
        t(
            "widgets.byte_rule.told",
            model=model_name(str(model)),
            parameters=count_text(parameters),
            bytes=f"{total:.4g}",
            size=decimal_text(total * parameters),
        )
    )
    if options.get("line", True):
        claims = {t(f"widgets.byte_rule.claimed.{name}"): size for name, size in CLAIMS.items()}
        claims = claims if str(model).endswith("70B") else {}
        compare.draw(charts_lessons_a.rule_line(model_name(str(model)), parameters, total, claims), f"{key}-line")


def _width(size: int) -> str:
    return t("widgets.byte_rule.bits", bits=8 * size)


def _own(key: str) -> Recipe:
    """A recipe from its parts."""
    columns = st.columns(2)
    with columns[0]:
        weight, gradient = (
            st.segmented_control(label, WEIGHTS, default=2, format_func=_width, required=True, key=f"{key}-{name}")
            for name, label in (
                ("Weights", t("widgets.byte_rule.weights")),
                ("Gradients", t("widgets.byte_rule.gradients")),
            )
        )
    with columns[1]:
        copy = st.checkbox(t("widgets.byte_rule.copy"), value=True, key=f"{key}-c", disabled=weight == 4)
        summed = st.checkbox(t("widgets.byte_rule.sum"), value=False, key=f"{key}-s", disabled=gradient == 4)
        optimizer = st.selectbox(
            t("widgets.byte_rule.optimizer"),
            list(OPTIMIZERS),
            format_func=lambda name: t(f"widgets.byte_rule.optimizers.{OPTIMIZERS[name]}"),
            key=f"{key}-o",
        )
    return Recipe(int(weight or 2), int(gradient or 2), copy and weight == 2, summed and gradient == 2, str(optimizer))
