"""Inside: what a finished run changed in its model, matrix by matrix and token by token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app import compare, findings, live, probing, state
from app.address import keep_in_link, linked
from core.methods import METHODS
from core.probes.delta import without
from core.probes.example import recorded

if TYPE_CHECKING:
    from core.runs.store import Run

MOST_RUNS = 200
SIDES = {"input": "What the matrices read", "output": "What they write"}
SIDE = "input"
LONGEST = 4000


def render() -> None:
    """Draw the page."""
    st.title("Inside", anchor=False)
    st.markdown(
        "Fine-tuning adds a change to the weights: **W = W₀ + ΔW**. Here a finished run is taken apart: how far each "
        "weight moved, in how many directions, which of them the task needs, and what became of the probability of "
        "each token."
    )
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
    st.info("There is no finished run to look into yet. One takes about half a minute.", icon=":material/info:")
    with st.container(horizontal=True):
        st.page_link(state.page("start-here"), label="Start here", icon=":material/arrow_forward:")
        st.page_link(state.page("playground"), label="Playground", icon=":material/science:")
    _example()


def _example() -> None:
    """A run that was taken apart before, shown at once."""
    found = recorded()
    results, (config, other) = found["results"], found["configs"]
    method = config["method"]
    st.divider()
    st.markdown(
        f":material/history: **Recorded**, not your run · {METHODS[method].TITLE} on {live.task_title(config['task'])} "
        f"· {live.made_where(found['provenance'])}"
    )
    _spectrum_header()
    findings.show_spectrum(results["spectrum"], "recorded")
    _truncation_header()
    findings.show_truncation(results["truncation"], "recorded", method)
    _tokens_header()
    findings.show_tokens(results["tokens"], "recorded", method)
    _overlap_header()
    st.caption(
        f"The other run: {METHODS[other['method']].TITLE} at rank {other['settings']['rank']} instead of "
        f"{config['settings']['rank']}, seed {other['seed']} instead of {config['seed']}."
    )
    side = st.segmented_control(
        "Directions", list(SIDES), format_func=SIDES.__getitem__, required=True, key="recorded-side", default="output"
    )
    findings.show_overlap(results[side or "output"], f"recorded-{side}")


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
        st.warning("The run in this address is not among your finished ones; the newest is shown.")
    run = _pick("run", "Run", runs)
    about = METHODS[run.config["method"]]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{about.TITLE}: {about.FORMULA}")
        st.page_link(
            state.page("runs"), label="Open the run", icon=":material/arrow_forward:", query_params={"run": run.id}
        )
    return run


# --- norms and spectrum -----------------------------------------------------------------------------------------------


def _spectrum_header() -> None:
    """What the first part is about."""
    st.header("How far it moved, and in how many directions", anchor="spectrum")


def _spectrum(run: Run) -> None:
    _spectrum_header()
    probing.section(
        "spectrum", [run], {}, key=f"inside-{run.id}", show=partial(findings.show_spectrum, key=run.id),
        label="Take the change apart", takes="about ten seconds on the embedded base",
    )  # fmt: skip


# --- truncation -------------------------------------------------------------------------------------------------------


def _truncation_header() -> None:
    """What the second part is about."""
    st.header("How much of it the task needs", anchor="truncation")
    st.markdown(
        "Keep only the *k* strongest directions of every changed matrix, throw the rest away, and score the model "
        "again on the items that the run held out."
    )


def _truncation(run: Run) -> None:
    _truncation_header()
    probing.section(
        "truncation", [run], {}, key=f"inside-{run.id}",
        show=partial(findings.show_truncation, key=run.id, method=run.config["method"]),
        label="Cut it and score it", takes="about a minute on the embedded base",
    )  # fmt: skip


# --- tokens -----------------------------------------------------------------------------------------------------------


def _tokens_header() -> None:
    """What the third part is about."""
    st.header("What became of each token", anchor="tokens")
    st.markdown(
        "Base and trained model read the same answer, token by token. How likely did each find the token that stands "
        "there?"
    )


def _tokens(run: Run) -> None:
    _tokens_header()
    prompt = st.text_input(
        "A prompt of your own", key="prompt", max_chars=LONGEST, placeholder="Empty: three of the run's held-out items",
        help="The answer is then what the trained model says now.", bind="query-params",
    )  # fmt: skip
    probing.section(
        "tokens", [run], {"prompt": (prompt or "").strip()}, key=f"inside-{run.id}",
        show=partial(findings.show_tokens, key=run.id, method=run.config["method"]),
        label="Read it with both", takes="some seconds",
    )  # fmt: skip


# --- overlap ----------------------------------------------------------------------------------------------------------


def _overlap_header() -> None:
    """What the last part is about."""
    st.header("Did another run find the same directions?", anchor="overlap")
    st.markdown(
        "Take the strongest directions of two runs and ask how much of one lies inside the other: φ is 1 when they are "
        "the same, 0 when they have nothing in common (LoRA, section 7.2). In few dimensions much overlap is mere "
        "chance, so that stands beside it.\n\nTry full against LoRA, two seeds, two ranks. Of LoRA, look at both "
        "sides: what its matrices read is chosen by A, which begins at random and differs from seed to seed; what they "
        "write is chosen by B, which begins at zero and has nothing but the task to learn from."
    )


def _overlap(run: Run, runs: Sequence[Run]) -> None:
    _overlap_header()
    others = [r for r in runs if r.id != run.id and comparable(r, run)]
    if not others:
        st.caption("It takes a second finished run on the same base whose method changes weights.")
        return
    left, right = st.columns(2, gap="medium")
    with left:
        other = _pick("other", "Other run", others)
    with right:
        side = st.segmented_control(
            "Directions", list(SIDES), format_func=SIDES.__getitem__, required=True, key="side",
            default=linked("side", list(SIDES), SIDE), on_change=keep_in_link, args=("side", SIDE),
        )  # fmt: skip
    probing.section(
        "overlap", [run, other], {"side": side or SIDE}, key=f"inside-{run.id}-{other.id}",
        show=partial(findings.show_overlap, key=f"{run.id}-{other.id}"), label="Compare the two",
        takes="about ten seconds on the embedded base",
    )  # fmt: skip


def comparable(one: Run, other: Run) -> bool:
    """Whether two runs began from the same base, as far as their settings say, and the first has a ΔW."""
    return without(one.config["method"]) is None and all(
        one.config.get(name) == other.config.get(name) for name in ("base", "revision")
    )
