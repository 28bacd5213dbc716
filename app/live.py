"""The run panel: one run, live or recorded, told in full, updating in place; and how a page starts a run.

    run = live.latest(cell="00_start_here/first-run")
    config = form.run_form(defaults, key="first-run", busy=run is not None and run.status in live.ACTIVE)
    if config is not None:
        run = live.start(config, key="first-run", cell="00_start_here/first-run") or run
    live.run_panel(run or live.recorded(path), key="first-run")

The curves are drawn by a component (app/components/live) that polls `/api/runs/{id}/events?after=N` and moves its
points; the page itself is not rerun while a run is on, except once at its end. A second tab, a reload or another server
shows the same run: the panel is a view of the store, and holds nothing of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app import api, charts, components, localized, state
from app.story import Story, happened, percent, plain, skill_title, slim, small
from app.tables import readable
from app.words import current, from_core, separators, t
from core.base import CLASSIFICATION, kind_of_base
from core.config import EMBEDDED, RunConfig, resolved
from core.errors import DeltalabError, NotFound
from core.runs.recorded import read
from core.units import bytes_text, count_text, seconds_text

if TYPE_CHECKING:
    from core.runs.store import Run

ACTIVE = ("queued", "running")
POLL_MS = 500
"""How often a curve asks for news while its run is on and its tab is in sight."""
KIND_WORDS = ("loss", "score", "held_out", "samples", "prompt")
"""What the curves and the table below them are called, by the ends of their keys in app/locales: another word for a
language model than for an encoder that gives labels."""
WORDS = (
    "loss_title", "score_title", "axis", "at_step", "training", "no_answer", "in_queue", "next_in_queue", "scored",
    "loading", "of_steps", "saving", "steps_a_second", "seconds_a_step", "left", "is_training", "fetching",
    "fetched", "a_second", "is_fetching", "loss_alt", "score_alt", "no_point", "no_value", "before", "after", "step",
    "after_steps", "wanted", "not_yet", "nothing", "right", "wrong",
)  # fmt: skip
"""The other words of the live curve, by the ends of their keys."""
STATUSES = ("queued", "running", "finished", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Recorded:
    """A run that was made elsewhere and written down, or a part of it: what a page may show of it.

    provenance: device, date, commit, whether the code had been changed since, versions, and the base's fingerprint.
    events: without the line of the provenance.
    """

    path: Path
    provenance: Mapping[str, Any]
    events: tuple[Mapping[str, Any], ...]

    @property
    def label(self) -> str:
        """Where it was made: 'CPU name · 2026-11-22 · commit abc1234', 'from a modified tree' where that is so."""
        return made_where(self.provenance)


def made_where(p: Mapping[str, Any]) -> str:
    """A provenance in one line, as `Recorded.label` has it."""
    commit = str(p.get("commit") or "")
    if commit and not commit.startswith("version "):  # where there is no repository, a version stands in its place
        commit = t("live.commit", commit=commit[:7])
    parts = [str(p.get("device") or ""), str(p.get("date") or "")[:10], commit]
    if p.get("changed"):
        parts.append(t("live.changed"))
    return " · ".join(part for part in parts if part)


def say(error: DeltalabError) -> None:
    """Show an error as people read it: what happened, and what to do."""
    st.error(spoken(error.sentence, error.advice), icon=":material/error:")


def spoken(sentence: str, advice: str) -> str:
    """A sentence and its advice as Markdown; what a file or a name brought into them stays plain text."""
    return f"**{plain(from_core(sentence))}** {plain(from_core(advice))}".strip()


def start(config: RunConfig, *, key: str, cell: str | None = None, title: str | None = None) -> Run | None:
    """Start a run for the visitor, once per intent: a double click is one run.

    Args:
        config: what to run.
        key: the form's key; while the run it last started with the same config is active, another click returns it.
        cell: where the run belongs ("lesson/cell id"), so that `latest` finds it again; None for the playground.
        title: a name for the Runs page; one is made from the config when None.

    Returns:
        the run, or None when it was refused: the reason is then shown where this was called.
    """
    record = json.dumps(config.to_dict(), sort_keys=True)
    asked = f"{key}-intent-{hashlib.sha256(record.encode()).hexdigest()[:12]}"
    try:
        # The token is kept before the run is made: a second click interrupts this script and finds it.
        before = st.session_state.get(asked)
        if before is None or _over(before):
            st.session_state[asked] = before = {"token": secrets.token_urlsafe(12), "run": None}
        run = state.store().create(
            state.owner(), config, key=f"{key}:{before['token']}", title=title or title_of(config), cell=cell
        )
        st.session_state[asked] = {**before, "run": run.id}
    except DeltalabError as error:
        say(error)
        return None
    return run


def _over(intent: Mapping[str, Any]) -> bool:
    """Whether the run that an intent led to has ended (or is gone)."""
    if intent["run"] is None:
        return False
    try:
        return state.store().get(intent["run"], state.owner()).status not in ACTIVE
    except NotFound:
        return True


def title_of(config: RunConfig) -> str:
    """A run's name made from its config: 'LoRA · JSON (structure)', 'BitFit · notes.jsonl · my-model'."""
    from core.methods import METHODS
    from core.world import TASKS

    task = TASKS[config.task].title if config.task in TASKS else config.task  # kept with the run, so in no language
    parts = [METHODS[config.method].TITLE, task or Path(str(config.data)).name]
    if config.base != EMBEDDED:
        parts.append(config.base.rstrip("/").rsplit("/", 1)[-1])
    return " · ".join(parts)


def task_title(name: str | None) -> str:
    """A task's title as people read it; its name when it is not one of the world's."""
    from core.world import TASKS

    return from_core(TASKS[name].title) if name in TASKS else (name or t("live.own_data"))


def latest(cell: str) -> Run | None:
    """The visitor's newest run of a cell, or None. Works after a reload, in a second tab, after a server restart."""
    runs = state.store().runs(state.owner(), limit=1, cell=cell)
    return runs[0] if runs else None


def recorded(path: Path) -> Recorded:
    """A recorded run from its file, read once per process as long as the file does not change.

    Raises:
        BadInput: there is no such file, or a line of it is wrong.
    """
    return _recorded(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=64)
def _recorded(path: Path, _stamp: int) -> Recorded:
    found = read(path)
    return Recorded(found.path, found.provenance, found.lines)


def story_of(run: Run | Recorded) -> Story:
    """The run's events in order."""
    if isinstance(run, Recorded):
        return Story.of(run.events)
    return Story.of(event for _, event in state.store().events(run.id, state.owner(), limit=200_000))


def outcome(run: Run | Recorded) -> dict[str, Any] | None:
    """The numbers of a finished run, for a reveal beside a prediction; None while it has none.

    Returns:
        {"before": 0.02, "after": 0.94, "skills_before": {…}, "skills_after": {…}, "seconds": 21.3, "trainable": 36864,
        "total": 1924096, "peak_bytes": …, "steps": 120, "recorded": False}
    """
    story = story_of(run)
    if story.end is None or story.end["kind"] != "finished" or story.after is None:
        return None
    before = story.before or {}
    return {
        "before": before.get("exact_match"),
        "after": story.after["exact_match"],
        "skills_before": dict(before.get("skills", {})),
        "skills_after": dict(story.after.get("skills", {})),
        "seconds": story.seconds,
        "trainable": story.end["trainable"],
        "total": story.end["total"],
        "peak_bytes": story.end["peak_bytes"],
        "steps": story.end["step"],
        "recorded": isinstance(run, Recorded),
    }


def run_panel(
    run: Run | Recorded,
    *,
    key: str,
    expect: Mapping[str, float] | None = None,
    actions: bool = True,
    stale: RunConfig | None = None,
    on_new: Callable[[Run], None] | None = None,
    brief: bool = False,
) -> None:
    """Everything about one run: provenance, status, curves, samples, scores, what happened in words, actions.

    When the run ends, the whole page is run again once, so that what depends on it (a reveal, a list) follows.

    Args:
        run: a run of the visitor, or a recorded one (labelled as such).
        key: distinct per page.
        expect: comparisons for the closing words, who -> exact match 0..1: {"You predicted": 0.6}.
        actions: offer cancel, resume, run again (never for a recorded run).
        stale: the settings now in the form; when they differ from the run's, the panel says that it shows older ones.
        on_new: called with the run that "Run again" started; the page is run again in any case.
        brief: leave out what follows the curves (figures, words, tables).
    """
    own = None if isinstance(run, Recorded) else run
    story = story_of(run)
    _provenance(run, story)
    if own is not None and stale is not None and own.status not in ACTIVE and differs(own, stale):
        st.caption(f":material/update: {t('run.changed', button=t('form.run'))}")
    if own is not None and own.status in ("failed", "interrupted") and own.sentence:
        box = st.error if own.status == "failed" else st.warning
        icon = ":material/error:" if own.status == "failed" else ":material/power_off:"
        box(spoken(own.sentence, own.advice), icon=icon)
    if own is not None and actions:
        _actions(own, key, on_new)
    _curve(run, story, key)
    if not brief and (own is None or own.status not in ACTIVE):
        _figures(story)
        _words(run, story, expect)
        _numbers(story, key)


def _provenance(run: Run | Recorded, story: Story) -> None:
    """Where this was made, in one line: recorded is never passed off as live."""
    if isinstance(run, Recorded):
        st.markdown(f":material/history: {t('run.recorded')} · {run.label}")
        return
    from core.methods import METHODS

    method = METHODS[run.config["method"]].TITLE if run.config.get("method") in METHODS else ""
    made = state.local_time(run.created)
    when = t("live.when", time=f"{made:%H:%M}", day=f"{made:%d}", month=t("runs.months").split()[made.month - 1])
    device = str(story.started["device"]) if story.started else ""
    parts = [f":material/person: {t('live.yours', when=when)}", method, device.upper() if device == "cpu" else device]
    st.markdown(" · ".join(p for p in parts if p))


def panel_data(run: Run | Recorded, story: Story) -> dict[str, Any]:
    """What the component is given. A run that is on is polled; anything else comes whole."""
    method = charts.method_style(
        story.method or (run.config.get("method", "") if not isinstance(run, Recorded) else "")
    )
    others = [s for s in (charts.series_style(i) for i in range(8)) if s.colour != method.colour]
    task = story.config.get("task") if story.started else None
    labels = story.classifies
    if not isinstance(run, Recorded):
        task = run.config.get("task")
        # Before it has started nothing but its base can tell.
        labels = labels or kind_of_base(run.config["base"], run.config.get("revision")) == CLASSIFICATION
    data: dict[str, Any] = {
        "every": POLL_MS,
        "missing": t("live.missing"),
        "styles": {
            "title": task_title(task) if task else t("charts.scored.labels") if labels else t("live.task"),
            "task": dataclasses.asdict(method),
            "held_out": dataclasses.asdict(dataclasses.replace(charts.BASE_STYLE, marker="diamond", dash="dash")),
            "skills": [dataclasses.asdict(s) for s in others],
        },
        "words": curve_words(labels),
        "steps": story.total_steps,
    }
    if isinstance(run, Recorded):
        line = status_line("finished", story)
        return data | {"id": run.path.name, "attempt": 0, "status": "finished", "status_line": line} | _whole(story)
    data |= {"id": run.id, "attempt": run.attempt, "status": run.status, "queue_position": run.queue_position}
    if run.status in ACTIVE and state.kept():
        return data | {"api": f"/api/runs/{run.id}/events", "steps": story.total_steps or run.steps}
    return data | {"run": api.status_of(run), "status_line": status_line(run.status, story)} | _whole(story)


def curve_words(labels: bool) -> dict[str, Any]:
    """Every word of the live curve, in the visitor's language. labels: whether the model gives labels."""
    from core.world import SKILLS

    kind = "labels" if labels else "answers"
    return {
        **{name: t(f"live.{kind}.{name}") for name in KIND_WORDS},
        **{name: t(f"live.{name}") for name in WORDS},
        "decimal": separators(current())[0],
        "skills": {name: skill_title(name) for name in SKILLS},
        "ended": {status: f"{t(f'live.status.{status}')}." for status in STATUSES},
    }


def _whole(story: Story) -> dict[str, Any]:
    started = [story.started] if story.started else []
    return {"events": slim([*started, *story.steps, *story.evaluated, *story.sampled])}


def status_line(status: str, story: Story) -> str:
    """The one line above the curves, for a run that does not move."""
    last = story.steps[-1]["step"] if story.steps else 0
    took = " " + t("live.took", time=seconds_text(story.seconds)) if story.seconds else ""
    blanks = {"step": last, "steps": story.total_steps or "?", "took": took, "status": t(f"live.status.{status}")}
    if status == "finished":
        return t("live.line.finished", **blanks)
    if status in ("cancelled", "interrupted", "failed"):
        return t("live.line.ended", **blanks) if last else t("live.line.not_begun", **blanks)
    return t("live.line.on", **blanks)


def _curve(run: Run | Recorded, story: Story, key: str) -> None:
    data = panel_data(run, story)
    result = components.component("live")(key=f"{key}-live", data=data, on_done_change=_nothing)
    if not isinstance(run, Recorded) and run.status in ACTIVE:
        if result.done is not None:
            st.rerun()
        if not state.kept():
            st.caption(t("run.no_cookie"))
            st.button(t("run.refresh"), key=f"{key}-refresh", icon=":material/refresh:")


def _nothing() -> None:
    """A trigger needs a callback to be registered; the rerun it causes is all that is wanted."""


def _actions(run: Run, key: str, on_new: Callable[[Run], None] | None) -> None:
    """Cancel while it is on; resume or run again when it is over."""
    store, owner = state.store(), state.owner()
    try:
        with st.container(horizontal=True, key=f"{key}-actions"):
            if run.status in ACTIVE:
                label = t("run.cancelling") if run.cancelling else t("run.cancel")
                if st.button(label, key=f"{key}-cancel", icon=":material/stop:", disabled=run.cancelling):
                    store.cancel(run.id, owner)
                    st.rerun()
                return
            # An interrupted run without a checkpoint begins again; that is what its advice says.
            can = run.resumable or run.status == "interrupted"
            if can and st.button(t("run.resume"), key=f"{key}-resume", icon=":material/play_arrow:"):
                store.resume(run.id, owner, key=f"resume:{run.id}:{run.attempt}")
                st.rerun()
            pressed = st.button(t("run.again"), key=f"{key}-again", icon=":material/replay:")
        if pressed:
            new = start(config_of(run), key=f"{key}-again-{run.id}", cell=run.cell, title=run.title)
            if new is not None:
                if on_new is not None:
                    on_new(new)
                st.rerun()
    except DeltalabError as error:
        say(error)


def config_of(run: Run) -> RunConfig:
    """The run's settings as a config that can be run again; its data is the copy in the run's folder."""
    record = dict(run.config)
    if record.get("data"):
        record["data"] = str(Path(run.folder) / record["data"])
    return RunConfig.from_dict(record)


def differs(run: Run, config: RunConfig) -> bool:
    """Whether `config` would be another run than `run` was (the data file is told by its name)."""
    try:
        wanted = resolved(config).to_dict()
    except DeltalabError:
        return False  # the form says what is wrong with it
    had = dict(run.config)
    for record in (wanted, had):
        record["data"] = Path(record["data"]).name if record.get("data") else None
    return bool(json.dumps(wanted, sort_keys=True) != json.dumps(had, sort_keys=True))


def _figures(story: Story) -> None:
    """The run in four numbers."""
    after, before, started, end = story.after, story.before, story.started, story.end
    if started is None:
        return
    with st.container(horizontal=True, gap="large"):
        if after is not None and after["exact_match"] is not None:
            gain = None
            if before is not None and before["exact_match"] is not None:
                gain = t("run.points", points=f"{100 * (after['exact_match'] - before['exact_match']):+.0f}")
            name = t("run.accuracy") if story.classifies else t("run.exact_match")
            still = gain == t("run.points", points="+0")
            localized.metric(
                name, percent(after["exact_match"]), gain, width="content",
                delta_color="off" if still else "normal", delta_arrow="off" if still else "auto",
            )  # fmt: skip
            if after.get("macro_f1") is not None:
                localized.metric(t("run.macro"), percent(after["macro_f1"]), width="content")
        elif after is not None and after["loss"] is not None:
            known = before is not None and before["loss"] is not None
            change = f"{after['loss'] - before['loss']:+.2f}" if before is not None and known else None
            localized.metric(
                t("run.held_out_loss"), f"{after['loss']:.2f}", change, delta_color="inverse", width="content"
            )
        share = started["trainable"] / started["total"] if started["total"] else 0
        localized.metric(
            t("run.trained"),
            count_text(started["trainable"]),
            t("run.of_model", share=small(share)),
            delta_color="off",
            delta_arrow="off",
            width="content",
        )
        if story.seconds:
            rate = t("run.rate", rate=f"{len(story.steps) / story.seconds:.1f}") if story.steps else None
            localized.metric(
                t("run.time"),
                seconds_text(story.seconds),
                rate,
                delta_color="off",
                delta_arrow="off",
                width="content",
            )
        if end is not None and end.get("peak_bytes"):
            # (Measured in a plain step; the faster form of all others takes less.)
            quick = end.get("others") in ("written out", "with kernels")
            localized.metric(
                t("run.peak"), bytes_text(end["peak_bytes"]), t("run.at_most") if quick else None,
                width="content", delta_color="off", delta_arrow="off", help=t("run.peak_how") if quick else None,
            )  # fmt: skip


def _words(run: Run | Recorded, story: Story, expect: Mapping[str, float] | None) -> None:
    """What happened, in words made from the data."""
    task = story.config.get("task")
    sentences = happened(story, expect=expect, title=task_title(task) if task else "")
    notes = list((story.started or {}).get("notes", ()))
    if sentences:
        st.markdown(f"##### {t('run.happened')}")
        # A number and its sign stay on one line.
        st.markdown("\n".join(f"- {s}" for s in sentences).replace(" %", "\u00a0%"))
    for note in notes:
        st.caption(f":material/info: {plain(from_core(note))}")


@st.fragment
def _numbers(story: Story, key: str) -> None:
    """The same as tables and CSV, drawn when they are asked for: a lesson has many of them, and few are opened."""
    if not story.steps and not story.evaluated:
        return
    box = st.expander(t("run.numbers"), key=f"{key}-numbers", on_change="rerun")
    if not box.open:
        return
    with box:
        scores, steps = charts.scores_table(story), charts.steps_table(story)
        if not scores.empty:
            localized.grid(readable(scores.round(3)), hide_index=True, alt=t("run.scores_alt"))
        localized.grid(readable(steps), hide_index=True, height=240, alt=t("run.steps_alt"))
        with st.container(horizontal=True):
            st.download_button(
                t("run.scores_csv"), charts.csv(scores), "scores.csv", "text/csv", key=f"{key}-scores-csv",
                icon=":material/download:", on_click="ignore",
            )  # fmt: skip
            st.download_button(
                t("run.steps_csv"), charts.csv(steps), "steps.csv", "text/csv", key=f"{key}-steps-csv",
                icon=":material/download:", on_click="ignore",
            )  # fmt: skip
