"""A lesson's cells as functions, for the notebooks that lessons are exported to (app/notebook.py). No streamlit.

    from app import lab
    run = lab.train("json-lora", method="lora", task="json", seed=0)
    run.show()
    run.figures["exact_match_after"]

Everything here is a few lines around the engine: `train` is `core.train.train`, `measure` is a probe of `core.probes`.
With DELTALAB_SHORT=1 in the environment runs take two steps and measurements few items: enough to see that a notebook
runs, and nothing that a number should be read from. Without it they are the real thing.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import calc, charts
from app.story import Story, happened
from core import exercise
from core.config import RunConfig, resolved, settings_of, with_settings
from core.errors import BadInput, DeltalabError
from core.events import Failed, Step, Stopped, to_dict

if TYPE_CHECKING:
    import pandas as pd

    from core.probes import Source

SHORT = "DELTALAB_SHORT"
SHORT_TRAINING = {
    "steps": 2, "eval_every": 2, "eval_items": 4, "skill_items": 1, "train_examples": 40, "batch_size": 4,
}  # fmt: skip
SHORT_FURTHER = {"skill_items": 0}  # of a comparison's runs behind the first
SHORT_MEASURING = {
    "items": 2, "skill_items": 1, "rounds": 3, "new_tokens": 4, "prompt_tokens": 16, "switches": 4, "questions": 2,
    "seeds": 1, "most": 4, "steps": 0.01,
}  # fmt: skip


def short() -> bool:
    """Whether everything is to be made as small as it goes."""
    return os.environ.get(SHORT, "").strip().lower() in ("1", "true", "yes", "on")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that was made here. label: what it is called in figures. folder: holds `adapter`."""

    name: str
    label: str
    config: RunConfig
    events: tuple[dict[str, Any], ...]
    folder: Path

    @property
    def figures(self) -> dict[str, float]:
        """What came out, by name (`app.calc.quantities`): shares in per cent, losses in nats, sizes in bytes."""
        return calc.quantities(list(self.events))

    @property
    def story(self) -> Story:
        return Story.of(self.events)

    def figure(self) -> Any:
        """The loss by step, as a plotly figure."""
        return charts.losses([(self.label, self.story)]).figure

    def samples(self) -> pd.DataFrame:
        """The same prompts before and after."""
        import pandas as pd

        return pd.DataFrame(self.story.samples())

    def show(self) -> Any:
        """Say what happened, and give the figure."""
        for sentence in happened(self.story):
            print(sentence.replace("**", ""))
        return self.figure()

    def source(self) -> Source:
        """The run as a probe reads it."""
        from core.probes import Source

        started = next((e for e in self.events if e["kind"] == "started"), {})
        return Source(self.name, self.label, self.config.to_dict(), self.folder / "adapter", started.get("dtype"))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several runs of one idea."""

    runs: Mapping[str, Run]

    def __getitem__(self, name: str) -> Run:
        return self.runs[name]

    def table(self, columns: Sequence[str] = ()) -> pd.DataFrame:
        """A row for each run, with the figures asked for (all of them, without any)."""
        import pandas as pd

        rows = {run.label: run.figures for run in self.runs.values()}
        frame = pd.DataFrame.from_dict(rows, orient="index")
        return frame[[c for c in columns if c in frame.columns]] if columns else frame

    def figure(self, x: str = "", y: str = "", scale: str = "linear") -> Any:
        """One figure against another, a point for each run; without names, the loss curves over each other."""
        if not x or not y:
            return charts.losses([(run.label, run.story) for run in self.runs.values()]).figure
        import plotly.graph_objects as go

        found = [run for run in self.runs.values() if x in run.figures and y in run.figures]
        drawn = charts.figure(x.replace("_", " "), y.replace("_", " "))
        drawn.add_trace(
            go.Scatter(
                x=[run.figures[x] for run in found], y=[run.figures[y] for run in found],
                text=[run.label for run in found], mode="markers+text", textposition="top center",
            )
        )  # fmt: skip
        drawn.update_xaxes(type="log" if scale == "log" else "linear")
        return drawn


def train(
    name: str, *, method: str, task: str, seed: int = 0, settings: Mapping[str, Any] | None = None, label: str = "",
    further: bool = False,
) -> Run:  # fmt: skip
    """Fine-tune the embedded base, and tell how far it is.

    Args:
        name: of the run. settings: knobs of the method and of the training loop; what is left out takes its default.
        further: one of several that are compared, and not the first: in the short form it is scored on less.

    Raises:
        DeltalabError: the run cannot be made as it was asked for, or failed.
    """
    from core.train import train as steps_of

    config = with_settings(RunConfig.from_dict({"method": method, "task": task, "seed": seed}), dict(settings or {}))
    if short():
        config = with_settings(config, SHORT_TRAINING | (SHORT_FURTHER if further else {}))
    config = resolved(config)
    folder = Path(tempfile.mkdtemp(prefix="deltalab-lesson-"))
    events = []
    total = config.train.steps or 1
    for event in steps_of(config, folder):
        if isinstance(event, Failed):
            raise DeltalabError(event.sentence, event.advice)
        if isinstance(event, Stopped):
            raise DeltalabError("The run was stopped.")
        events.append(to_dict(event))
        if isinstance(event, Step) and (event.step % max(1, total // 5) == 0 or event.step == 1):
            print(f"{label or name}: step {event.step} of {total}, loss {event.loss:.3f}")
    return Run(name, label or name, config, tuple(events), folder)


def compare(
    name: str, runs: Mapping[str, Mapping[str, Any]], *, task: str, seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Comparison:  # fmt: skip
    """Train several runs, one after the other.

    Args:
        runs: name -> {"label", "method", "settings", "seed"}; settings: common to all, where a run has none of its own.

    Raises:
        DeltalabError: as `train`.
    """
    made: dict[str, Run] = {}
    for key, run in runs.items():
        own = {**(settings or {}), **run.get("settings", {})}
        made[key] = train(
            f"{name}/{key}", method=run["method"], task=task, seed=run.get("seed", seed), settings=own,
            label=run.get("label", key), further=bool(made),
        )  # fmt: skip
    return Comparison(made)


def measure(name: str, runs: Sequence[Run] = (), settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A measurement of `core.probes`, of runs or of the base alone.

    Raises:
        DeltalabError: it cannot be measured, and why.
    """
    from core.probes import Subject, probe

    what = probe(name)
    config = settings_of(what.Config, dict(settings or {}))
    if short():
        # Fewer than anybody may choose, who wants to read something from the numbers.
        known = {f.name for f in dataclasses.fields(config)}
        config = dataclasses.replace(config, **{k: v for k, v in SHORT_MEASURING.items() if k in known})
    folder = Path(tempfile.mkdtemp(prefix="deltalab-measure-"))
    subject = Subject(tuple(run.source() for run in runs), folder)
    return what.measure(subject, config, lambda _share, _text: None)


def told(result: Mapping[str, Any]) -> None:
    """Print what a measurement has found: a line for each number or sentence, a table for each list."""
    from core.cli.probe import lines

    print("\n".join(lines(result)))


def reveal(said: float, run: Run | Mapping[str, Any], what: str, *, tolerance: float, unit: str = "") -> None:
    """A prediction beside what came out.

    Args:
        run: what it was about, or the result of a measurement. what: the name of the figure.
    """
    from app.answers import closeness

    found = (run.figures if isinstance(run, Run) else calc.probe_quantities(dict(run))).get(what)
    if found is None and short():
        print(f"You said {said:g}; the short form did not measure {what}.")
        return
    if found is None:
        raise BadInput(f"There is no figure {what!r} in this result.")
    words = {"close": "That is close.", "too high": "That was too high.", "too low": "That was too low."}
    verdict = words[closeness(said, float(found), tolerance)]
    print(f"You said {said:g} {unit}".rstrip() + f"; it came out as {found:.4g} {unit}".rstrip() + f". {verdict}")


def check(checks: Path | str, name: str, space: dict[str, Any]) -> bool:
    """Check an exercise: `space` is the namespace, `globals()` in a notebook. Says what it thinks of it."""
    verdict = exercise.run(Path(checks), name, space)
    print(("Right. " if verdict.right else "Not yet. ") + verdict.words)
    return verdict.right


def lesson_folder(slug: str) -> Path:
    """The folder of a lesson of this installation."""
    from app.index import ROOT

    return ROOT / slug
