"""Prompting, retrieval, fine-tuning, both, and RAFT on the same needs: what each gets right, and what it costs.

    base     the question alone
    prompt   the base, with three solved examples before the question
    rag      the base, with the best passage retrieved for the question
    lora     the base fine-tuned with LoRA, nothing retrieved
    full     the base fine-tuned whole, nothing retrieved
    both     the LoRA of `lora`, with passages retrieved
    raft     LoRA trained to read retrieved passages among distractors (core.rag.raft), with passages retrieved

Retrieving arms read one passage, but for the need `crowd`, where they read three: the embedded base reads by first
names, and a search for a name brings up namesakes.

How: for each seed the items are drawn (core.rag.needs), the table of people is indexed, and each fine-tuning arm is
trained by the one training loop on what its need calls for: new facts as questions and answers, the format, the manner
of speaking. Then every arm answers every question, and is scored by exact graders. Then rows change: retrieval
re-indexes them, fine-tuning trains anew, and both are asked again. Second part: how many wordings of a fact must be
told until fine-tuning can be asked about it (after Allen-Zhu and Li 2023, Physics of Language Models: Part 3.1,
arXiv:2309.14316).

This file is a probe (core.probes) without runs: a page starts it in a process of its own, `deltalab rag experiment` in
the terminal's. What it is not: a statement about large models. `core.rag.verdicts` says what it confirms.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.base import describe_base, load_tokenizer
from core.config import EMBEDDED, RunConfig, TrainConfig, default_table, knob
from core.errors import BadInput, DeltalabError
from core.rag import needs, raft
from core.rag.answer import citations, declines, fit
from core.rag.needs import NEEDS, Asked, Items
from core.rag.read import Document
from core.rag.retrieve import Hit, Retriever
from core.rag.store import Store
from core.template import Message, prompt_ids
from core.world import examples

if TYPE_CHECKING:
    from core.probes import Subject, Tell

TITLE = "Retrieval or fine-tuning"
RUNS = (0, 0)
MOST_SEEDS = 3
PASSAGES = {"crowd": 3}  # retrieved for a need; else one
TIMED = 12  # questions asked one by one, for the latency
ANSWER_TOKENS = 64
RAFT_STEPS = 2 / 3  # of those for new facts: its examples are several times as long
ARMS = {
    "base": "Base",
    "prompt": "Prompting",
    "rag": "RAG",
    "lora": "Fine-tuning, LoRA",
    "full": "Fine-tuning, full",
    "both": "RAG + LoRA",
    "raft": "RAFT",
}
RETRIEVING = ("rag", "both", "raft")
LATENCY = ("retrieve_ms", "first_ms", "rest_ms")
SHOWN, EXAMPLES = 3, 200  # solved examples in a prompt, and among which the nearest are looked up
RECORD = Path(__file__).parents[1] / "catalog" / "rag_embedded.json"
"""Written by `deltalab rag experiment --seeds 3 --record`."""


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seeds: int = knob(
        1, "How often everything is drawn, trained and asked anew.", unit="seeds", low=1, high=MOST_SEEDS, folded=False,
        why="One answers within minutes; three say how much of it was luck.",
    )  # fmt: skip
    first: int = knob(
        0, "The first of the seeds; others go on where an earlier experiment ended.", low=0, high=99, form=False,
        why="0: from the beginning.",
    )  # fmt: skip
    items: int = knob(
        40, "Questions of each need.", unit="questions", low=8, high=200, why="Resolves differences of a few per cent.",
    )  # fmt: skip
    steps: float = knob(
        1.0, "Training steps, as a multiple of what the sweep found.", low=0.05, high=4.0,
        why="The tasks' own defaults; more for slower learners.",
    )  # fmt: skip
    part: str = knob(
        "all", "Which part: the needs, the rewordings, or both; or the latency alone.",
        choices=("all", "needs", "wordings", "latency"), form=False, why="Together they take minutes.",
    )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One measured number. need: a key of NEEDS, or "" for what an arm costs whatever the need. value: shares 0..1,
    seconds, counts or bytes, as the measure says. count: how many questions stand behind it."""

    seed: int
    arm: str
    need: str
    measure: str
    value: float
    count: int = 1


MEASURES = {
    "right": "right answers",
    "stale": "answers that were right before the change",
    "invented": "answers to what nobody has told",
    "faithful": "answers that stand in what was retrieved",
    "right_after_update": "right answers once the change was trained or indexed",
    "update_seconds": "seconds for an update",
    "update_items": "items trained or indexed for an update",
    "training_seconds": "seconds of training",
    "retrieve_ms": "milliseconds to retrieve",
    "first_ms": "milliseconds from there to the first token",
    "rest_ms": "milliseconds for the rest of the answer",
    "context_tokens": "tokens in the prompt",
    "storage_bytes": "bytes beside the base",
    "recall": "questions whose row was retrieved",
}


@dataclass
class _Stage:
    """Progress: stages done of all."""

    tell: Any
    all: int
    done: int = 0

    def next(self, text: str) -> None:
        self.tell(min(self.done / self.all, 1.0), text)
        self.done += 1


def measure(subject: Subject, config: Config, tell: Tell) -> dict[str, Any]:
    """Carry the experiment out.

    Returns:
        {"cells": [Cell…], "wordings": [{"seed", "wordings", "right", "told"}…], "examples": […], "seconds": …,
        "figures": see `figures`}

    Raises:
        DeltalabError: a training run fails.
    """
    began = time.perf_counter()
    stages = 18 * (config.part in ("all", "needs")) + len(_TOLD) * (config.part in ("all", "wordings"))
    stage = _Stage(tell, config.seeds * (stages or 2))
    cells: list[Cell] = []
    wordings: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for seed in range(config.first, config.first + config.seeds):
        with tempfile.TemporaryDirectory(dir=subject.folder if subject.folder.is_dir() else None) as place:
            one = _Seed(seed, config, Path(place), stage)
            if config.part in ("all", "needs"):
                one.needs()
            if config.part in ("all", "wordings"):
                one.wordings()
            if config.part == "latency":
                one.latency()
        cells += one.cells
        wordings += one.reworded
        shown += one.examples if seed == config.first else []
    tell(1.0, "Done")
    return {
        "cells": [dataclasses.asdict(c) for c in cells],
        "wordings": wordings,
        "examples": shown,
        "settings": dataclasses.asdict(config),
        "seconds": time.perf_counter() - began,
        "figures": figures(cells),
    }


class _Seed:
    """One seed: draws, trains, asks."""

    def __init__(self, seed: int, config: Config, folder: Path, stage: _Stage) -> None:
        self.seed, self.config, self.folder, self.stage = seed, config, folder, stage
        self.cells: list[Cell] = []
        self.reworded: list[dict[str, Any]] = []
        self.examples: list[dict[str, Any]] = []
        self.shown: dict[str, list[tuple[str, str]]] = {}
        self.alike: dict[str, Retriever] = {}
        self.answers_of: dict[str, dict[str, str]] = {}
        self.tokenizer = load_tokenizer(EMBEDDED)
        self.context = int(describe_base(EMBEDDED)["context"])

    def note(self, arm: str, need: str, name: str, value: float, count: int = 1) -> None:
        self.cells.append(Cell(self.seed, arm, need, name, float(value), count))

    def prepared(self) -> Items:
        """The items of this seed, their table indexed."""
        items = needs.make(self.seed, self.config.items)
        store = Store(self.folder / "index", create=True)
        store.put(items.rows)
        self.retriever = Retriever(store)
        self.shown = items.shown
        return items

    # --- the needs ----------------------------------------------------------------------------------------------------

    def needs(self) -> None:
        self.stage.next("Indexing the table")
        items = self.prepared()
        self.alike, self.answers_of = {}, {}
        for need in ("json", "persona", "both"):
            task = "persona" if need == "both" else need
            drawn = examples(task, "train", EXAMPLES, 50_000 + self.seed)
            alike = Store(":memory:", create=True)
            alike.put(Document(str(n), e.prompt) for n, e in enumerate(drawn))
            self.alike[need] = Retriever(alike)
            self.answers_of[need] = {str(n): e.completion for n, e in enumerate(drawn)}
        ways = {"facts": items.taught, "json": "json", "persona": "persona"}
        adapters: dict[tuple[str, str], Path] = {}
        seconds: dict[tuple[str, str], float] = {}
        for method in ("lora", "full"):
            for need, material in ways.items():
                self.stage.next(f"Training: {ARMS[method]}, {NEEDS[need].title.lower()}")
                adapters[method, need], seconds[method, need] = self.train(method, need, material)
        self.stage.next("Training: RAFT")
        # The paper's setting: the reader trains on questions about the very documents that it will have to read.
        solved = [raft.Solved(r["prompt"], r["completion"]) for r in _once(items.taught)]
        material = raft.rows(solved, self.retriever, raft.Raft(seed=self.seed))
        adapters["raft", "facts"], seconds["raft", "facts"] = self.train(
            "lora", "facts", material * 6, name="raft", share=RAFT_STEPS
        )

        base = _load(None)
        timed: dict[str, Any] = dict.fromkeys(("base", "prompt", "rag"), base.model)
        for arm in ("base", "prompt", "rag"):
            self.stage.next(f"Asking: {ARMS[arm]}")
            for need in items.asked:
                # `changed` comes when the rows have changed; only what retrieves has a crowd before it
                if need != "changed" and (need != "crowd" or arm in RETRIEVING):
                    self.ask(arm, need, items.asked[need], base.model)
        for arm in ("lora", "full", "both", "raft"):
            self.stage.next(f"Asking: {ARMS[arm]}")
            method = {"both": "lora"}.get(arm, arm)
            for trained, measured in _TRAINED_FOR.items():
                if (method, trained) not in adapters or (arm == "both" and trained == "json"):
                    continue
                model = _load(adapters[method, trained]).model
                self.note(arm, trained, "training_seconds", seconds[method, trained])
                for need in measured:
                    if need == ("persona" if arm in RETRIEVING else "crowd"):
                        continue  # nothing to look up: it would be the answer without retrieval; nothing is retrieved
                    self.ask(arm, need, items.asked[need], model)
                if trained == "facts":
                    timed[arm] = model
                    self.note(arm, "", "storage_bytes", _size(adapters[method, trained]) + self.index_bytes(arm))
        self.time(items.asked["facts"], timed)
        for arm in ("base", "prompt", "rag"):
            self.note(arm, "", "storage_bytes", self.index_bytes(arm))
        self.update(items, adapters, base)
        self.retriever.store.close()

    def index_bytes(self, arm: str) -> int:
        return self.retriever.store.size_bytes() if arm in RETRIEVING else 0

    def update(self, items: Items, adapters: Mapping[tuple[str, str], Path], base: Any) -> None:
        """Rows change. Retrieval re-indexes them; fine-tuning still says what it was taught, until it trains anew."""
        self.stage.next("Rows change")
        began = time.perf_counter()
        change = self.retriever.store.put(items.changed)
        took = time.perf_counter() - began
        asked = items.asked["changed"]
        models = {"base": base.model, "prompt": base.model, "rag": base.model}
        models |= {arm: _load(adapters[arm, "facts"]).model for arm in ("lora", "full", "raft")}
        models["both"] = models["lora"]
        for arm, model in models.items():
            self.ask(arm, "changed", asked, model)
            if arm in RETRIEVING:
                self.note(arm, "changed", "update_seconds", took)
                self.note(arm, "changed", "update_items", change.added)
        for method in ("lora", "full"):
            self.stage.next(f"Training anew: {ARMS[method]}")
            folder, seconds = self.train(method, "facts", items.retaught, name=f"{method}-again")
            got = self.answers(method, "changed", asked, _load(folder).model)
            self.note(method, "changed", "right_after_update", statistics.fmean(g.right for g in got), len(got))
            self.note(method, "changed", "update_seconds", seconds)
            self.note(method, "changed", "update_items", len(items.retaught))

    def train(self, method: str, need: str, material: Any, name: str = "", share: float = 1.0) -> tuple[Path, float]:
        """Fine-tune on a task of the world, or on rows; the adapter's folder, and the seconds in steps.

        Args:
            share: of the steps that the need takes by default.
        """
        rows = None if isinstance(material, str) else material
        row = default_table()[method][need]
        steps = max(2, round(row["steps"] * self.config.steps * share))
        folder = self.folder / (name or f"{method}-{need}")
        data = None
        if rows is not None:
            data = self.folder / f"{folder.name}.jsonl"
            raft.write(data, rows)
        config = RunConfig(
            task=None if rows is not None else str(material), data=None if data is None else str(data), method=method,
            seed=self.seed,
            train=TrainConfig(
                learning_rate=row["learning_rate"], steps=steps, held_out=0.0, skill_items=0, eval_items=4,
                eval_every=steps, train_examples=min(2000, 32 * steps),
            ),
        )  # fmt: skip
        return _trained(config, folder)

    # --- asking -------------------------------------------------------------------------------------------------------

    def sent(self, arm: str, need: str, asked: Asked) -> tuple[tuple[Message, ...], tuple[Hit, ...]]:
        """The messages that an arm sends for a question, and the passages in them."""
        own = (Message("user", asked.prompt),)
        if arm in RETRIEVING and asked.look_up:
            hits = self.retriever.find(asked.look_up, PASSAGES.get(need, 1)).hits
            got = fit(asked.look_up, hits, self.tokenizer, self.context, reserve=ANSWER_TOKENS)
            if not asked.lead:
                return got.messages, got.hits
            return (Message("user", asked.lead + got.messages[-1].content),), got.hits
        if need == "skills" or arm not in ("prompt", "rag"):
            return own, ()
        solved = self.solved(need, asked) if arm == "rag" else self.shown.get(need, self.shown["facts"])
        shown = [m for q, a in solved for m in (Message("user", q), Message("assistant", a))]
        while len(prompt_ids(self.tokenizer, (*shown, *own))) + ANSWER_TOKENS > self.context:
            shown = shown[2:]
        return (*shown, *own), ()

    def solved(self, need: str, asked: Asked) -> list[tuple[str, str]]:
        """Where nothing can be looked up, retrieval can still bring the nearest of many solved examples, best last."""
        hits = self.alike[need].find(asked.prompt, SHOWN).hits
        return [(hit.chunk.text, self.answers_of[need][hit.chunk.source]) for hit in reversed(hits)]

    def answers(self, arm: str, need: str, asked: Sequence[Asked], model: Any) -> list[_Given]:
        from core.evaluate import generate

        sent = [self.sent(arm, need, a) for a in asked]
        texts = generate(model, self.tokenizer, [m for m, _ in sent], ANSWER_TOKENS)
        return [
            _Given(a, text, tuple(h.chunk.text for h in hits), len(prompt_ids(self.tokenizer, m)))
            for a, text, (m, hits) in zip(asked, texts, sent, strict=True)
        ]

    def ask(self, arm: str, need: str, asked: Sequence[Asked], model: Any) -> None:
        """Score one arm on one need."""
        got = self.answers(arm, need, asked, model)

        def share(name: str, values: Iterable[bool]) -> None:
            self.note(arm, need, name, statistics.fmean(values), len(got))

        share("right", (g.right for g in got))
        self.note(arm, need, "context_tokens", statistics.fmean(g.tokens for g in got), len(got))
        if need == "nowhere":
            share("invented", (not declines(g.text) for g in got))
        if need == "changed":
            share("stale", (g.asked.stale is not None and g.asked.stale(g.text) for g in got))
        if any(g.passages for g in got) and need != "both":
            share("faithful", (declines(g.text) or bool(citations(g.text, g.passages)) for g in got))
        if arm == "rag" and need in ("facts", "crowd", "rare", "changed"):
            share("recall", (bool(citations(g.asked.wanted, g.passages)) for g in got))
        one = got[0]
        self.examples.append(
            {"arm": arm, "need": need, "asked": one.asked.prompt, "wanted": one.asked.wanted, "answer": one.text,
             "passages": list(one.passages), "right": one.right}
        )  # fmt: skip

    def time(self, asked: Sequence[Asked], models: Mapping[str, Any]) -> None:
        """Latency of single questions, by parts. The arms take turns at each question, so that whatever else the
        machine does meets all of them; the shortest of several counts, since other work can only add to it."""
        from core.evaluate import stream

        parts: dict[str, dict[str, list[float]]] = {
            arm: {"retrieve_ms": [], "first_ms": [], "rest_ms": []} for arm in models
        }
        for a in asked[:TIMED]:
            for arm, model in models.items():
                began = time.perf_counter()
                if arm in RETRIEVING:
                    self.retriever.find(a.look_up, 1)
                found = time.perf_counter()
                messages, _ = self.sent(arm, "facts", a)
                asked_at = time.perf_counter()
                first = 0.0
                for _ in stream(model, self.tokenizer, messages, ANSWER_TOKENS):
                    first = first or time.perf_counter()
                ended = time.perf_counter()
                parts[arm]["retrieve_ms"].append(1000 * (found - began))
                parts[arm]["first_ms"].append(1000 * (first - asked_at))
                parts[arm]["rest_ms"].append(1000 * (ended - first))
        for arm, measured in parts.items():
            for name in LATENCY:
                self.note(arm, "", name, min(measured[name]), len(measured[name]))

    def latency(self) -> None:
        """The latency alone. It does not depend on what was learnt, so two steps of training are enough."""
        self.stage.next("Training two steps of each")
        items = self.prepared()
        few = 2 / default_table()["lora"]["facts"]["steps"]
        tuned = {m: _load(self.train(m, "facts", items.taught, share=few)[0]).model for m in ("lora", "full")}
        base = _load(None).model
        self.stage.next("Timing")
        models = {"base": base, "prompt": base, "rag": base, **tuned, "both": tuned["lora"], "raft": tuned["lora"]}
        self.time(items.asked["facts"], models)
        self.retriever.store.close()

    # --- wordings -----------------------------------------------------------------------------------------------------

    def wordings(self) -> None:
        asked = needs.questions_about_the_told(max(self.config.items, 40), self.seed)
        for how, count in _TOLD:
            self.stage.next(f"Facts as {how}, in {count} wording{'s' if count > 1 else ''}")
            rows = needs.told(how, count)
            # As many examples of each fact, whatever the wordings.
            folder, _ = self.train("lora", "facts", rows * (24 // count), name=f"told-{how}-{count}")
            got = self.answers("lora", "facts", asked, _load(folder).model)
            self.reworded.append(
                {"seed": self.seed, "told": how, "wordings": count, "right": statistics.fmean(g.right for g in got),
                 "named": statistics.fmean(g.asked.wanted in g.text for g in got), "count": len(got)}
            )  # fmt: skip


_TOLD = [(how, count) for how, counts in needs.WORDINGS.items() for count in counts]


@dataclass(frozen=True)
class _Given:
    """A question's answer, the passages that were read for it, and the tokens of its prompt."""

    asked: Asked
    text: str
    passages: tuple[str, ...]
    tokens: int

    @property
    def right(self) -> bool:
        return self.asked.right(self.text)


_TRAINED_FOR = {
    "facts": ("facts", "crowd", "rare", "nowhere", "skills"),
    "json": ("json",),
    "persona": ("persona", "both"),
}


def _once(rows: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Rows without their repetitions."""
    return list({r["prompt"]: r for r in rows}.values())


def _load(adapter: Path | None) -> Any:
    """The base with an adapter on it, or plain; on the device where it was trained."""
    from core.methods import load_saved
    from core.train import pick_device

    return load_saved(EMBEDDED, adapter, precision="float32", device=str(pick_device()))[0]


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def _trained(config: RunConfig, folder: Path) -> tuple[Path, float]:
    """Train to the end; the adapter's folder and the seconds of the steps.

    Raises:
        DeltalabError: the run failed.
    """
    from core.train import ADAPTER, train

    seconds = 0.0
    for event in train(config, folder):
        if event.kind == "failed":
            raise DeltalabError(getattr(event, "sentence", ""), getattr(event, "advice", ""))
        if event.kind == "finished":
            seconds = float(getattr(event, "seconds", 0.0))
    return folder / ADAPTER, seconds


# --- the record -------------------------------------------------------------------------------------------------------


def joined(before: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Two results of the same experiment as one: `more` has the seeds that follow those of `before`; or it is the
    latency alone, of the same seeds, which takes the place of theirs.

    Raises:
        BadInput: they are not of the same settings, or not of seeds that follow each other.
    """
    if more["settings"]["part"] == "latency":
        kept = [c for c in before["cells"] if c["measure"] not in LATENCY]
        same = {key: before[key] for key in ("wordings", "examples", "settings")}
        return {**same, "cells": [*kept, *more["cells"]], "seconds": before["seconds"] + more["seconds"]}
    kinds = [{k: v for k, v in r["settings"].items() if k not in ("seeds", "first")} for r in (before, more)]
    if (
        kinds[0] != kinds[1]
        or more["settings"]["first"] != before["settings"]["seeds"]
        or before["settings"].get("first", 0)
    ):
        raise BadInput("The experiment that is recorded had other settings.", "Record a new one from its first seed.")
    return {
        **{key: value for key, value in more.items() if key != "figures"},
        "cells": [*before["cells"], *more["cells"]],
        "wordings": [*before["wordings"], *more["wordings"]],
        "examples": before["examples"],
        "settings": {**before["settings"], "seeds": before["settings"]["seeds"] + more["settings"]["seeds"]},
        "seconds": before["seconds"] + more["seconds"],
    }


def recorded() -> dict[str, Any]:
    """The experiment that is shipped: provenance, and `cells` as `Cell`."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return {**found, "cells": [Cell(**c) for c in found["cells"]]}


@dataclass(frozen=True)
class Band:
    """Mean and range over the seeds; count: questions behind each."""

    mean: float
    low: float
    high: float
    seeds: int
    count: int


def bands(cells: Iterable[Cell]) -> dict[tuple[str, str, str], Band]:
    """(arm, need, measure) -> band."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.arm, cell.need, cell.measure), []).append(cell)
    return {
        key: Band(
            statistics.fmean(c.value for c in found), min(c.value for c in found), max(c.value for c in found),
            len(found), found[0].count,
        )
        for key, found in groups.items()
    }  # fmt: skip


SHARES = ("right", "stale", "invented", "faithful", "right_after_update", "recall")


def figures(cells: Iterable[Cell]) -> dict[str, dict[str, dict[str, float]]]:
    """arm -> need ('costs' for what has none) -> measure -> mean over the seeds; shares in per cent."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for (arm, need, name), band in bands(cells).items():
        value = 100 * band.mean if name in SHARES else band.mean
        out.setdefault(arm, {}).setdefault(need or "costs", {})[name] = value
    return out


def table(result: Mapping[str, Any]) -> list[str]:
    """The right answers of every need and arm, and the wordings, as lines for a terminal."""
    cells = [c if isinstance(c, Cell) else Cell(**c) for c in result["cells"]]
    found = bands(cells)
    out = []
    if cells:
        width = max(len(n.title) for n in NEEDS.values())
        out.append(" " * width + "".join(f"{title:>19}" for title in ARMS.values()))
        for need in NEEDS.values():
            row = [found.get((arm, need.name, "right")) for arm in ARMS]
            texts = ["–" if band is None else f"{100 * band.mean:.0f} %" for band in row]
            out.append(f"{need.title:<{width}}" + "".join(f"{text:>19}" for text in texts))
        row = [found.get((arm, "nowhere", "invented")) for arm in ARMS]
        texts = ["–" if band is None else f"{100 * band.mean:.0f} %" for band in row]
        out.append(f"{'… invented':<{width}}" + "".join(f"{text:>19}" for text in texts))
    for how, count in _TOLD:
        shares = [row["right"] for row in result["wordings"] if (row["told"], row["wordings"]) == (how, count)]
        if shares:
            share = f"{100 * statistics.fmean(shares):.0f} % of the questions right"
            out.append(f"Facts told as {how}, in {count} wording{'s' if count > 1 else ''}: {share}")
    return out
