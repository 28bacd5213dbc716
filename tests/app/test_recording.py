"""`deltalab lessons record`: what is made, of what, and when it is made again. The runs are real, of two steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app import calc, index, lessons_command, recording
from tests.app.test_index import FRONT, write

QUICK = "{steps: 2, batch_size: 4, train_examples: 16, eval_items: 4, skill_items: 1}"
LESSON = f"""```{{compare}} ranks
title: Ranks
task: json
settings: {QUICK}
runs:
  - {{name: r1, label: "r = 1", method: lora, settings: {{rank: 1}}}}
  - {{name: r2, label: "r = 2", method: lora, settings: {{rank: 2}}}}
columns: [trainable, exact_match_after]
```

```{{probe}} directions
title: Directions
probe: spectrum
of: [ranks/r2]
settings: {{directions: 2}}
```
"""


@pytest.fixture
def lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DELTALAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(index, "ROOT", tmp_path / "lessons")
    return write(tmp_path / "lessons", LESSON)


def test_runs_and_measurements_are_made_and_made_again_when_the_lesson_changes(
    lesson: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = lesson.parent / "runs"
    assert index.read(lesson)[0] is None
    assert lessons_command.main(["record", "03_a_lesson"]) == 0
    said = capsys.readouterr().out
    assert "[1/3] compare ranks/r1: missing" in said
    assert "[3/3] probe directions: missing" in said
    assert sorted(p.relative_to(runs).as_posix() for p in runs.rglob("*") if p.is_file()) == [
        "directions.json", "ranks/r1.jsonl", "ranks/r2.jsonl",
    ]  # fmt: skip

    read, mistakes = index.read(lesson)
    assert mistakes == []
    assert read is not None
    found = json.loads((runs / "directions.json").read_text())
    assert found["settings"]["directions"] == 2
    assert found["of"] == ["ranks/r2"]
    assert found["provenance"]["device"]
    assert found["provenance"]["versions"]["torch"]
    assert found["provenance"]["command"] == "deltalab lessons record 03_a_lesson directions"
    first = json.loads((runs / "ranks" / "r2.jsonl").read_text().splitlines()[0])
    assert found["runs"] == {"ranks/r2": first["date"]}
    # Rank 2 shows in what was measured: no matrix changed in more than two directions.
    ranks = [m["effective_rank"] for m in found["result"]["modules"] if m.get("effective_rank")]
    assert ranks
    assert max(ranks) <= 2.001
    assert calc.recorded(lesson.parent, "ranks/r2", "trainable") == 2 * calc.recorded(
        lesson.parent, "ranks/r1", "trainable"
    )

    assert lessons_command.main(["record", "03_a_lesson"]) == 0
    assert "Everything is recorded" in capsys.readouterr().out
    lesson.write_text(FRONT + LESSON.replace("rank: 1}", "rank: 3}"))
    changed, _ = index.read(lesson, recorded=False)
    assert changed is not None
    assert [(j.name, recording.stale(changed, j)) for j in recording.chosen(changed, [])] == [
        ("ranks/r1", "made with other settings")
    ]
    lesson.write_text(FRONT + LESSON.replace("directions: 2}", "directions: 3}"))
    changed, _ = index.read(lesson, recorded=False)
    assert changed is not None
    assert [j.name for j in recording.chosen(changed, [])] == ["directions"]
    assert [j.name for j in recording.chosen(changed, ["ranks"])] == ["ranks/r1", "ranks/r2"]

    # Another machine has no adapter: the run is made once more, and must come out as it was recorded.
    kept = recording._kept(changed, "ranks/r2")
    (kept / "recorded.txt").write_text("another time")
    assert lessons_command.main(["record", "03_a_lesson", "directions"]) == 0
    assert "trained once more" in capsys.readouterr().out
    lines = (runs / "ranks" / "r2.jsonl").read_text().splitlines()
    bent = [json.dumps({**e, "loss": 9.0}) if (e := json.loads(line))["kind"] == "step" else line for line in lines]
    (runs / "ranks" / "r2.jsonl").write_text("\n".join(bent))
    (kept / "recorded.txt").write_text("another time")
    assert lessons_command.main(["record", "03_a_lesson", "directions"]) == 1
    assert "does not come out here as it was recorded" in capsys.readouterr().err


def test_what_the_command_is_not_given_rightly_is_said(lesson: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> Any:
        return lessons_command.main(["record", *arguments]), capsys.readouterr().err

    assert told("77_no_such") == (2, "There is no lesson '77_no_such'. There are: 03_a_lesson.\n")
    code, said = told("03_a_lesson", "ranks/r9")
    assert code == 2
    assert "records nothing called 'ranks/r9'. There are: ranks, directions, ranks/r1, ranks/r2." in said
    assert told("03_a_lesson", "directions")[0] == 1  # its run comes first
    lesson.write_text(FRONT + LESSON.replace("method: lora", "method: magic"))
    code, said = told("03_a_lesson")
    assert code == 2
    assert "03_a_lesson/lesson.md:" in said
