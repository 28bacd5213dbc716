"""The runs of the terminal: the store, a run by the name that was typed, and what a run did in one object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import NotFound, Refused

if TYPE_CHECKING:
    from core.runs.store import Run, Store

OWNER = "cli"


def open_store() -> Store:
    """The store of runs.

    Raises:
        Refused: it cannot be opened.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from core.runs.store import Store

    try:
        return Store()
    except (SQLAlchemyError, OSError) as why:
        first = str(why).strip().splitlines()[0].rstrip(".")
        raise Refused(
            f"The store of runs cannot be opened: {first}.", "Check DELTALAB_HOME and DELTALAB_STORE."
        ) from why


def find_run(store: Store, name: str) -> str:
    """The id of the run that `name` means: an id, the beginning of one, or 'last'.

    Raises:
        NotFound: none, or more than one.
    """
    runs = store.runs(OWNER, limit=10_000)
    if name == "last":
        if not runs:
            raise NotFound("There are no runs yet.", "Start one with `deltalab train`.")
        return runs[0].id
    found = [run.id for run in runs if run.id.startswith(name)] if name else []
    if name in found:
        return name
    if len(found) != 1:
        how = f"{len(found)} runs begin with" if found else "There is no run"
        raise NotFound(f"{how} {name!r}.", "See `deltalab runs list`; runs of the browser are in the app.")
    return found[0]


def summary(store: Store, run: Run) -> dict[str, Any]:
    """The contract of the last line of `deltalab train --json`: what a run did, in one object.

    Keys: run, status, seconds (wall clock of the last attempt), first_loss_seconds, before and after (task: share of
    held-out items right, skills: the same of the base's old skills, loss: held-out loss), trainable, total, peak_bytes,
    adapter (folder); and base, task, method, seed, steps, sentence. What is not known (yet) is null. A run on a
    person's own file has `data` beside them there: see `data_summary`.
    """
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for _, event in store.events(run.id, OWNER, kinds=("started", "evaluated", "finished", "failed"), limit=100_000):
        by_kind.setdefault(event["kind"], []).append(event)
    started = by_kind.get("started", [{}])[-1]
    finished = by_kind.get("finished", [{}])[-1]
    scored = by_kind.get("evaluated", [])

    def scores(event: dict[str, Any] | None) -> dict[str, Any]:
        if event is None:
            return {"task": None, "skills": {}, "loss": None}
        found = {"task": event["exact_match"], "skills": event["skills"], "loss": event["loss"]}
        return found | ({"macro_f1": event["macro_f1"]} if event.get("macro_f1") is not None else {})

    adapter = run.adapter
    return {
        "run": run.id,
        "status": run.status,
        "seconds": round(run.ended - run.started, 3) if run.ended and run.started else None,
        "first_loss_seconds": finished.get("first_loss_seconds"),
        "before": scores(scored[0] if scored and scored[0]["step"] == 0 else None),
        "after": scores(scored[-1] if scored and run.status == "finished" else None),
        "trainable": finished.get("trainable", started.get("trainable")),
        "total": finished.get("total", started.get("total")),
        "peak_bytes": finished.get("peak_bytes"),
        "adapter": str(adapter) if adapter else None,
        "base": run.config["base"],
        "task": run.config["task"] or Path(run.config["data"]).name,
        "method": run.config["method"],
        "seed": run.config["seed"],
        "step": run.step,
        "steps": run.steps,
        "sentence": run.sentence,
    }


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def score_line(
    step: int,
    task: str,
    share: float | None,
    loss: float | None,
    skills: dict[str, float],
    macro_f1: float | None = None,
) -> str:
    text = f"step {step:>4}: "
    if loss is None:
        text += "nothing is held out that could be scored"
    else:
        text += f"{task} {percent(share)} right, loss {loss:.3f}"
        text += f", macro F1 {percent(macro_f1)}" if macro_f1 is not None else ""
    if skills:
        text += "; old skills: " + ", ".join(f"{name} {percent(value)}" for name, value in skills.items())
    return text


def print_result(store: Store, run: Run) -> None:
    from core.units import bytes_text, seconds_text

    got = summary(store, run)
    print(f"\n{run.config['method']} on {got['task']}, in {seconds_text(got['seconds'] or 0)}:")
    rows = [(got["task"], got["before"]["task"], got["after"]["task"])]
    rows += [(name, value, got["after"]["skills"].get(name)) for name, value in got["before"]["skills"].items()]
    if "macro_f1" in got["after"]:
        rows.append(("macro F1", got["before"].get("macro_f1"), got["after"]["macro_f1"]))
    width = max(len(str(name)) for name, _, _ in rows)
    print(f"  {'':{width}}  before  after")
    for name, before, after in rows:
        print(f"  {name:{width}}  {percent(before):>6}  {percent(after):>5}")
    if got["peak_bytes"]:
        print(f"  peak memory {bytes_text(got['peak_bytes'])}")
    print(f"  adapter     {got['adapter']}\nTalk to it: deltalab chat {run.id}")
