"""A run's events in order, and what happened in words."""

import dataclasses
import json

import pytest

from app.story import POINTS, Story, happened, noise, percent, slim, small
from core.config import RunConfig, with_settings
from core.events import Started, Stopped, to_dict
from tests.app.filling import events

# The steps are fixed here: the default is whatever the sweep found best.
CONFIG = with_settings(RunConfig(), {"steps": 120})


def dicts(**kwargs):
    return [to_dict(e) for e in events(CONFIG, **kwargs)]


def test_a_story_has_its_parts():
    story = Story.of(dicts())
    assert len(story.steps) == 120
    assert [e["step"] for e in story.evaluated] == [0, 30, 60, 90, 120]
    assert story.before["step"] == 0
    assert story.after["step"] == 120
    assert story.method == "lora"
    assert story.seconds == pytest.approx(21.6)
    assert story.end["kind"] == "finished"


def test_before_the_first_event_there_is_nothing():
    story = Story.of([])
    assert (story.before, story.after, story.seconds, story.total_steps, story.samples()) == (None, None, 0, 0, [])
    assert happened(story) == []


def test_a_resumed_run_is_told_once():
    first, second = dicts(until=50), dicts()
    again = {**second[0], "resumed_at": 40}
    rest = [e for e in second[1:] if e["kind"] not in ("step", "evaluated", "sampled") or e["step"] > 40]
    later = [{**e, "loss": 9.0} if e["kind"] == "step" else e for e in rest]
    story = Story.of([*first, to_dict(Stopped(50, 9.0)), again, *later])
    assert [s["step"] for s in story.steps] == list(range(1, 121))
    assert story.steps[39]["loss"] != 9.0
    assert story.steps[40]["loss"] == 9.0
    assert story.end["kind"] == "finished"


def test_samples_are_paired():
    rows = Story.of(dicts()).samples()
    assert len(rows) == 4
    assert rows[0]["right_before"] is False
    assert rows[0]["right"] is True
    assert rows[0]["after"] == rows[0]["reference"]
    early = Story.of(dicts(until=1)).samples()
    assert early[0]["after"] is None


def test_what_goes_to_the_browser_is_small_and_json():
    long = dataclasses.replace(RunConfig().train, steps=5000)
    every = [to_dict(e) for e in events(dataclasses.replace(RunConfig(), train=long))]
    kept = slim(every)
    steps = [e["step"] for e in kept if e["kind"] == "step"]
    assert len(steps) <= POINTS + 1
    assert steps[-1] == 5000
    assert {e["kind"] for e in kept} == {"started", "step", "evaluated", "sampled", "finished"}
    assert "config" not in kept[0]
    assert len(json.dumps(kept, allow_nan=False)) < 150_000


def test_a_loss_that_is_no_number_is_null():
    assert slim([{"kind": "step", "step": 1, "loss": float("nan"), "seconds": 0.1}])[0]["loss"] is None
    assert slim([{"kind": "step", "step": 1, "loss": None, "seconds": 0.1}])[0]["loss"] is None


def test_what_happened():
    words = " ".join(happened(Story.of(dicts()), title="JSON (structure)"))
    assert "JSON (structure): 0 % → 93 % of 100 held-out items" in words
    assert "(+93 points)" in words
    assert "fell from 5.40 to 0.14" in words
    assert "passage 95 % → 50 %" in words
    assert "61.4 k of 1.92 M parameters trained (3.2 %)" in words
    assert "245 KiB" in words


def test_what_was_lost_is_told_only_where_it_can_be_told_from_luck():
    every = dicts()
    for e in every:
        if e["kind"] == "evaluated":
            e["skills"] = {"sentiment": 1.0 if e["step"] == 0 else 0.975}
    assert "The one that was scored was kept" in " ".join(happened(Story.of(every)))


def test_expectations_are_answered():
    words = happened(Story.of(dicts()), expect={"You predicted": 0.6, "The recorded run reached": 0.93})
    assert "You predicted 60 %; this run reached 93 %: 33 points more." in words[-2]
    assert "exactly that" in words[-1]


def test_a_stopped_run_says_how_far_it_got():
    words = happened(Story.of([*dicts(until=40), to_dict(Stopped(40, 8.0))]))
    assert "after step 40 of 120" in words[-1]


def test_data_without_a_grader_is_told_by_its_loss():
    every = dicts()
    for e in every:
        if e["kind"] == "evaluated":
            e |= {"exact_match": None, "skills": {}}
    words = happened(Story.of(every))
    assert "exactly" not in " ".join(words)
    assert words[0].startswith("**The loss** on held-out answers fell")


def test_where_nothing_was_held_out_that_is_said_and_no_number_made_up():
    every = dicts(held_out=False)
    words = " ".join(happened(Story.of(every), expect={"You predicted": 0.6}))
    assert "**Nothing was held out**" in words
    assert "held-out answers" not in words
    assert "0.00" not in words
    assert "**The price.**" in words
    assert "passage 95 % → 50 %" in words  # old skills are scored on items of their own
    assert [e["loss"] for e in slim(every) if e["kind"] == "evaluated"] == [None] * 5
    assert "Nothing was held out" not in " ".join(happened(Story.of(dicts())))


def test_shares_for_people():
    assert [percent(0.944), percent(None), small(1.0), small(0.0319), small(0.00052), small(0)] == [
        "94 %", "not scored", "100 %", "3.2 %", "0.052 %", "0 %",
    ]  # fmt: skip
    assert noise(1.0, 40) > 0.02
    assert noise(0.5, 40) == pytest.approx(0.158, abs=0.001)


def test_a_start_without_parameters_breaks_nothing():
    start = Started({}, {}, "cpu", "float32", 0, 0, 0, 0, 10, {})
    assert happened(Story.of([to_dict(start)])) == []
