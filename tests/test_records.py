"""The committed records were made as they say, and hold what the project promises.

They are made on one machine and read on every other: nothing is measured here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from app import index
from core.sweep import base_hash
from tests import bench, bench_memory, lessons, time_pages
from tests.core.memory_support import grid
from tests.time_calculators import LIMITS, NEVER_SEEN, UPDATES

# Examples per second, engine / (Trainer + PEFT): each as it comes, and on the same batches and precision.
TARGETS = {"defaults": 1.3, "identical": 1.0}
LORA_TARGETS = {"defaults": 2.0, "identical": 1.4, bench.LARGER: 1.2}
FIVE_MINUTES = 300


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(bench.RECORD.read_text(encoding="utf-8"))
    return content


def test_the_cpu_record_was_made_with_the_default_arguments(record: dict[str, Any]) -> None:
    """A quick look with few rounds must not pass for the record."""
    assert record["command"] == "make bench"
    assert record["arguments"] == {"rounds": bench.ROUNDS, "steps": bench.STEPS, "methods": list(bench.BENCHED)}
    pairs = bench.comparisons(list(bench.BENCHED))
    smaller = [pair for pair in pairs if pair[1] != bench.LARGER]  # a record from before the larger model came
    assert [(r["method"], r["comparison"]) for r in record["rows"]] in (pairs, smaller)
    for row in record["rows"]:
        steps = bench.LARGER_STEPS if row["comparison"] == bench.LARGER else bench.STEPS
        assert (row["rounds"], row["engine_steps"]) == (bench.ROUNDS, steps)
        assert 0 < row["ratio_min"] <= row["ratio_median"] <= row["ratio_max"]


def test_the_cpu_record_is_of_the_base_that_is_shipped(record: dict[str, Any]) -> None:
    assert record["base"] == base_hash()


@pytest.mark.parametrize("kind", LORA_TARGETS)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_lora_is_as_much_faster_as_promised(record: dict[str, Any], method: str, kind: str) -> None:
    """And takes no more memory, where both sides train the same batches."""
    (row,) = (r for r in record["rows"] if (r["method"], r["comparison"]) == (method, kind))
    assert row["ratio_median"] >= LORA_TARGETS[kind], row
    assert kind == "defaults" or row["engine_peak_bytes"] <= row["stock_peak_bytes"], row


@pytest.mark.parametrize("kind", bench.KINDS)
def test_no_method_is_slower_than_with_the_stock_stack(record: dict[str, Any], kind: str) -> None:
    for row in record["rows"]:
        if row["comparison"] == kind:
            assert row["ratio_median"] >= TARGETS[kind], row


def test_the_cpu_record_has_the_peak_memory_of_both_sides(record: dict[str, Any]) -> None:
    """Of whole processes: Python and torch alone take more than 100 MiB, and the embedded base is small."""
    for row in record["rows"]:
        for side in bench.SIDES:
            assert 100 * 2**20 < row[f"{side}_peak_bytes"] < 16 * 2**30, row


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ([], "make bench"),
        (["--rounds", "1", "--method", "lora"], "python -m tests.bench --rounds 1 --method lora"),
        (["--out", "a file.json"], "python -m tests.bench --out 'a file.json'"),
    ],
)
def test_the_command_in_a_record_is_the_one_that_was_given(given: list[str], written: str) -> None:
    assert bench.command_of(given) == written


def test_a_record_says_how_it_was_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(bench, "compare", lambda *given: asked.append(given) or {"method": given[0]})
    given = ["--rounds", "2", "--steps", "3", "--method", "lora", "--out", str(tmp_path / "made.json")]
    assert bench.main(given) == 0
    made = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    assert asked == [("lora", kind, 2, 3) for kind in (*bench.KINDS, bench.LARGER)]
    assert made["arguments"] == {"rounds": 2, "steps": 3, "methods": ["lora"]}
    assert made["command"] == bench.command_of(given) != "make bench"


def test_rows_keep_what_they_were_measured_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A row that is added leaves the others' versions and days as they were; older records said them of all rows."""
    out = tmp_path / "made.json"
    before = {"date": "2026-01-02", "device": "another", "threads": 8, "versions": {"torch": "1.0"}}
    rows = [{"method": m, "comparison": "defaults", "ratio_median": 1.5} for m in ("full", "lora")]
    rows[1]["date"] = "2026-01-01"
    out.write_text(json.dumps({**before, "rows": rows}), encoding="utf-8")
    monkeypatch.setattr(
        bench, "compare", lambda *given: {"method": given[0], "comparison": given[1], "ratio_median": 2}
    )
    assert bench.main(["--add", "--method", "full", "--kind", "defaults", "--out", str(out)]) == 0
    full, lora = bench.rows_of(json.loads(out.read_text(encoding="utf-8")))
    assert lora == {**before, **rows[1]}
    assert full["ratio_median"] == 2
    assert full["versions"]["torch"] == torch.__version__
    assert full["date"] > "2026-01-02"


def test_every_row_says_where_it_was_measured(record: dict[str, Any]) -> None:
    for row in bench.rows_of(record):
        assert all(row[name] for name in bench.WHERE), row


def test_the_peak_of_a_process_is_its_own() -> None:
    """A small process that a large one starts stays small: what getrusage would say of it on Linux is the starter's."""
    kept = bytearray(b"x" * (400 * 2**20))  # resident, and this process holds torch besides
    code = (
        "from tests.bench import own_peak_bytes; print(own_peak_bytes())\n"
        "x = bytearray(b'x' * (600 * 2**20)); del x; print(own_peak_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=bench.ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert len(kept) == 400 * 2**20
    assert 100 * 2**20 < before < 500 * 2**20
    assert after > 600 * 2**20, "what was given back counts"


# --- make bench-memory ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def memory() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(bench_memory.RECORD.read_text(encoding="utf-8"))
    assert content["command"] == "make bench-memory"
    return dict(content["parts"])


def test_the_memory_record_has_every_part(memory: dict[str, Any]) -> None:
    assert set(memory) == set(bench_memory.PARTS)
    for part in memory.values():
        assert part["date"]
        assert part["versions"]["torch"]


def test_pieces_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, found = list(range(11)), []
    for number in (1, 2, 3, 4):
        monkeypatch.setattr(bench_memory, "PIECE", (number, 4))
        found += bench_memory.of_piece(cases)
    assert found == cases
    one, two = ({"configurations": n, "differ": d, "rows": ["x"] * d, "shipped": 7} for n, d in ((3, 1), (2, 0)))
    assert bench_memory.joined(one, two) == {"configurations": 5, "differ": 1, "rows": ["x"], "shipped": 7}


def test_counts_are_exact(memory: dict[str, Any]) -> None:
    counts = memory["counts"]
    assert counts["models"] >= 72
    assert counts["models_wrong"] == []
    assert counts["exact"] + counts["explained"] == len(counts["published"]) == 29
    assert counts["explained"] == 1
    assert all(row["total"] for row in counts["published"])


def test_traces_take_what_real_steps_take(memory: dict[str, Any]) -> None:
    steps = memory["steps"]
    assert steps["cases"] == steps["within"] >= 60
    assert steps["worst"] <= bench_memory.TOLERANCE
    assert {row["family"] for row in steps["rows"]} >= set(bench_memory.STEP_FAMILIES)


def test_runs_store_what_was_expected_of_them(memory: dict[str, Any]) -> None:
    """In bfloat16 the CPU's library takes scratch for some products, which no trace sees."""
    runs = memory["runs"]
    assert runs["cases"] == runs["both"] == len(grid())
    assert [(r["method"], r["precision"], r["settings"]) for r in runs["rows"]] == grid()
    assert runs["worst"]["float32"] <= bench_memory.TOLERANCE
    assert runs["worst"]["bfloat16"] <= 0.02


def test_surrogates_give_the_bytes_of_traces(memory: dict[str, Any]) -> None:
    surrogates = memory["surrogates"]
    assert surrogates["configurations"] == bench_memory.RANDOM == 200
    assert surrogates["differ"] == 0, surrogates["rows"]
    assert surrogates["models"] >= 25


def test_answers_come_in_time(memory: dict[str, Any]) -> None:
    """Of the processor, where another process works: the machine that made the record may have had other work."""
    instant = memory["instant"]
    assert instant["limits"] == LIMITS
    assert instant["machine"]
    assert instant["estimate_ms"]["median"] <= instant["slider_ms"]["median"] <= LIMITS["slider_ms"]
    took = instant["processor_seconds"]
    # (The page starts the process as soon as somebody chooses to describe a model.)
    assert took[f"{NEVER_SEEN}, process warm"] <= LIMITS["never seen"]
    assert took[f"{NEVER_SEEN}, process warm"] < took[NEVER_SEEN]
    assert instant["told"] >= 5, "progress can be seen meanwhile"
    assert all(seconds <= LIMITS["trace, 8B"] for what, seconds in took.items() if what.startswith("trace, 8B"))


def test_the_page_answers_in_time(memory: dict[str, Any]) -> None:
    page = memory["page"]
    assert page["updates"] == UPDATES
    assert page["median_ms"] <= LIMITS["page_ms"]


def test_the_recorded_race_is_of_every_method() -> None:
    """Nobody adds a method and leaves it out of the race that is shown at once."""
    from core.methods import METHODS
    from core.race import aggregate, recorded

    record = recorded()
    found = aggregate(record["rows"])
    assert set(found) == set(METHODS)
    assert all(band["exact_match"].count == record["seeds"] for band in found.values())
    assert not record["changed"]


def test_the_whole_race_took_at_most_five_minutes_a_seed() -> None:
    from core.methods import METHODS
    from core.race import Plan, recorded, steps_of

    record = recorded()
    usual = steps_of(Plan(task=record["task"], methods=tuple(METHODS)))
    if record["steps"] != usual:
        pytest.skip(f"The record is of a race of {record['steps']} steps, and one has {usual} by default.")
    assert record["seconds"] / record["seeds"] <= FIVE_MINUTES


# --- the course -----------------------------------------------------------------------------------------------------


def test_the_whole_course_ran_within_its_time() -> None:
    """Every lesson of today, all of them beside each other."""
    content = json.loads(lessons.RECORD.read_text(encoding="utf-8"))
    assert list(content["lessons"]) == [lesson.slug for lesson in index.lessons()]
    took = [row["seconds"] for row in content["lessons"].values()]
    assert sum(took) / content["kernels"] <= content["seconds"] <= min(lessons.LIMIT, sum(took))
    for row in content["lessons"].values():
        assert sum(row["cells"].values()) <= row["seconds"]


def test_every_lesson_is_soon_there_and_every_quiz_answers_at_once() -> None:
    content = json.loads(time_pages.RECORD.read_text(encoding="utf-8"))
    assert list(content["lessons"]) == [lesson.slug for lesson in index.lessons()]
    for lesson in index.lessons():
        row = content["lessons"][lesson.slug]
        assert 0 < row["seconds"]["median"] <= time_pages.OPEN_SECONDS, lesson.slug
        assert list(row["quizzes"]) == [cell.id for cell in lesson.cells if cell.kind == "quiz"]
        for name, quiz in row["quizzes"].items():
            assert 0 < quiz["ms"]["median"] <= time_pages.ANSWER_MS, name
