"""A picture, an edit laid over it, and the edit's best version of a rank: LoRA's arithmetic where it can be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from app import charts_lessons_a, compare, localized
from app.calc import percent
from app.schema import Rule
from app.words import from_core, t
from core import picture

NAME = "photo-filter"
OPTIONS = {"edit": Rule("word"), "rank": Rule("int")}

RANKS = (0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96)
ZOOM = 3


def image(matrix: picture.Matrix, low: float = 0.0, high: float = 1.0) -> Any:
    """Numbers from low (black) to high (white) as an image, each as a square of ZOOM by ZOOM dots."""
    shade = np.clip((matrix - low) / (high - low), 0, 1)
    return np.kron((255 * shade).astype(np.uint8), np.ones((ZOOM, ZOOM), dtype=np.uint8))


def render(options: dict[str, Any], key: str) -> None:
    """Edit and rank; the picture, the edit and the sum; the numbers; the singular values."""
    left, right = st.columns(2)
    with left:
        titles = {name: from_core(one.title) for name, one in picture.EDITS.items()}
        names = list(titles)
        start = names.index(str(options.get("edit", "caption")))
        edit = str(
            st.selectbox(
                t("widgets.photo_filter.edit"),
                names,
                index=start,
                format_func=titles.__getitem__,
                key=f"{key}-edit",
            )
        )
    with right:
        rank = int(st.select_slider(t("widgets.rank_r"), RANKS, value=int(options.get("rank", 2)), key=f"{key}-rank"))
    about, whole = picture.EDITS[edit], picture.edit(edit)
    title = from_core(about.title)
    b, a = picture.best_pair(whole, rank)
    change = b @ a
    photo, kept = picture.photo(), picture.kept(edit, rank)
    most = float(np.abs(whole).max())
    columns = st.columns(3)
    shown = (
        (photo, 0.0, 1.0, t("widgets.photo_filter.photo"), t("widgets.photo_filter.photo_alt")),
        (change, -most, most, t("widgets.photo_filter.change", rank=rank),
         t("widgets.photo_filter.change_alt", edit=title, rank=rank)),
        (photo + change, 0.0, 1.0, t("widgets.photo_filter.sum"),
         t("widgets.photo_filter.sum_alt", edit=title, rank=rank)),
    )  # fmt: skip
    for column, (matrix, low, high, caption, alt) in zip(columns, shown, strict=True):
        with column:
            st.image(image(matrix, low, high), caption=caption, alt=alt, width="stretch")
    numbers, all_of_them = picture.pair_numbers(rank), picture.ROWS * picture.COLUMNS
    with st.container(horizontal=True, gap="medium"):
        localized.metric(t("widgets.photo_filter.numbers"), f"{all_of_them:,}", width="content")
        localized.metric(t("widgets.photo_filter.pair"), f"{numbers:,}", width="content")
        localized.metric(t("widgets.photo_filter.kept"), percent(100 * kept), width="content")
    if numbers >= all_of_them:
        st.markdown(t("widgets.photo_filter.nothing_saved"))
    compare.draw(charts_lessons_a.directions(picture.singular_values(edit), rank, title, kept), f"{key}-values")
    st.caption(from_core(about.told))
