"""What stays on disk when a model is fine-tuned for many tasks: whole models, or one base and small files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st

from app import charts, charts_lessons_a, compare
from app.schema import Rule
from app.words import t
from core.anatomy import table_of
from core.claims import decimal_text
from core.memory.storage import storage
from core.methods import METHODS

NAME = "task-storage"
OPTIONS = {"model": Rule("text"), "tasks": Rule("int"), "rank": Rule("int")}

MODELS = ("embedded", "Llama-3.2-1B", "Llama-3.1-8B", "Llama-3.1-70B")
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST = 100


def render(options: dict[str, Any], key: str) -> None:
    """Model, number of tasks and LoRA's rank."""
    columns = st.columns(3)
    with columns[0]:
        start = MODELS.index(str(options.get("model", "Llama-3.1-70B")))
        model = str(
            st.selectbox(
                t("widgets.model"), MODELS, index=start, key=f"{key}-model",
                format_func=lambda m: t("widgets.course_model") if m == "embedded" else m,
            )
        )  # fmt: skip
    with columns[1]:
        tasks = int(st.slider(t("widgets.tasks"), 1, MOST, int(options.get("tasks", 10)), key=f"{key}-tasks"))
    with columns[2]:
        usual = int(options.get("rank", 8))
        rank = int(st.select_slider(t("widgets.task_storage.rank"), RANKS, value=usual, key=f"{key}-rank"))
    table = table_of(model)
    lora = replace(METHODS["lora"].Config(), rank=rank)
    steps = sorted({1, tasks, *range(1, tasks, max(1, tasks // 20))})
    rows = {
        "full": [storage(table, "full", METHODS["full"].Config(), n) for n in steps],
        "lora": [storage(table, "lora", lora, n) for n in steps],
    }
    name = t("widgets.task_storage.this_model") if model == "embedded" else model
    chart = charts_lessons_a.disks(rows, name)
    compare.draw(chart, f"{key}-lines")
    each = rows["lora"][-1].adapter
    whole = decimal_text(rows["full"][0].base)
    st.caption(t("widgets.task_storage.told", model=whole, adapter=decimal_text(each)))
    st.download_button(
        t("shared.table_csv"), charts.csv(chart.table), "disks.csv", "text/csv", key=f"{key}-csv",
        icon=":material/download:", on_click="ignore",
    )  # fmt: skip
