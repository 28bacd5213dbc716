"""Recorded runs: really run, written whole, read back in the shape of a run, and told apart from one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.config import RunConfig
from core.errors import BadInput, DeltalabError
from core.events import Event, Started, from_dict
from core.runs.recorded import import_recorded, main, read, record
from tests.core.runs_support import quick_config, quick_losses, quick_train


def test_a_recording_has_the_shape_of_a_run(tmp_path: Path) -> None:
    config = quick_config(steps=12)
    heard: list[Event] = []
    path = tmp_path / "runs" / "first-run.jsonl"
    made = record(config, path, title="First run", command="how", on_event=heard.append, train=quick_train)
    assert import_recorded(path.parent) == {"first-run": made}
    run = made.run
    assert run.recorded
    assert (run.id, run.status, run.title, run.progress) == ("recorded-first-run", "finished", "First run", (12, 12))
    assert run.config["train"]["steps"] == 12
    assert run.adapter is None
    assert not run.resumable
    assert not run.active
    events = made.events()
    assert [seq for seq, _ in events] == list(range(1, len(events) + 1))
    assert [e["kind"] for _, e in events] == [e.kind for e in heard]
    assert [e["loss"] for _, e in made.events(kinds=("step",))] == quick_losses(config)
    assert made.events(after=3, limit=2) == events[3:5]
    assert isinstance(from_dict(events[0][1]), Started)
    assert made.provenance["device"] == "none"
    assert made.provenance["date"].endswith("+00:00")
    assert len(made.provenance["commit"]) >= 7
    assert made.provenance["command"] == "how"
    assert list(path.parent.iterdir()) == [path]  # nothing half-written beside it


def test_the_file_is_plain_json_lines(tmp_path: Path) -> None:
    record(quick_config(steps=3), tmp_path / "r.jsonl", train=quick_train)

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    lines = [json.loads(x, parse_constant=refuse) for x in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [x["kind"] for x in lines[:2]] == ["provenance", "started"]
    assert lines[-1]["kind"] == "finished"


def test_it_does_not_tell_where_things_lie_on_this_machine(tmp_path: Path) -> None:
    data, base = tmp_path / "mine.jsonl", tmp_path / "model"
    data.write_text("x")
    base.mkdir()

    def telling(config: RunConfig, folder: Path, **_: Any) -> Iterator[Event]:
        for event in quick_train(config, folder):
            if isinstance(event, Started):
                event.base.update(source=str(base), note=f"from {base}/config.json")
            yield event

    config = RunConfig(base=str(base), task=None, data=str(data), train=quick_config(3).train)
    made = record(config, tmp_path / "r.jsonl", train=telling)
    assert str(tmp_path) not in (tmp_path / "r.jsonl").read_text()
    assert made.run.config["data"] == "mine.jsonl"
    assert made.lines[0]["base"] == {"source": "model", "note": "from model/config.json"}


def test_a_failed_run_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(DeltalabError, match="not a number"):
        record(quick_config(seed=444), tmp_path / "r.jsonl", train=quick_train)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no beginning"),
        ("{}\n", "Line 1"),
        ('{"kind": "started"}\n', "Line 1"),
        ('{"kind": "provenance"}\n{"kind": "step"}\n', "no beginning"),
        ('{"kind": "provenance"}\nnonsense\n', "Line 2"),
        ('{"kind": "provenance"}\n{"kind": "started"}\n{"kind": "provenance"}\n', "Line 3"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(BadInput, match=match):
        read(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read(tmp_path / "none.jsonl")


def test_the_command_line_refuses_what_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "r.jsonl")
    for wrong in (["--method", "magic"], ["--set", "rank"], ["--set", "colour=red"], ["--task", "chess"]):
        assert main(["--out", out, *wrong]) == 2
        assert capsys.readouterr().err.strip()
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_really_runs_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs" / "r.jsonl"
    small = ["steps=2", "batch_size=4", "train_examples=16", "eval_items=4", "skill_items=0", "rank=2"]
    settings = [word for pair in small for word in ("--set", pair)]
    assert main(["--out", str(out), "--task", "json", "--method", "lora", *settings]) == 0, capsys.readouterr().err
    made = read(out)
    assert made.run.status == "finished"
    assert made.run.config["settings"]["rank"] == 2
    assert "--task json --method lora" in made.provenance["command"]
    assert {"torch", "transformers"} <= set(made.provenance["versions"])
    assert made.provenance["device"]
