"""Take away: one run as files to be run elsewhere (all of it, its scripts, its notebook, its curves), and as a link."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import streamlit as st

from app import address, api, chat, live, state
from app.story import plain
from app.words import n, t
from core.errors import DeltalabError
from core.export.link import encode, parameters
from core.units import bytes_text

if TYPE_CHECKING:
    from core.export.bundle import Export
    from core.runs.store import Run

PARTS = ("bundle", "script", "notebook", "tensorboard", "adapter")
TRAINERS = ("transformers", "sft")


def link(run: Run) -> None:
    """The way here from a run."""
    st.page_link(
        state.page("ship"), label=t("takeaway.link"), icon=":material/archive:",
        query_params={"run": run.id, "do": "take"},
    )  # fmt: skip


def section(run: Run) -> None:
    """Draw the choice of a part, what is in it, its download, and what to type then; and the run's link."""
    part = _part()
    st.markdown(t(f"takeaway.parts.{part}.about"))
    trainer, with_data = "transformers", False
    with st.container(horizontal=True, vertical_alignment="bottom", gap="large"):
        if part in ("script", "notebook") and not chat.gives_labels(run):  # TRL trains language models
            trainer = str(
                st.segmented_control(
                    t("takeaway.with"), TRAINERS, format_func=lambda name: t(f"takeaway.trainers.{name}"),
                    default="transformers", required=True, key="take-trainer",
                )
            )  # fmt: skip
        if run.config.get("data") and part in ("bundle", "script", "notebook"):
            with_data = st.toggle(t("takeaway.rows"), key="take-data", help=t("takeaway.rows_help"))
    try:
        with st.spinner(t("takeaway.looking"), show_time=True):
            made = _listing(run.id, run.attempt, part, trainer, with_data, state.owner())
    except DeltalabError as error:
        live.say(error)
        return
    _downloads(run, made, part, trainer, with_data)
    st.subheader(t("takeaway.as_link"), anchor=False)
    _address(run)


def _part() -> str:
    first = PARTS[0]
    return str(
        st.segmented_control(
            t("takeaway.what"), PARTS, format_func=lambda name: t(f"takeaway.parts.{name}.title"), key="take",
            required=True, default=address.linked("take", PARTS, first), on_change=address.keep_in_link,
            args=("take", first), label_visibility="collapsed",
        )
    )  # fmt: skip


def _downloads(run: Run, made: Export, part: str, trainer: str, with_data: bool) -> None:
    from core.export.bundle import commands, root_of

    query = urlencode(
        ({"trainer": trainer} if trainer != "transformers" else {}) | ({"data": "1"} if with_data else {})
    )
    where = f"/api/runs/{run.id}/export/{part}.zip" + (f"?{query}" if query else "")
    st.link_button(
        n("takeaway.download", len(made.files), size=bytes_text(made.size_bytes)), where, type="primary",
        icon=":material/download:",
    )  # fmt: skip
    for note in made.notes:
        st.caption(f":material/info: {plain(note)}")
    st.markdown(t("takeaway.then"))
    st.code(commands(made, api.export_name(run, part), root_of(run.id, part), trainer), language=None, wrap_lines=True)
    with st.expander(t("takeaway.files"), key="take-files"):
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
    own = f" {t('takeaway.own_file')}" if run.config.get("data") else ""
    st.caption(f"{t('takeaway.link_why')}{own}")
    label = t("runs.in_playground")
    st.page_link(state.page("playground"), label=label, icon=":material/science:", query_params=query)


def playground_link(run: Run) -> dict[str, str]:
    """Query parameters with which the Playground shows this run's settings."""
    try:
        config = live.config_of(run)
    except DeltalabError:
        return {}
    return parameters(config)
