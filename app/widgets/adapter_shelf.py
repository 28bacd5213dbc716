"""Many tasks on disk: as whole models, and as one base with a small file for each."""

from __future__ import annotations

import dataclasses
from typing import Any

import streamlit as st

from app import charts_memory, compare, localized, tables
from app.schema import Rule
from app.words import n, t
from core.catalog import architecture_of
from core.claims import decimal_text
from core.memory.storage import storage
from core.methods import METHODS

NAME = "adapter-shelf"
OPTIONS = {"model": Rule("text"), "tasks": Rule("int"), "rank": Rule("int")}
MODELS = ("GPT-2", "Llama-3.2-1B", "Llama-3.1-8B", "Llama-3.1-70B")
TASKS = (1, 2, 5, 10, 20, 50, 100, 1000)
RANKS = (1, 4, 8, 16, 32, 64)
TARGETS = {"attention": "attention", "all-linear": "all_linear"}
"""As LoRA's setting has it -> the key of its words."""
SHOWN = ("full", "lora", "ia3", "prompt_tuning")


def render(options: dict[str, Any], key: str) -> None:
    """Model, tasks, rank and targets; the size of one file, and of all."""
    left, right = st.columns(2)
    with left:
        model = str(
            st.selectbox(
                t("widgets.model"), MODELS, index=MODELS.index(str(options.get("model", MODELS[2]))), key=f"{key}-model"
            )
        )
        rank = int(st.select_slider(t("widgets.rank"), RANKS, value=int(options.get("rank", 8)), key=f"{key}-rank"))
    with right:
        tasks = int(
            st.select_slider(t("widgets.tasks"), TASKS, value=int(options.get("tasks", 10)), key=f"{key}-tasks")
        )
        targets = str(
            st.segmented_control(
                t("widgets.adapter_shelf.targets"), list(TARGETS), default="all-linear", required=True,
                format_func=lambda name: t(f"widgets.adapter_shelf.target.{TARGETS[name]}"), key=f"{key}-targets",
            )
        )  # fmt: skip
    table = architecture_of(model)
    settings = {"lora": METHODS["lora"].Config(rank=rank, target_modules=targets)}
    rows = {name: storage(table, name, settings.get(name, METHODS[name].Config()), tasks) for name in SHOWN}
    mine = rows["lora"]
    with st.container(horizontal=True, gap="large"):
        localized.metric(t("widgets.adapter_shelf.base"), decimal_text(mine.base), width="content")
        localized.metric(t("widgets.adapter_shelf.adapter"), decimal_text(mine.adapter), width="content")
        localized.metric(t("widgets.adapter_shelf.together"), decimal_text(mine.total), width="content")
        localized.metric(t("widgets.adapter_shelf.whole"), decimal_text(mine.whole), width="content")
    st.markdown(
        t("widgets.adapter_shelf.saved", share=f"{100 * mine.saved_share:.1f}")
        if mine.saved_share > 0
        else t("widgets.adapter_shelf.nothing_saved")
    )
    # (In the units of disks, as above it; the calculator's title is in those of memory.)
    title = n("widgets.adapter_shelf.title", tasks, adapters=decimal_text(mine.total), models=decimal_text(mine.whole))
    chart = dataclasses.replace(charts_memory.disk(rows, "lora"), title=title)
    compare.draw(chart, f"{key}-chart")
    with st.expander(t("widgets.numbers")):
        localized.grid(tables.readable(chart.table), hide_index=True, alt=chart.alt)
