"""A race: the same base, data, order of the data, steps, batch and seeds for every method; each at a rate of its own.

    plan = Plan(task="json", methods=("lora", "bitfit"), seeds=2)
    runs = enter(store, owner, plan, key="…")             # queued like any other run; a page follows them
    rows = [row(config, events) for config in entries(plan) …]
    aggregate(rows)                                       # median and range over the seeds, per method
    front(points)                                         # who is beaten by nobody on both of two measures

What is equal is what is paid for: examples seen. What is not: the learning rate, which is the one that did best in the
method's own sweep (core.sweep), in as many steps where it was swept so; a common rate would only show which method it
happens to suit. Not every method was swept on every task and in every length: `borrowed` and `swept_steps` say whose
rate comes from elsewhere, and wherever a race is shown that is told. With the same seed every method sees the same
examples in the same batches, since the order depends on the seed alone (core.batches.Plan).
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import EMBEDDED, RunConfig, TrainConfig, default_row, problems, resolved, swept_on
from core.errors import BadInput, Refused
from core.runs.store import RACE
from core.units import KIB, MIB, bytes_text, count_text, seconds_text

if TYPE_CHECKING:
    from core.runs.store import Store

MOST_RUNS = 64
MOST_SEEDS = 5


@dataclass(frozen=True)
class Plan:
    """What is raced.

    methods: names in METHODS. seeds: how many; they are 0, 1, 2 … train: the loop's settings for everybody, of which
    the learning rate must be left open; steps that are left open are as `steps_of` says.
    """

    base: str = EMBEDDED
    revision: str | None = None
    task: str | None = "json"
    data: str | None = None
    methods: tuple[str, ...] = ("full", "lora", "qlora", "bitfit")
    seeds: int = 1
    train: TrainConfig = field(default_factory=TrainConfig)


# What a race on the embedded base has of a run's usual steps. In as many as usual most methods get everything right, so
# that only their cost tells them apart; in half as many one sees who learns quickest. And every method once is to take
# no more than five minutes on two cores.
SHARE_OF_STEPS = 1 / 2


def usual_steps(plan: Plan) -> int:
    """The fewest steps that any of the methods takes by default."""
    return min(_default_steps(plan))


def _default_steps(plan: Plan) -> list[int]:
    """Method by method; on the embedded base those of its sweep."""
    return [int(default_row(_config(plan, method, 0))["steps"]) for method in plan.methods]


def steps_of(plan: Plan) -> int:
    """Everybody's steps: as planned, else the usual ones, of which the embedded base's races have a share."""
    if plan.train.steps is not None:
        return plan.train.steps
    usual = usual_steps(plan)
    return max(1, round(usual * SHARE_OF_STEPS)) if plan.base == EMBEDDED else usual


def examples_of(plan: Plan) -> int:
    """How many examples everybody learns from in a step."""
    return plan.train.batch_size * plan.train.accumulation


def entries(plan: Plan) -> list[RunConfig]:
    """The runs of a race, resolved: seed by seed, so that a race that is cut short has compared everybody once.

    Raises:
        BadInput: no or unknown methods, a common learning rate, too many runs, or what a run cannot be.
    """
    wrong = []
    if not plan.methods:
        wrong.append("Choose at least one method to race.")
    if len(set(plan.methods)) < len(plan.methods):
        wrong.append("A method is named twice.")
    if not 1 <= plan.seeds <= MOST_SEEDS:
        wrong.append(f"The number of seeds must be from 1 to {MOST_SEEDS}, not {plan.seeds}.")
    if len(plan.methods) * plan.seeds > MOST_RUNS:
        wrong.append(f"That would be {len(plan.methods) * plan.seeds} runs, and {MOST_RUNS} is the limit.")
    if plan.train.learning_rate is not None:
        wrong.append("A race leaves the learning rate open: each method runs at its own.")
    if wrong:
        raise BadInput(" ".join(wrong))
    wrong = [p for method in plan.methods for p in problems(_config(plan, method, 0))]
    if wrong:
        raise BadInput(" ".join(dict.fromkeys(wrong)))
    steps = steps_of(plan)
    # Scored before and after alone, unless asked otherwise: the curve between is each run's own page's, and costs the
    # race a third of its time.
    loop = dataclasses.replace(plan.train, steps=steps, eval_every=plan.train.eval_every or steps)
    raced = dataclasses.replace(plan, train=loop)
    return [resolved(_at_its_rate(raced, method, seed)) for seed in range(plan.seeds) for method in plan.methods]


def _rates(plan: Plan, method: str) -> Mapping[str, float]:
    """The method's best rates by the number of steps, where others than its usual one were swept."""
    found: Mapping[str, float] = default_row(_config(plan, method, 0)).get("rates", {})
    return found


def _at_its_rate(plan: Plan, method: str, seed: int) -> RunConfig:
    """A run of a race whose steps are settled. (A rate that is left open is the usual one.)"""
    config = _config(plan, method, seed)
    rate = _rates(plan, method).get(str(plan.train.steps))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, learning_rate=rate))


def _config(plan: Plan, method: str, seed: int) -> RunConfig:
    return RunConfig(
        base=plan.base, revision=plan.revision, task=plan.task, data=plan.data, method=method, seed=seed,
        train=plan.train,
    )  # fmt: skip


def borrowed(plan: Plan) -> dict[tuple[str, ...], list[str]]:
    """Whose learning rate was found on something else than what is raced: tasks of the sweep that it comes from -> the
    methods. Of another base than the embedded one nothing was swept: rates are published ones, under ()."""
    found: dict[tuple[str, ...], list[str]] = {}
    for method in plan.methods:
        tasks = swept_on(method) if plan.base == EMBEDDED else ()
        if plan.task not in tasks:
            found.setdefault(tasks, []).append(method)
    return found


def swept_steps(plan: Plan) -> tuple[int, int] | None:
    """The fewest and the most steps of the runs in which the rates were the best, where the race is not as long as all
    of them; None: it is, or nothing was swept."""
    if plan.base != EMBEDDED:
        return None
    here = steps_of(plan)
    usual = zip(plan.methods, _default_steps(plan), strict=True)
    steps = [here if str(here) in _rates(plan, method) else many for method, many in usual]
    return None if set(steps) == {here} else (min(steps), max(steps))


def rate_notes(plan: Plan) -> list[str]:
    """Where the rates come from, in sentences; none where every one was swept on what is raced, in as many steps."""
    from core.methods import METHODS
    from core.world import TASKS

    here = f"“{TASKS[plan.task].title}”" if plan.task in TASKS else "this data"
    notes = []
    for tasks, methods in borrowed(plan).items():
        names = ", ".join(METHODS[m].TITLE for m in methods)
        where = " and ".join(f"“{TASKS[task].title}”" for task in tasks)
        if tasks:
            notes.append(f"Swept on {where}, not on {here}: the rates of {names}. Others might suit them better here.")
        else:
            notes.append(f"On this base no rate was swept: {names} run at published ones.")
    swept = swept_steps(plan)
    if swept is not None:
        least, most = swept
        span = f"{least} steps" if least == most else f"{least} to {most} steps"
        notes.append(
            f"The rates did best in the sweep's runs of {span}; here everybody has {steps_of(plan)}, for which others "
            "might do better."
        )
    return notes


def cell_of(race: str) -> str:
    """The `cell` under which the store keeps the runs of a race."""
    return f"{RACE}{race}"


def enter(store: Store, owner: str, plan: Plan, *, key: str, title: Callable[[RunConfig], str] | None = None) -> str:
    """Queue the race's runs, and return the race's id. The same key gives the same race.

    The runs of a race do not count one by one against the owner's number of active runs; instead an owner has one race
    at a time. Turns go round between people, so a long race delays nobody by more than a run.

    Raises:
        BadInput: as `entries`. Refused: another race of theirs is on, or their disk is full.
    """
    mine = cell_of(key)
    others = {r.cell for r in store.runs(owner, active=True) if r.cell and r.cell.startswith(RACE)} - {mine}
    if others:
        raise Refused("A race of yours is on already.", "Wait until it is over, or stop it.")
    for number, config in enumerate(entries(plan)):
        name = title(config) if title is not None else None
        store.create(owner, config, key=f"{mine}/{number}", title=name, cell=mine, counts=False)
    return key


# --- what came out ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """Something that methods are compared by.

    better: "more" or "less". unit: of the axis; scale: what a value is divided by for it. log: the axis is logarithmic.
    text: a value as people read it.
    """

    name: str
    title: str
    unit: str
    better: str
    text: Callable[[float], str]
    scale: float = 1.0
    log: bool = False


def _points(value: float) -> str:
    told = f"{value:.0f}"
    return f"{told} point{'' if told in ('1', '-1') else 's'}"


MEASURES = (
    Measure("exact_match", "Task learnt", "% of held-out items right", "more", lambda v: f"{100 * v:.0f} %", 0.01),
    Measure("loss", "Held-out loss", "nats a token", "less", lambda v: f"{v:.3f}"),
    Measure("forgetting", "Old skills lost", "points of a hundred", "less", _points),
    Measure("peak_bytes", "Peak memory of a step", "MiB", "less", bytes_text, MIB),
    Measure("seconds", "Training time", "s", "less", seconds_text),
    Measure("tokens_per_second", "Answer tokens a second", "tokens/s", "more", lambda v: f"{v:,.0f}"),
    Measure("trainable", "Trained parameters", "parameters", "less", count_text, log=True),
    Measure("adapter_bytes", "Size of what is saved", "KiB", "less", bytes_text, KIB, log=True),
)


@dataclass(frozen=True)
class Row:
    """One run of a race. Shares are 0..1; None: not known (yet). forgetting: the mean of the old skills before minus
    after, in points of a hundred. peak_bytes: allocated at the step's highest, measured by term. seconds: in steps."""

    method: str
    seed: int
    learning_rate: float
    steps: int
    status: str
    exact_match: float | None = None
    before: float | None = None
    loss: float | None = None
    forgetting: float | None = None
    peak_bytes: int | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    trainable: int | None = None
    total: int | None = None
    adapter_bytes: int | None = None
    sentence: str = ""


def row(config: Mapping[str, Any], events: Iterable[Mapping[str, Any]], status: str, sentence: str = "") -> Row:
    """What one run did, from its config and its events (as dicts); of a run that is still on: what is known."""
    started: Mapping[str, Any] = {}
    finished: Mapping[str, Any] = {}
    scores: list[Mapping[str, Any]] = []
    for event in events:
        kind = event["kind"]
        if kind == "started":
            started = event
        elif kind == "finished":
            finished = event
        elif kind == "evaluated":
            scores.append(event)
    before = scores[0] if scores and scores[0]["step"] == 0 else None
    after = scores[-1] if scores and finished else None
    known: dict[str, Any] = {}
    if after is not None:
        known |= {"exact_match": after["exact_match"], "loss": after["loss"]}
    if before is not None:
        known["before"] = before["exact_match"]
    if before is not None and after is not None and after["skills"]:
        lost = [before["skills"][name] - value for name, value in after["skills"].items()]
        known["forgetting"] = 100 * statistics.fmean(lost)
    if finished:
        known |= {
            "peak_bytes": finished["peak_bytes"] or None,
            "seconds": finished["seconds"],
            "tokens_per_second": finished["tokens"] / finished["seconds"] if finished["seconds"] else None,
            "adapter_bytes": finished["adapter_bytes"],
        }
    return Row(
        method=config["method"], seed=config["seed"], learning_rate=config["train"]["learning_rate"],
        steps=config["train"]["steps"], status=status, sentence=sentence,
        trainable=started.get("trainable"), total=started.get("total"), **known,
    )  # fmt: skip


@dataclass(frozen=True)
class Band:
    """Median and range of one measure over the seeds."""

    median: float
    low: float
    high: float
    count: int


def aggregate(rows: Sequence[Row]) -> dict[str, dict[str, Band]]:
    """Method -> measure -> band over its finished runs, in the order in which the methods first appear.

    A measure that a run lacks (no old skills on another base) is left out.
    """
    out: dict[str, dict[str, Band]] = {}
    for method in dict.fromkeys(r.method for r in rows):
        done = [r for r in rows if r.method == method and r.status == "finished"]
        bands = {}
        for measure in MEASURES:
            values = [float(v) for r in done if (v := getattr(r, measure.name)) is not None]
            if values:
                bands[measure.name] = Band(statistics.median(values), min(values), max(values), len(values))
        if bands:
            out[method] = bands
    return out


LEARNT = 1 / 2
"""The share of the best method's exact match below which a method is said to have learnt too little to be compared."""


def unlearnt(bands: Mapping[str, Mapping[str, Band]]) -> list[str]:
    """The methods that learnt less than half of what the best one did, if that learnt anything. What else is measured
    of such a run, its forgetting or its cost, cannot be set against the others'."""
    right = {method: found["exact_match"].median for method, found in bands.items() if "exact_match" in found}
    return [method for method, share in right.items() if share < LEARNT * max(right.values())]


def measure(name: str) -> Measure:
    """The measure of that name."""
    return next(m for m in MEASURES if m.name == name)


def front(points: Mapping[str, tuple[float, float]], x: str, y: str) -> list[str]:
    """The Pareto front: the names that no other beats, being at least as good on both of two measures and better on
    one; ordered along x, the better end first.

    Args:
        points: name -> (value of x, value of y).
        x, y: whether "more" or "less" of it is better.
    """
    signs = [1.0 if better == "more" else -1.0 for better in (x, y)]
    good = {name: (signs[0] * a, signs[1] * b) for name, (a, b) in points.items()}

    def beaten(name: str) -> bool:
        a, b = good[name]
        return any(c >= a and d >= b and (c > a or d > b) for other, (c, d) in good.items() if other != name)

    return sorted((n for n in good if not beaten(n)), key=lambda n: (-good[n][0], -good[n][1]))


# --- the recorded race ------------------------------------------------------------------------------------------------

RECORD = Path(__file__).parent / "catalog" / "race_embedded.json"
"""Written by `deltalab race --seeds 3 --record`; tests/test_records.py says by which command."""


def expected_seconds(plan: Plan) -> float:
    """How long a race takes about on the recorded one's machine: what a step and what all else took there, method by
    method; of a method that was not in it, what the others did on average."""
    record = recorded()
    rows = [r for r in record["rows"] if r.seconds]
    steps: dict[str, list[float]] = {}
    for r in rows:
        steps.setdefault(r.method, []).append(r.seconds / r.steps)
    each = {method: statistics.median(found) for method, found in steps.items()}
    usual = statistics.fmean(each.values())
    besides = (record["seconds"] - sum(r.seconds for r in rows)) / len(rows)
    count = steps_of(plan)
    return plan.seeds * sum(besides + count * each.get(method, usual) for method in plan.methods)


def recorded() -> dict[str, Any]:
    """The race that is shipped: provenance, and `rows` as `Row`."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return {**found, "rows": [Row(**r) for r in found["rows"]]}
