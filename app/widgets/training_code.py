"""The code of a planned training, for transformers and PEFT, made from the choices; to copy or download."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import live
from app.schema import Rule
from app.words import t

NAME = "training-code"
OPTIONS = {"model": Rule("text"), "method": Rule("word"), "card": Rule("text"), "length": Rule("int")}

METHODS = ("full", "lora", "qlora")
TITLES = {"full": "Full", "lora": "LoRA", "qlora": "QLoRA"}


def render(options: dict[str, Any], key: str) -> None:
    """Model and method to choose; the code, a download, and the command that calculates the same."""
    from core.catalog import architecture_of, gpu, models
    from core.catalog import model as row_of
    from core.config import RunConfig
    from core.errors import DeltalabError
    from core.memory import exporting
    from core.memory.compare import device_of
    from core.memory.setup import Setup

    names = [row.name for row in models() if row.is_decoder]
    first, second = st.columns(2, gap="medium")
    start = names.index(options.get("model", "Llama-3.1-8B"))
    model = first.selectbox(t("widgets.model"), names, index=start, key=f"{key}-model")
    with second:
        method = st.segmented_control(
            t("widgets.method"), METHODS, default=options.get("method", "qlora"), required=True, key=f"{key}-method",
            format_func=TITLES.__getitem__,
        )  # fmt: skip
    card, length = options.get("card", "RTX 4090"), options.get("length", 1024)
    try:
        setup = Setup.of(RunConfig(method=str(method)), 1, length, device_of(gpu(card)))
        text = exporting.code(row_of(str(model)).hub, architecture_of(str(model)), setup)
        said = exporting.command(str(model), setup, card)
    except DeltalabError as error:
        live.say(error)
        return
    st.code(text, language="python", wrap_lines=True)
    st.download_button(
        t("widgets.training_code.download"), text, "memory_setup.py", "text/x-python",
        key=f"{key}-download", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    st.caption(t("widgets.training_code.terminal"))
    st.code(said, language="bash", wrap_lines=True)
