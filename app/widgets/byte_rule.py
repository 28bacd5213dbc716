"""The rule of 16 to 20 bytes a parameter, to take apart: choose what is kept, and see every byte of it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import charts_lessons_a, compare
from app.cells.svg import draw
from app.schema import Rule
from core.anatomy import table_of
from core.claims import decimal_text
from core.memory import per_parameter
from core.memory.per_parameter import RECIPES, Recipe
from core.units import count_text

NAME = "byte-rule"
OPTIONS = {"recipe": Rule("word"), "model": Rule("text"), "line": Rule("bool")}

MODELS = ("embedded", "Llama-3.2-1B", "Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B")
WEIGHTS = {2: "16 bits", 4: "32 bits"}
OPTIMIZERS = {
    "adamw": "AdamW", "adamw_8bit": "AdamW in 8 bits", "momentum": "SGD with momentum", "sgd": "plain SGD",
}  # fmt: skip
CLAIMS = {"claimed: over 1.2 TB": 1.2e12, "claimed: about 800 GB": 8e11}
OWN = "own"


def model_name(model: str) -> str:
    """A model's name for people."""
    return "The model of this course" if model == "embedded" else model


def render(options: dict[str, Any], key: str) -> None:
    """Recipe and its parts; the squares; the total for a model, beside the claims where it is the 70B model."""
    start = str(options.get("recipe", "mixed"))
    titles = {name: f"{title}: {per_parameter.each(recipe):.3g} bytes" for name, (title, recipe) in RECIPES.items()}
    chosen = st.selectbox(
        "Recipe", [*titles, OWN], index=list(titles).index(start), key=f"{key}-recipe",
        format_func=lambda name: titles.get(name, "One of my own"),
    )  # fmt: skip
    recipe = _own(key) if chosen == OWN else RECIPES[str(chosen)][1]
    parts = per_parameter.parts(recipe)
    total = per_parameter.each(recipe)
    left, right = st.columns([3, 2], vertical_alignment="center")
    with left:
        draw(*charts_lessons_a.byte_squares(parts), most_wide=400)
    with right:
        st.metric("A number that trains", f"{total:.4g} bytes")
        st.metric("A number that is frozen", f"{per_parameter.frozen(recipe):g} bytes")
    with st.expander("What each is for", key=f"{key}-table"):
        st.dataframe(
            charts_lessons_a.parts_table(parts), hide_index=True, alt="The parts of a trained number, one row each."
        )
    name = str(options.get("model", "Llama-3.1-70B"))
    model = st.select_slider("Model", MODELS, value=name, format_func=model_name, key=f"{key}-model")
    parameters = table_of(str(model)).total
    st.markdown(
        f"**{model_name(str(model))}** has {count_text(parameters)} parameters. At {total:.4g} bytes each that is "
        f"**{decimal_text(total * parameters)}**, and not a single activation is in it."
    )
    if options.get("line", True):
        claims = CLAIMS if str(model).endswith("70B") else {}
        compare.draw(charts_lessons_a.rule_line(model_name(str(model)), parameters, total, claims), f"{key}-line")


def _own(key: str) -> Recipe:
    """A recipe from its parts."""
    columns = st.columns(2)
    with columns[0]:
        weight, gradient = (
            st.segmented_control(
                name, list(WEIGHTS), default=2, format_func=WEIGHTS.__getitem__, required=True, key=f"{key}-{name}"
            )
            for name in ("Weights", "Gradients")
        )
    with columns[1]:
        copy = st.checkbox("A 32-bit copy of 16-bit weights", value=True, key=f"{key}-c", disabled=weight == 4)
        summed = st.checkbox("Sum 16-bit gradients in 32 bits", value=False, key=f"{key}-s", disabled=gradient == 4)
        optimizer = st.selectbox("Optimizer", list(OPTIMIZERS), format_func=OPTIMIZERS.__getitem__, key=f"{key}-o")
    return Recipe(int(weight or 2), int(gradient or 2), copy and weight == 2, summed and gradient == 2, str(optimizer))
