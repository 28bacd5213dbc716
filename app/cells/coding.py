"""Code that a learner edits and runs: the editor, their kernel, and what the last run said. Code and exercise use it.

The editor (app/components/editor) tells three things: `code`, the draft, a moment after the last key; `act`, a button
that was pressed; `look`, that it is time to look again at a run that is on. Only the cell's fragment is run for these,
so the rest of the page stands still while code is edited, runs and answers.

What is kept of a cell: "code" (the draft, absent while it is the lesson's), and of its last run "run" (its id), "ran"
(a digest of the code), "outputs" (shortened), "end", "sentence", "seconds".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import streamlit as st

from app import components, live, state
from app.cells import outputs as drawing
from app.cells.context import Context
from app.index import Cell
from app.words import from_core, t
from core.errors import DeltalabError
from core.notebook.kernel import MOST_CODE, Execution
from core.notebook.outputs import printed, settled, shortened
from core.units import seconds_text

KEPT_BYTES = 24_000
"""Of a cell's outputs, kept in the store: the progress of a learner is read with every page."""
KEPT_CODE = 36_000
SECONDS = 30
"""How long a cell may run that says nothing else."""
SPOKEN = 300
"""Letters of the output that a screen reader is told without being asked."""
BUTTONS = ("run", "stop", "original", "restart", "starting")
"""What the editor itself has words on."""


@dataclass(frozen=True)
class Task:
    """What an editor is for.

    original: the code that the lesson comes with. seconds: how long it may run. check: a lesson's checks.py and the
    function in it; with one, to run is to check. before: called with the kept state and the code when it is run,
    after: with the kept state and the execution when it is over; both return the new kept state.
    """

    original: str
    seconds: float = SECONDS
    check: tuple[str, str] | None = None
    before: Callable[[dict[str, Any], str], dict[str, Any]] | None = None
    after: Callable[[dict[str, Any], Execution], dict[str, Any]] | None = None


def digest(code: str) -> str:
    """What tells a piece of code from another; spaces at the ends of lines do not."""
    text = "\n".join(line.rstrip() for line in code.strip().splitlines())
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def allowed() -> bool:
    """Whether code may run here; the reason is shown when it may not."""
    found = state.code_permission()
    if not found.on:
        st.caption(f":material/lock: {from_core(found.reason)}")
    return found.on


def read_only(code: str) -> None:
    """The code to be read, where it cannot be run."""
    st.code(code.rstrip(), language="python", wrap_lines=True)


def editor(cell: Cell, context: Context, task: Task) -> dict[str, Any]:
    """Draw the editor and what the last run said; returns what is kept of the cell."""
    key = context.key(cell, "editor")
    running = _last(cell, context)
    kept = _settle(cell, context, task, running)
    code = kept.get("code", task.original)
    phase = running.phase if running is not None and not running.over else "idle"
    status, spoken = _said(kept, running, phase)
    error = next((o for o in _outputs(kept, running) if o["kind"] == "error"), None)
    fresh = kept.get("ran") == digest(code)
    components.component("editor")(
        key=key,
        data={
            "value": code,
            "revision": st.session_state.get(f"{key}-revision", 0),
            "original": task.original,
            "label": t("code.label", title=cell.body["title"]),
            "phase": phase,
            "alive": state.kernels().alive(context.owner),
            "status": status,
            "spoken": spoken,
            "ran": kept.get("run", ""),
            "error": error["line"] if error is not None and fresh and phase == "idle" else 0,
            "looks": st.session_state.get(f"{key}-looks", 0),
            "most": MOST_CODE,
            "words": _words("check" if task.check else "run"),
        },
        on_code_change=partial(_drafted, key, cell, context, task),
        on_act_change=partial(_acted, key, cell, context, task),
        on_look_change=partial(_looked, key),
    )
    refusal = st.session_state.pop(f"{key}-refused", None)
    if refusal is not None:
        live.say(refusal)
    _results(cell, context, kept, running, fresh)
    return kept


def _words(run: str) -> dict[str, str]:
    """What stands on the editor's buttons and below them; `run`: what the first of them does."""
    return {what: t(f"code.{what}") for what in BUTTONS} | {"run": t(f"code.{run}"), "hint": t(f"code.hint_{run}")}


def draft(cell: Cell, context: Context, task: Task) -> str:
    """The code as it stands in the editor, as far as that has been told."""
    return str(context.kept(cell).get("code", task.original))


def standing(cell: Cell, context: Context, task: Task) -> str:
    """How the code as it stands is: "done" in the kernel that is there now, "on", "failed", or "open".

    Where no code may run there is nothing to be done.
    """
    if not state.code_permission().on:
        return "done"
    running = _last(cell, context)
    if running is None or digest(running.code) != digest(draft(cell, context, task)):
        return "open"
    if not running.over:
        return "on"
    if running.end != "ok":
        return "failed"
    return "done" if running.pid == state.kernels().pid(context.owner) else "open"


def replace(cell: Cell, context: Context, code: str) -> None:
    """Put code into the editor from here; the learner sees it at the next drawing."""
    key = context.key(cell, "editor")
    st.session_state[f"{key}-revision"] = st.session_state.get(f"{key}-revision", 0) + 1
    _refresh(context)
    context.save(cell, {**context.kept(cell), "code": code})


def start(cell: Cell, context: Context, task: Task, code: str) -> Execution:
    """Run code of a cell in the learner's kernel.

    Raises:
        Refused: code may not run here, or the kernels are at work.
    """
    from core.errors import Refused

    found = state.code_permission()
    if not found.on:
        raise Refused(found.reason)
    name = context.lesson.state_name(cell.id)
    execution = state.kernels().run(context.owner, name, code, seconds=task.seconds, check=task.check)
    if execution.code == code:
        kept = context.kept(cell)
        if task.before is not None:
            kept = task.before(kept, code)
        context.save(cell, {**kept, "run": execution.id, "ran": digest(code), "outputs": [], "end": ""})
    return execution


def _last(cell: Cell, context: Context) -> Execution | None:
    """The execution that the kept state is about, while the server remembers it."""
    found = state.kernels().last(context.owner, context.lesson.state_name(cell.id))
    return found if found is not None and found.id == context.kept(cell).get("run") else None


def _settle(cell: Cell, context: Context, task: Task, running: Execution | None) -> dict[str, Any]:
    """Keep how an execution has ended, once."""
    kept = context.kept(cell)
    if running is None or not running.over or kept.get("end"):
        return kept
    kept = {
        **kept,
        "outputs": shortened(running.outputs.snapshot(), KEPT_BYTES),
        "end": running.end,
        "sentence": running.sentence,
        "seconds": round(running.seconds, 2),
    }
    if task.after is not None:
        kept = task.after(kept, running)
    context.save(cell, kept)
    return kept


def _outputs(kept: Mapping[str, Any], running: Execution | None) -> list[dict[str, Any]]:
    """All of them while the server remembers, else what was kept."""
    return running.outputs.snapshot() if running is not None else list(kept.get("outputs") or [])


def _said(kept: Mapping[str, Any], running: Execution | None, phase: str) -> tuple[str, str]:
    """What stands beside the buttons, and what a screen reader says."""
    if phase != "idle":
        text = t({"queued": "code.waiting", "starting": "code.starting"}.get(phase, "code.running"))
        return text, text
    if not kept.get("run"):
        return "", ""
    end, sentence = kept.get("end", ""), from_core(kept.get("sentence", ""))
    took = seconds_text(kept.get("seconds", 0.0))
    found = _outputs(kept, running)
    if not end:
        # The server that ran it has ended meanwhile.
        return t("code.server_ended"), ""
    if end == "ok":
        verdict = next((o for o in found if o["kind"] == "verdict"), None)
        said = settled(printed([o for o in found if o["kind"] != "verdict"])).strip()
        spoken = t("code.output", text=said[:SPOKEN]) if said else t("code.no_output")
        if verdict is not None:
            word = t("exercise.right" if verdict["right"] else "exercise.not_yet")
            spoken = f"{word} {verdict['text']} {spoken if said else ''}"
        return t("code.ran", took=took), f"{t('code.ran', took=took)} {spoken}".strip()
    error = next((o for o in found if o["kind"] == "error"), None)
    if end == "error" and error is not None:
        return t("code.failed", took=took), f"{drawing.error_name(error)}: {from_core(error['message'])[:SPOKEN]}"
    return t("code.stopped" if end in ("interrupted", "too_long") else "code.ended"), sentence


def _results(cell: Cell, context: Context, kept: Mapping[str, Any], running: Execution | None, fresh: bool) -> None:
    """What the last run said, and whether it is still about this code."""
    if not kept.get("run"):
        return
    found = _outputs(kept, running)
    sentence = kept.get("sentence", "") if kept.get("end") not in ("", "ok", "error") else ""
    if not found and not sentence:
        return
    with st.container(key=context.key(cell, "output"), gap="small"):
        if not fresh:
            st.caption(f":material/update: {t('code.changed')}")
        drawing.draw(found, context.key(cell, "output"))
        if sentence:
            at = next((o["line"] for o in found if o["kind"] == "error" and o["line"]), 0)
            st.warning(
                f"{from_core(sentence)} {t('code.in_line', line=at) if at else ''}".rstrip(),
                icon=":material/stop_circle:",
            )


def _refresh(context: Context) -> None:
    """What is kept may have changed in another tab, or in another cell."""
    context.progress = state.store().progress(context.owner)


def _drafted(key: str, cell: Cell, context: Context, task: Task) -> None:
    code = _value(key, "code")
    if isinstance(code, str):
        _keep_draft(cell, context, task, code)


def _keep_draft(cell: Cell, context: Context, task: Task, code: str) -> None:
    _refresh(context)
    kept = context.kept(cell)
    code = code[:MOST_CODE]
    if len(json.dumps(code)) > KEPT_CODE:
        return  # letters of other scripts take more room; what is kept of a cell has an end (Store.set_progress)
    new = {k: v for k, v in kept.items() if k != "code"} if code == task.original else {**kept, "code": code}
    if new != kept:
        # An empty state means "never touched"; nothing is kept of a draft that was taken back.
        context.save(cell, new)


def _acted(key: str, cell: Cell, context: Context, task: Task) -> None:
    """A button of the editor."""
    asked = _value(key, "act")
    if not isinstance(asked, Mapping):
        return
    if isinstance(asked.get("code"), str):
        _keep_draft(cell, context, task, asked["code"])
    try:
        if asked.get("do") == "run":
            start(cell, context, task, str(asked.get("code", draft(cell, context, task))))
        elif asked.get("do") == "stop":
            state.kernels().interrupt(context.owner)
        elif asked.get("do") == "restart":
            state.kernels().restart(context.owner)
    except DeltalabError as error:
        st.session_state[f"{key}-refused"] = error


def _looked(key: str) -> None:
    """A rerun is all that is wanted; the count tells the editor that it was done."""
    st.session_state[f"{key}-looks"] = st.session_state.get(f"{key}-looks", 0) + 1


def _value(key: str, name: str) -> Any:
    found = st.session_state.get(key)
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
