"""What a run starts from, as it is chosen on a page: the base, and a file of one's own.

    base, facts, place = run_choice.base()       # None while there is none that can be used
    given = run_choice.own_file(encoder=False)   # an upload, or what another page has made; None until there is one

Both keep what is chosen in the address.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from app import data, live, state, uploads
from app.address import keep_in_link, linked
from app.story import plain
from app.words import t
from core.base import CLASSIFICATION
from core.config import EMBEDDED
from core.errors import DeltalabError
from core.units import count_text

BASES = (EMBEDDED, "folder", "hub")
FOLDER_EXAMPLE, HUB_EXAMPLE, REVISION_EXAMPLE = "/models/my-model", "HuggingFaceTB/SmolLM2-135M-Instruct", "main"


def base(*, inside: bool = False) -> tuple[str | None, dict[str, Any], Any]:
    """The base, None while it cannot be used; its facts; and where models that fit are to be listed, or None.

    Args:
        inside: of something that has a heading of its own; nothing is proposed there.
    """
    if not inside:
        st.subheader(t("playground.base"), anchor=False)
    kind = st.segmented_control(
        t("playground.where_from"),
        BASES,
        format_func=lambda kind: t(f"playground.bases.{kind}"),
        default=linked("base", list(BASES), EMBEDDED),
        required=True,
        key="base",
        label_visibility="collapsed",
        on_change=keep_in_link,
        args=("base", EMBEDDED),
    )
    source, revision, place = EMBEDDED, "", None
    if kind == "folder":
        source = _named("folder", t("playground.folder"), t("playground.folder_help"), FOLDER_EXAMPLE)
    elif kind == "hub":
        source = _named("hub", t("playground.bases.hub"), t("playground.hub_help"), HUB_EXAMPLE)
        if source:
            revision = _named("revision", t("playground.revision"), t("playground.revision_help"), REVISION_EXAMPLE)
        if not inside:
            # Filled once the settings are drawn, which memory and time depend on.
            place = st.expander(t("playground.fitting"), expanded=not source, key="proposals")
    if not source:
        st.caption(t("playground.unnamed"))
        return None, {}, place
    with st.spinner(t("playground.looking"), show_time=True):
        facts = facts_of(source, revision or None)
    if "error" in facts:
        live.say(DeltalabError(*facts["error"]))
        return None, {}, place
    parts = [str(facts.get("name") or source)]
    if facts.get("model_type"):
        encoder = facts.get("task") == CLASSIFICATION
        kind = str(facts["model_type"])
        parts.append(t("playground.encoder", kind=kind) if encoder else kind)
    if facts.get("parameters"):
        parts.append(t("playground.parameters", count=count_text(facts["parameters"])))
    if facts.get("layers"):
        parts.append(t("playground.layers", count=facts["layers"]))
    if facts.get("context"):
        parts.append(t("playground.context", count=facts["context"]))
    if facts.get("few_bits"):
        parts.append(t("playground.few_bits", format=facts["few_bits"]["title"]))
    st.caption(" · ".join(parts))
    if source == EMBEDDED:
        st.caption(t("playground.embedded"))
    return source, facts, place


def _named(key: str, label: str, meaning: str, example: str) -> str:
    """What is typed into a field that the address keeps."""
    typed = st.text_input(label, key=key, placeholder=example, help=meaning, bind="query-params")
    return (typed or "").strip()


@st.cache_data(show_spinner=False, ttl=120, max_entries=64)
def facts_of(source: str, revision: str | None = None) -> dict[str, Any]:
    """What is known of a base without loading it, and `asked_revision`; {"error": (sentence, advice)} when it cannot be
    used.

    Both are kept for a while: the hub is not asked again at every move of a knob.
    """
    from core.base import describe_base

    try:
        return describe_base(source, revision) | {"asked_revision": revision}
    except DeltalabError as error:
        return {"error": (error.sentence, error.advice)}


def own_file(*, encoder: bool) -> Any:
    """The visitor's file: one that the address names, else an upload; None until there is one.

    Args:
        encoder: the base reads texts with labels.
    """
    made = _made()
    if made is not None:
        return made
    given = st.file_uploader(
        t("playground.file"),
        type=data.ENDINGS,
        key="upload",
        help=t("playground.file_help"),
    )
    if given is None:
        st.caption(data.formats(labelled=encoder))
    return given


@dataclass(frozen=True)
class Made:
    """A file that another page has made for the visitor, in the form of an upload."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def getvalue(self) -> bytes:
        return self.path.read_bytes()


def _made() -> Made | None:
    """The file that the address names, if it is the visitor's and still there."""
    path = uploads.kept(state.owner(), st.query_params.get("kept", ""))
    if path is None:
        return None
    left, right = st.columns([3, 2], vertical_alignment="center")
    left.markdown(f":material/description: {t('playground.made', file=plain(path.name))}")
    right.button(t("playground.another_file"), key="another-file", icon=":material/upload_file:", on_click=_forget_made)
    return Made(path)


def _forget_made() -> None:
    """A button's callback: an upload takes the file's place."""
    st.query_params.pop("kept", None)
