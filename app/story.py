"""A run as a page tells it: its event stream, put in order, and what happened in words, the visitor's. Pure otherwise.

A stream may contain a stretch twice: a run that was killed and resumed repeats the steps after its last checkpoint.
`Story.of` keeps the later telling, so that curves never run backwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.words import from_core, n, t
from core.units import bytes_text, count_text, seconds_text

POINTS = 1000
"""Most points of one curve that are sent to a browser; more cannot be told apart on a screen."""


@dataclass(frozen=True)
class Story:
    """A run's events in order.

    started: the last `started` event, or None. steps: `step` events, one per step number, ascending. evaluated and
    sampled: likewise, one per step. end: the last of `finished`, `stopped`, `failed`, or None while it runs.
    """

    started: Mapping[str, Any] | None = None
    steps: tuple[Mapping[str, Any], ...] = ()
    evaluated: tuple[Mapping[str, Any], ...] = ()
    sampled: tuple[Mapping[str, Any], ...] = ()
    end: Mapping[str, Any] | None = None
    saved: tuple[Mapping[str, Any], ...] = field(default=())

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> Story:
        """Put the event dicts (as `core.events.to_dict` writes them) of one run in order; unknown kinds are ignored."""
        started: Mapping[str, Any] | None = None
        end: Mapping[str, Any] | None = None
        by_step: dict[str, dict[int, Mapping[str, Any]]] = {"step": {}, "evaluated": {}, "sampled": {}}
        saved: list[Mapping[str, Any]] = []
        for event in events:
            kind = event.get("kind")
            if kind == "started":
                started, end = event, None
                resumed = int(event.get("resumed_at", 0))
                for rows in by_step.values():
                    for step in [s for s in rows if s > resumed]:
                        del rows[step]
            elif kind in by_step:
                by_step[str(kind)][int(event["step"])] = event
            elif kind == "saved":
                saved.append(event)
            elif kind in ("finished", "stopped", "failed"):
                end = event
        ordered = {kind: tuple(rows[s] for s in sorted(rows)) for kind, rows in by_step.items()}
        return cls(started, ordered["step"], ordered["evaluated"], ordered["sampled"], end, tuple(saved))

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved RunConfig as a dict; empty before the run started."""
        return (self.started or {}).get("config", {})

    @property
    def method(self) -> str:
        """Name of the method; empty when unknown."""
        return str(self.config.get("method", ""))

    @property
    def classifies(self) -> bool:
        """Whether the run trains labels on an encoder; its scores are accuracies then."""
        return bool((self.started or {}).get("base", {}).get("task") == "classification")

    @property
    def before(self) -> Mapping[str, Any] | None:
        """The scores before training (step 0), or None."""
        return self.evaluated[0] if self.evaluated and self.evaluated[0]["step"] == 0 else None

    @property
    def after(self) -> Mapping[str, Any] | None:
        """The latest scores after at least one step, or None."""
        return self.evaluated[-1] if self.evaluated and self.evaluated[-1]["step"] > 0 else None

    @property
    def total_steps(self) -> int:
        """Steps the run is to take; 0 when unknown."""
        return int((self.started or {}).get("steps", 0))

    @property
    def seconds(self) -> float:
        """Training time so far, in seconds."""
        if self.end is not None and "seconds" in self.end:
            return float(self.end["seconds"])
        return float(self.steps[-1]["seconds"]) if self.steps else 0.0

    def samples(self) -> list[dict[str, Any]]:
        """Rows of prompt, reference, before, after, right_before, right: the same prompts at the first and last look.

        Until a second look exists, `after` is None.
        """
        if not self.sampled:
            return []
        first, last = self.sampled[0], self.sampled[-1]
        later = {s["prompt"]: s for s in last["samples"]} if last["step"] > first["step"] else {}
        return [
            {
                "prompt": s["prompt"],
                "reference": s.get("reference", ""),
                "before": s["output"] if first["step"] == 0 else None,
                "right_before": s.get("right") if first["step"] == 0 else None,
                "after": later.get(s["prompt"], {}).get("output") if later else None,
                "right": later.get(s["prompt"], {}).get("right") if later else None,
            }
            for s in first["samples"]
        ]


def slim(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the live curve needs of the events, and no more: a few numbers each, step events thinned to `POINTS`."""
    kept: list[dict[str, Any]] = []
    events = list(events)
    steps = sum(e.get("kind") == "step" for e in events)
    every = max(1, math.ceil(steps / POINTS))
    seen = 0
    for e in events:
        kind = e.get("kind")
        if kind == "step":
            seen += 1
            if seen % every and seen != steps:
                continue
            kept.append({"kind": kind, "step": e["step"], "loss": _short(e["loss"]), "seconds": _short(e["seconds"])})
        elif kind == "preparing":
            kept = [k for k in kept if k["kind"] != kind]  # how far it is now; how far it was is of no interest
            kept.append({k: e[k] for k in ("kind", "base", "done_bytes", "total_bytes", "seconds")})
        elif kind == "started":
            kept.append(
                {"kind": kind, "steps": e["steps"], "resumed_at": e.get("resumed_at", 0), "device": e["device"]}
            )
        elif kind == "evaluated":
            row = {k: e[k] for k in ("kind", "step", "task", "items")}
            row["exact_match"] = None if e["exact_match"] is None else _short(e["exact_match"])
            row["loss"] = _short(e["loss"])
            row["skills"] = {name: _short(share) for name, share in e.get("skills", {}).items()}
            kept.append(row)
        elif kind == "sampled":
            kept.append({"kind": kind, "step": e["step"], "samples": [dict(s) for s in e["samples"]]})
        elif kind in ("finished", "stopped", "failed"):
            kept.append({"kind": kind, "step": e["step"]})
    return kept


def _short(number: float | None) -> float | None:
    """Four significant digits are more than a curve can show; what is no number is None (JSON has no NaN)."""
    return float(f"{number:.4g}") if number is not None and math.isfinite(number) else None


def skill_title(name: str) -> str:
    """An old skill as people read it, in the visitor's language: 'passage_copy' -> 'passage copy'."""
    return from_core(name.replace("_", " "))


def percent(share: float | None) -> str:
    """A share for a person: 0.944 -> '94 %', None -> 'not scored'."""
    return t("story.not_scored") if share is None else f"{100 * share:.0f} %"


def small(share: float) -> str:
    """A share that may be tiny: 1 -> '100 %', 0.0319 -> '3.2 %', 0.00052 -> '0.052 %'."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.2g} %"


def plain(text: str) -> str:
    """A text as it was typed: Markdown's signs (and Streamlit's own, such as :red[…]) lose their meaning."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>$~:|#" else c for c in text)


def noise(share: float, items: int) -> float:
    """Twice the standard error of a share measured on `items` items: smaller differences may be luck.

    Reckoned at (right + 1) / (items + 2) (Laplace's rule): 40 of 40 right does not mean that the share is exactly 1.
    """
    items = max(items, 1)
    likely = (share * items + 1) / (items + 2)
    return 2 * math.sqrt(likely * (1 - likely) / items)


def happened(story: Story, *, expect: Mapping[str, float] | None = None, title: str = "") -> list[str]:
    """What happened, as sentences made from the data alone.

    Args:
        story: the run.
        expect: what was expected, by whom -> exact match (0..1), e.g. {"You predicted": 0.6}; each becomes a
            comparison.
        title: the task's name as people read it; the task's key when empty.
    """
    out: list[str] = []
    before, after = story.before, story.after
    if after is not None:
        name = plain(title or str(after["task"]))
        kind = "labels" if story.classifies else "answers"
        took = {"steps": after["step"], "time": seconds_text(story.seconds)}
        if after["exact_match"] is not None and before is not None and before["exact_match"] is not None:
            gain = round(100 * after["exact_match"]) - round(100 * before["exact_match"])
            change = t("run.points", points=f"{gain:+d}") if gain else t("story.no_change")
            shares = {"before": percent(before["exact_match"]), "after": percent(after["exact_match"])}
            out.append(t(f"story.task.{kind}", task=name, items=after["items"], change=change, **shares, **took))
        if after.get("macro_f1") is not None:
            known = f"{percent(before.get('macro_f1'))} → " if before is not None else ""
            out.append(t("story.macro", share=known + percent(after["macro_f1"])))
        if not after["items"]:
            out.append(t("story.nothing_held_out"))
        elif before is not None and before["loss"] is not None and after["loss"] is not None:
            way = "fell" if after["loss"] < before["loss"] else "rose"
            losses = {"before": f"{before['loss']:.2f}", "after": f"{after['loss']:.2f}"}
            told = t(f"story.loss.{kind}.{way}", **losses)
            out.append(told + (t("story.took", **took) if after["exact_match"] is None else "."))
        out += _forgetting(before, after, int(story.config.get("train", {}).get("skill_items", 40) or 40))
    started = story.started
    if started is not None and started.get("total"):
        share = started["trainable"] / started["total"]
        counts = {"trained": count_text(started["trainable"]), "total": count_text(started["total"])}
        if story.end is not None and story.end.get("adapter_bytes"):
            size = bytes_text(story.end["adapter_bytes"])
            out.append(t("story.price_and_size", share=small(share), size=size, **counts))
        else:
            out.append(t("story.price", share=small(share), **counts))
    reached = after["exact_match"] if after is not None else None
    if reached is not None:
        for who, share in (expect or {}).items():
            gap = round(100 * reached) - round(100 * share)
            verdict = t(f"story.gap.{'none' if gap == 0 else 'more' if gap > 0 else 'less'}", points=abs(gap))
            out.append(t("story.compared", who=who, share=percent(share), reached=percent(reached), verdict=verdict))
    if story.end is not None and story.end["kind"] == "stopped":
        out.append(t("story.stopped", step=story.end["step"], steps=story.total_steps))
    return out


def _forgetting(before: Mapping[str, Any] | None, after: Mapping[str, Any], items: int) -> list[str]:
    if before is None or not before.get("skills") or not after.get("skills"):
        return []
    drops = {
        skill: (before["skills"][skill], share)
        for skill, share in after["skills"].items()
        if skill in before["skills"] and before["skills"][skill] - share > noise(before["skills"][skill], items)
    }
    total = len(after["skills"])
    if not drops:
        return [n("story.all_kept", total, total=total, items=items)]
    worst = sorted(drops.items(), key=lambda d: d[1][1] - d[1][0])
    told = ", ".join(f"{skill_title(skill)} {percent(a)} → {percent(b)}" for skill, (a, b) in worst)
    left = total - len(drops)
    kept = n("story.kept", left, left=left, total=total) if left else t("story.none_kept")
    return [t("story.forgot", told=told, kept=kept)]
