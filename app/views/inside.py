"""Inside: what a finished run changed in its model, matrix by matrix and token by token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app import chat, compare, findings, live, probing, state
from app.address import keep_in_link, linked
from app.words import t
from core.methods import METHODS
from core.probes.delta import without
from core.probes.example import recorded

if TYPE_CHECKING:
    from core.runs.store import Run

MOST_RUNS = 200
SIDES = ("input", "output")
SIDE = "input"
LONGEST = 4000


def render() -> None:
    """Draw the page."""
    st.title(t("page.inside.title"), anchor=False)
    st.markdown(t("inside.intro"))
    runs = finished()
    if not runs:
        _nothing_yet()
        return
    run = _chosen(runs)
    sentence = without(run.config["method"])
    _spectrum(run)
    if sentence is None:
        _truncation(run)
    _tokens(run)
    if sentence is None:
        _overlap(run, runs)


def finished() -> list[Run]:
    """The visitor's runs that have learnt something, the newest first."""
    return [r for r in state.store().runs(state.owner(), limit=MOST_RUNS) if r.adapter is not None and not r.active]


def _nothing_yet() -> None:
    st.info(t("inside.nothing"), icon=":material/info:")
    with st.container(horizontal=True):
        st.page_link(state.page("start-here"), label=t("inside.start_here"), icon=":material/arrow_forward:")
        st.page_link(state.page("playground"), label=t("page.playground.title"), icon=":material/science:")
    _example()


def _example() -> None:
    """A run that was taken apart before, shown at once."""
    found = recorded()
    results, (config, other) = found["results"], found["configs"]
    method = config["method"]
    st.divider()
    st.markdown(
        f":material/history: {t('run.recorded')} · "
        f"{t('inside.on_task', method=METHODS[method].TITLE, task=live.task_title(config['task']))} · "
        f"{live.made_where(found['provenance'])}"
    )
    _spectrum_header()
    findings.show_spectrum(results["spectrum"], "recorded")
    _truncation_header()
    findings.show_truncation(results["truncation"], "recorded", method)
    _tokens_header()
    findings.show_tokens(results["tokens"], "recorded", method)
    _overlap_header()
    st.caption(
        t(
            "inside.recorded_other", method=METHODS[other["method"]].TITLE, rank=other["settings"]["rank"],
            first_rank=config["settings"]["rank"], seed=other["seed"], first_seed=config["seed"],
        )
    )  # fmt: skip
    side = st.segmented_control(
        t("inside.directions"), list(SIDES), format_func=_side, required=True, key="recorded-side", default="output"
    )
    findings.show_overlap(results[side or "output"], f"recorded-{side}")


def _side(name: str) -> str:
    return t(f"inside.sides.{name}")


def _pick(name: str, label: str, runs: Sequence[Run]) -> Run:
    """A choice among runs, the first of them at first, that the address keeps by id."""
    by_id, labels = {run.id: run for run in runs}, compare.named(runs)
    ids = list(by_id)
    chosen = st.selectbox(
        label, ids, index=ids.index(linked(name, ids, ids[0])), format_func=labels.__getitem__, key=name,
        on_change=keep_in_link, args=(name, ""),
    )  # fmt: skip
    return by_id[str(chosen)]


def _chosen(runs: Sequence[Run]) -> Run:
    wanted = st.query_params.get("run")
    if wanted and wanted not in {run.id for run in runs}:
        st.warning(t("inside.not_yours"))
    run = _pick("run", t("inside.run"), runs)
    about = METHODS[run.config["method"]]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{about.TITLE}: {about.FORMULA}")
        st.page_link(
            state.page("runs"), label=t("inside.open"), icon=":material/arrow_forward:", query_params={"run": run.id}
        )
    return run


# --- norms and spectrum -----------------------------------------------------------------------------------------------


def _spectrum_header() -> None:
    """What the first part is about."""
    st.header(t("inside.spectrum"), anchor="spectrum")


def _spectrum(run: Run) -> None:
    _spectrum_header()
    probing.section(
        "spectrum", [run], {}, key=f"inside-{run.id}", show=partial(findings.show_spectrum, key=run.id),
        label=t("inside.spectrum_start"), takes=t("inside.ten_seconds"),
    )  # fmt: skip


# --- truncation -------------------------------------------------------------------------------------------------------


def _truncation_header() -> None:
    """What the second part is about."""
    st.header(t("inside.truncation"), anchor="truncation")
    st.markdown(t("inside.truncation_why"))


def _truncation(run: Run) -> None:
    _truncation_header()
    probing.section(
        "truncation", [run], {}, key=f"inside-{run.id}",
        show=partial(findings.show_truncation, key=run.id, method=run.config["method"]),
        label=t("inside.truncation_start"), takes=t("inside.a_minute"),
    )  # fmt: skip


# --- tokens -----------------------------------------------------------------------------------------------------------


def _tokens_header() -> None:
    """What the third part is about."""
    st.header(t("inside.tokens"), anchor="tokens")
    st.markdown(t("inside.tokens_why"))


def _tokens(run: Run) -> None:
    what = "label" if chat.gives_labels(run) else "token"
    if what == "token":
        _tokens_header()
    else:
        st.header(t("inside.labels"), anchor="tokens")
        st.markdown(t("inside.labels_why"))
    asked = "prompt" if what == "token" else "text"
    prompt = st.text_input(
        t(f"inside.{asked}"), key="prompt", max_chars=LONGEST, placeholder=t(f"inside.{asked}_empty"),
        help=t(f"inside.{asked}_help"), bind="query-params",
    )  # fmt: skip
    probing.section(
        "tokens", [run], {"prompt": (prompt or "").strip()}, key=f"inside-{run.id}",
        show=partial(findings.show_tokens, key=run.id, method=run.config["method"]),
        label=t("inside.tokens_start"), takes=t("inside.some_seconds"),
    )  # fmt: skip


# --- overlap ----------------------------------------------------------------------------------------------------------


def _overlap_header() -> None:
    """What the last part is about."""
    st.header(t("inside.overlap"), anchor="overlap")
    st.markdown(f"{t('inside.overlap_why')}\n\n{t('inside.overlap_try')}")


def _overlap(run: Run, runs: Sequence[Run]) -> None:
    _overlap_header()
    others = [r for r in runs if r.id != run.id and comparable(r, run)]
    if not others:
        st.caption(t("inside.no_other"))
        return
    left, right = st.columns(2, gap="medium")
    with left:
        other = _pick("other", t("inside.second"), others)
    with right:
        side = st.segmented_control(
            t("inside.directions"), list(SIDES), format_func=_side, required=True, key="side",
            default=linked("side", list(SIDES), SIDE), on_change=keep_in_link, args=("side", SIDE),
        )  # fmt: skip
    probing.section(
        "overlap", [run, other], {"side": side or SIDE}, key=f"inside-{run.id}-{other.id}",
        show=partial(findings.show_overlap, key=f"{run.id}-{other.id}"), label=t("inside.overlap_start"),
        takes=t("inside.ten_seconds"),
    )  # fmt: skip


def comparable(one: Run, other: Run) -> bool:
    """Whether two runs began from the same base, as far as their settings say, and the first has a ΔW."""
    return without(one.config["method"]) is None and all(
        one.config.get(name) == other.config.get(name) for name in ("base", "revision")
    )
