"""Prompting, retrieval, fine-tuning, both, and RAFT on the same needs: what each gets right, and what it costs.

    base     the question alone
    prompt   the base, with three solved examples before the question
    rag      the base, with the best passage retrieved for the question; where there is nothing to look up (a format, a
             manner), with the solved examples that are nearest to it, so that there it is prompting, too
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
REPEATS = 3  # times each of them is asked; other work can only add to a time, so the shortest counts
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
LATENCY = ("retrieve_ms", "first_ms", "token_ms")
EVERY = "all"
SHOWN, EXAMPLES = 3, 200  # solved examples in a prompt, and among which the nearest are looked up
RECORD = Path(__file__).parents[1] / "catalog" / "rag_embedded.json"
"""Written by `deltalab rag experiment --record core/catalog/rag_embedded.json`; see its `command`."""


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    seeds: int = knob(
        1, "How often everything is drawn, trained and asked anew.", unit="seeds", low=1, high=MOST_SEEDS, folded=False,
        why="One takes about seven minutes on two idle cores; three say how much of it was luck.",
    )  # fmt: skip
    first: int = knob(
        0, "The first of the seeds; others go on where an earlier experiment ended.", low=0, high=99, form=False,
        why="0: from the beginning.",
    )  # fmt: skip
    items: int = knob(
        40, "Questions of a need, at most: there are ten changed facts and sixteen rare ones.", unit="questions", low=8,
        high=200, why="With forty, shares near a half are known to within 15 points; with three times as many, to 9.",
    )  # fmt: skip
    steps: float = knob(
        1.0, "Training steps, as a multiple of what the sweep found.", low=0.05, high=4.0,
        why="The tasks' own defaults; more for slower learners.",
    )  # fmt: skip
    part: str = knob(
        "all", "Which part: the needs, the rewordings, or both; or the latency alone.",
        choices=("all", "needs", "wordings", "latency"), form=False,
        why="Together they take about seven minutes on two idle cores.",
    )  # fmt: skip
    arms: str = knob(
        EVERY, "Which arms are asked about the needs: all, or some with commas between, to measure them anew.",
        form=False, why="What trains nothing (base,prompt,rag) is measured within a minute.",
    )  # fmt: skip

    @property
    def asked(self) -> tuple[str, ...]:
        """The arms, in the order of ARMS.

        Raises:
            BadInput: there is no such arm; or parts are measured that are of all arms.
        """
        if self.arms == EVERY:
            return tuple(ARMS)
        wanted = {name.strip() for name in self.arms.split(",")}
        if wanted - set(ARMS):
            raise BadInput(f"There is no arm {min(wanted - set(ARMS))!r}.", f"The arms are {', '.join(ARMS)}.")
        if self.part != "needs":
            raise BadInput("Some of the arms can be asked about the needs only.", "Add part=needs.")
        return tuple(arm for arm in ARMS if arm in wanted)


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
    "refused": "answers that say that it is not said",
    "sourced": "of the answers given, those that stand in the passage about the one who was asked about",
    "borrowed": "of the answers given, those that stand in a passage about somebody else only",
    "right_after_update": "right answers once the change was trained or indexed",
    "update_seconds": "seconds for an update",
    "update_items": "items trained or indexed for an update",
    "training_seconds": "seconds of training",
    "retrieve_ms": "milliseconds to retrieve",
    "first_ms": "milliseconds from there to the first token",
    "token_ms": "milliseconds for each further token",
    "context_tokens": "tokens in the prompt",
    "storage_bytes": "bytes beside the base and the embedder",
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
    asked = config.asked
    began = time.perf_counter()
    stages = (4 + 2 * len(asked) if config.part in ("all", "needs") else 0) + (
        len(_TOLD) if config.part in ("all", "wordings") else 0
    )
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
        arms = self.config.asked
        adapters, seconds = self.trained(items)
        base = _load(None)
        untrained: list[str] = [arm for arm in ("base", "prompt", "rag") if arm in arms]
        timed: dict[str, Any] = dict.fromkeys(untrained, base.model)
        for arm in untrained:
            self.stage.next(f"Asking: {ARMS[arm]}")
            for need in items.asked:
                # `changed` comes when the rows have changed; only what retrieves has a crowd before it
                if need != "changed" and (need != "crowd" or arm in RETRIEVING):
                    self.ask(arm, need, items.asked[need], base.model)
        for arm in [arm for arm in ("lora", "full", "both", "raft") if arm in arms]:
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
        if self.config.arms == EVERY:
            self.time(items.asked["facts"], timed)
        for arm in untrained:
            self.note(arm, "", "storage_bytes", self.index_bytes(arm))
        self.update(items, adapters, base)
        self.retriever.store.close()

    def trained(self, items: Items) -> tuple[dict[tuple[str, str], Path], dict[tuple[str, str], float]]:
        """What the arms need: (method or "raft", need) -> the adapter's folder, and the seconds of its training."""
        arms = self.config.asked
        ways = {"facts": items.taught, "json": "json", "persona": "persona"}
        adapters: dict[tuple[str, str], Path] = {}
        seconds: dict[tuple[str, str], float] = {}
        for method in ("lora", "full"):
            for need, material in ways.items():
                if method in arms or (method == "lora" and "both" in arms and need != "json"):
                    self.stage.next(f"Training: {ARMS[method]}, {NEEDS[need].title.lower()}")
                    adapters[method, need], seconds[method, need] = self.train(method, need, material)
        if "raft" in arms:
            self.stage.next("Training: RAFT")
            # The reader trains on questions about the very facts that it will be asked for, in other wordings: more
            # than the paper's setting, whose training questions are about the same documents.
            solved = [raft.Solved(r["prompt"], r["completion"]) for r in _once(items.taught)]
            rows = raft.rows(solved, self.retriever, raft.Raft(seed=self.seed))
            adapters["raft", "facts"], seconds["raft", "facts"] = self.train(
                "lora", "facts", rows * 6, name="raft", share=RAFT_STEPS
            )
        return adapters, seconds

    def index_bytes(self, arm: str) -> int:
        return self.retriever.store.size_bytes() if arm in RETRIEVING else 0

    def update(self, items: Items, adapters: Mapping[tuple[str, str], Path], base: Any) -> None:
        """Rows change. Retrieval re-indexes them; fine-tuning still says what it was taught, until it trains anew."""
        self.stage.next("Rows change")
        began = time.perf_counter()
        change = self.retriever.store.put(items.changed)
        took = time.perf_counter() - began
        asked = items.asked["changed"]
        arms = self.config.asked
        taught = {arm: {"both": "lora"}.get(arm, arm) for arm in arms if arm not in ("base", "prompt", "rag")}
        models = {method: _load(adapters[method, "facts"]).model for method in dict.fromkeys(taught.values())}
        for arm in arms:
            self.ask(arm, "changed", asked, models[taught[arm]] if arm in taught else base.model)
            if arm in RETRIEVING:
                self.note(arm, "changed", "update_seconds", took)
                self.note(arm, "changed", "update_items", change.added)
        for method in [arm for arm in ("lora", "full") if arm in arms]:
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
        if need in ABOUT_PEOPLE:
            share("refused", (declines(g.text) for g in got))
        given = [g for g in got if g.passages and not declines(g.text)]
        if given and need in ABOUT_PEOPLE:
            for name, own in (("sourced", True), ("borrowed", False)):
                self.note(arm, need, name, statistics.fmean(g.source is own for g in given), len(given))
        if arm == "rag" and need in ABOUT_PEOPLE and need != "nowhere":
            share("recall", (bool(citations(g.asked.wanted, g.passages)) for g in got))
        one = got[0]
        self.examples.append(
            {"arm": arm, "need": need, "asked": one.asked.prompt, "wanted": one.asked.wanted, "answer": one.text,
             "passages": list(one.passages), "right": one.right}
        )  # fmt: skip

    def time(self, asked: Sequence[Asked], models: Mapping[str, Any]) -> None:
        """Latency of single questions, by parts: the median over the questions, each asked several times.

        The arms take turns at each question, so that whatever else the machine does meets all of them. What comes
        behind the first token is told by the token, since answers are of different lengths.
        """
        parts: dict[str, dict[str, list[float]]] = {arm: {name: [] for name in LATENCY} for arm in models}
        for a in asked[:TIMED]:
            tries: dict[str, list[dict[str, float]]] = {arm: [] for arm in models}
            for _ in range(REPEATS):
                for arm, model in models.items():
                    tries[arm].append(self.timed(arm, a, model))
            for arm, found in tries.items():
                for name in LATENCY:
                    parts[arm][name].append(min(one[name] for one in found))
        for arm, measured in parts.items():
            for name in LATENCY:
                self.note(arm, "", name, statistics.median(measured[name]), len(measured[name]))

    def timed(self, arm: str, a: Asked, model: Any) -> dict[str, float]:
        """One question's times in milliseconds; an answer of a single token has no further one, and counts as 0."""
        from core.evaluate import stream

        began = time.perf_counter()
        if arm in RETRIEVING:
            self.retriever.find(a.look_up, 1)
        found = time.perf_counter()
        messages, _ = self.sent(arm, "facts", a)
        asked_at = time.perf_counter()
        came = [time.perf_counter() for _ in stream(model, self.tokenizer, messages, ANSWER_TOKENS)]
        first = came[0] if came else time.perf_counter()
        further = (came[-1] - first) / (len(came) - 1) if len(came) > 1 else 0.0
        times = (found - began, first - asked_at, further)
        return {name: 1000 * seconds for name, seconds in zip(LATENCY, times, strict=True)}

    def latency(self) -> None:
        """The latency alone. Until the first token, and for each further one, it depends on the shapes and not on what
        was learnt, so two steps of training are enough."""
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

    @property
    def source(self) -> bool | None:
        """Whether the answer stands in a passage about the one who was asked about; False: only in one about somebody
        else; None: in none."""
        cited = [self.passages[n - 1] for n in citations(self.text, self.passages)]
        return any(self.asked.about in passage for passage in cited) if cited else None


ABOUT_PEOPLE = ("facts", "crowd", "changed", "rare", "nowhere")
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
    """Two results of the same experiment as one: `more` has the seeds that follow those of `before`; or it has some of
    the arms, or the latency, of the same seeds, which take the place of theirs. (What some of the arms took in seconds
    stays as it was: times belong together.)

    Raises:
        BadInput: they are not of the same settings, or not of the seeds that are called for.
    """
    first, then = ({**dataclasses.asdict(Config()), **r["settings"]} for r in (before, more))
    same = {key: before[key] for key in ("wordings", "examples", "settings", "seconds")}
    if then["part"] == "latency":
        kept = [c for c in before["cells"] if c["measure"] not in (*LATENCY, *FORMER)]
        return {**same, "cells": [*kept, *more["cells"]]}
    again = then["arms"] != EVERY
    apart = {"seeds", "first", *(("arms", "part") if again else ())}
    start = 0 if again else first["seeds"]
    if again and first["seeds"] != then["seeds"]:
        start = -1
    if any(first[key] != then[key] for key in first.keys() - apart) or then["first"] != start or first["first"]:
        raise BadInput("The experiment that is recorded had other settings.", "Record a new one from its first seed.")
    if again:
        arms = Config(**then).asked
        kept = [c for c in before["cells"] if c["arm"] not in arms or _is_time(c["measure"])]
        cells = [*kept, *(c for c in more["cells"] if not _is_time(c["measure"]))]
        shown = [e for e in before["examples"] if e["arm"] not in arms]
        return {**same, "cells": cells, "examples": [*shown, *more["examples"]]}
    return {
        **{key: value for key, value in more.items() if key != "figures"},
        "cells": [*before["cells"], *more["cells"]],
        "wordings": [*before["wordings"], *more["wordings"]],
        "examples": before["examples"],
        "settings": {**before["settings"], "seeds": first["seeds"] + then["seeds"]},
        "seconds": before["seconds"] + more["seconds"],
    }


def _is_time(measure: str) -> bool:
    return measure in LATENCY or measure.endswith("_seconds")


FORMER = ("rest_ms", "faithful")
"""Measures of earlier versions, left out where a record still has them: the rest of an answer, whatever its length; and
answers that stand in any passage, whoever it is about."""


def recorded() -> dict[str, Any]:
    """The experiment that is shipped: provenance, and `cells` as `Cell`."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return {**found, "cells": [Cell(**c) for c in found["cells"] if c["measure"] not in FORMER]}


@dataclass(frozen=True)
class Band:
    """Mean and range over the seeds. count: questions of a seed, about; asked: of all of them."""

    mean: float
    low: float
    high: float
    seeds: int
    count: int
    asked: int = 0

    @property
    def questions(self) -> int:
        """How many stand behind the mean."""
        return self.asked or self.seeds * self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share is, with 95 % confidence, as far as the questions tell (`wilson`); and as wide as the seeds
        are apart, where that is wider. Seeds draw other questions and train anew, so of one seed it does not hold the
        luck of the training."""
        low, high = wilson(self.mean, self.questions)
        return min(low, self.low), max(high, self.high)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The score interval of a share, with 95 % confidence.

        (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n),  z = 1.96

    Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22: 209-212. It holds for
    few questions and for shares of 0 and 1, too.
    """
    z = 1.959964
    middle = share + z * z / (2 * count)
    half = z * ((share * (1 - share) + z * z / (4 * count)) / count) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / count) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def bands(cells: Iterable[Cell]) -> dict[tuple[str, str, str], Band]:
    """(arm, need, measure) -> band; the mean weighs each seed by its questions."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.arm, cell.need, cell.measure), []).append(cell)
    out = {}
    for key, found in groups.items():
        asked = sum(c.count for c in found)
        values = [c.value for c in found]
        mean = sum(c.value * c.count for c in found) / asked
        out[key] = Band(mean, min(values), max(values), len(found), found[0].count, asked)
    return out


SHARES = ("right", "stale", "invented", "refused", "sourced", "borrowed", "right_after_update", "recall")


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
