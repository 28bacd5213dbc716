"""Take away: one run as files to be run elsewhere (all of it, its scripts, its notebook, its curves), and as a link."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import streamlit as st

from app import address, api, chat, live, state
from app.story import plain
from core.errors import DeltalabError
from core.export.link import encode, parameters
from core.units import bytes_text

if TYPE_CHECKING:
    from core.export.bundle import Export
    from core.runs.store import Run

PARTS = {
    "bundle": ("Everything", "What was learnt, the settings, the curves, scripts and notebook, where it was made, a "
               "model card, and checksums."),
    "script": ("Script", "The run again without Deltalab: transformers' Trainer and PEFT, or TRL's SFTTrainer; on your "
               "own model and data, or on several GPUs with accelerate."),
    "notebook": ("Notebook", "The same as cells to be read and run one by one, with questions before and after."),
    "tensorboard": ("Curves", "Loss, learning rate, gradient norm and scores as TensorBoard event files."),
    "adapter": ("Adapter", "What was learnt, in the format that PEFT reads, with its model card."),
}  # fmt: skip
TRAINERS = {"transformers": "transformers' Trainer", "sft": "TRL's SFTTrainer"}


def link(run: Run) -> None:
    """The way here from a run."""
    st.page_link(
        state.page("ship"), label="Take it away", icon=":material/archive:",
        query_params={"run": run.id, "do": "take"},
    )  # fmt: skip


def section(run: Run) -> None:
    """Draw the choice of a part, what is in it, its download, and what to type then; and the run's link."""
    part = _part()
    st.markdown(PARTS[part][1])
    trainer, with_data = "transformers", False
    with st.container(horizontal=True, vertical_alignment="bottom", gap="large"):
        if part in ("script", "notebook") and not chat.gives_labels(run):  # TRL trains language models
            trainer = str(
                st.segmented_control(
                    "With", list(TRAINERS), format_func=TRAINERS.__getitem__, default="transformers", required=True,
                    key="take-trainer",
                )
            )  # fmt: skip
        if run.config.get("data") and part in ("bundle", "script", "notebook"):
            with_data = st.toggle(
                "With the rows of my own file", key="take-data", help="Without them the script wants a file named."
            )
    try:
        with st.spinner("Looking at what is in it", show_time=True):
            made = _listing(run.id, run.attempt, part, trainer, with_data, state.owner())
    except DeltalabError as error:
        live.say(error)
        return
    _downloads(run, made, part, trainer, with_data)
    st.subheader("The run as a link", anchor=False)
    _address(run)


def _part() -> str:
    first = next(iter(PARTS))
    return str(
        st.segmented_control(
            "What to take", list(PARTS), format_func=lambda name: PARTS[name][0], key="take", required=True,
            default=address.linked("take", list(PARTS), first), on_change=address.keep_in_link, args=("take", first),
            label_visibility="collapsed",
        )
    )  # fmt: skip


def _downloads(run: Run, made: Export, part: str, trainer: str, with_data: bool) -> None:
    from core.export.bundle import commands, root_of

    query = urlencode(
        ({"trainer": trainer} if trainer != "transformers" else {}) | ({"data": "1"} if with_data else {})
    )
    where = f"/api/runs/{run.id}/export/{part}.zip" + (f"?{query}" if query else "")
    st.link_button(
        f"Download the zip ({len(made.files)} files, {bytes_text(made.size_bytes)} unpacked)", where, type="primary",
        icon=":material/download:",
    )  # fmt: skip
    for note in made.notes:
        st.caption(f":material/info: {plain(note)}")
    st.markdown("Then, in the folder it was saved in:")
    st.code(commands(made, api.export_name(run, part), root_of(run.id, part), trainer), language=None, wrap_lines=True)
    with st.expander("What is in it", key="take-files"):
        st.code("\n".join(_sizes(made)), language=None, wrap_lines=True)


def _sizes(made: Export) -> list[str]:
    rows = [(name, len(c) if isinstance(c, bytes) else c.stat().st_size) for name, c in made.files.items()]
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {bytes_text(size):>9}" for name, size in rows]


@st.cache_data(show_spinner=False, ttl=300, max_entries=32)
def _listing(run_id: str, attempt: int, part: str, trainer: str, with_data: bool, owner: str) -> Export:
    """What the zip will hold. Kept for a while: writing a run's rows in its order takes a second."""
    from core.export.bundle import export_of

    return export_of(state.store(), run_id, owner, part=part, trainer=trainer, with_data=with_data)


def _address(run: Run) -> None:
    """A link that shows the run's settings in a Playground, here or elsewhere."""
    query = playground_link(run)
    try:
        kept = encode(live.config_of(run))
    except DeltalabError as error:  # its settings are not allowed any more
        live.say(error)
        return
    here = urlsplit(st.context.url or "")
    base = f"{here.scheme}://{here.netloc}/playground" if here.netloc else "/playground"
    st.code(f"{base}?{kept}", language=None, wrap_lines=True)
    own = " The own file is named in it and has to be chosen again." if run.config.get("data") else ""
    st.caption(
        "Whoever opens it sees these settings in the Playground and can run them. On another machine put that "
        f"machine's address in front.{own}"
    )
    st.page_link(
        state.page("playground"), label="Open in the Playground", icon=":material/science:", query_params=query
    )


def playground_link(run: Run) -> dict[str, str]:
    """Query parameters with which the Playground shows this run's settings."""
    try:
        config = live.config_of(run)
    except DeltalabError:
        return {}
    return parameters(config)
