"""Published speeds: carried over as printed, asked as steps, and how far the model of time is from them."""

from __future__ import annotations

import statistics

import pytest

from core.memory import throughput
from core.memory.published import SOURCES
from core.memory.published import rows as memory_rows
from core.memory.speed import BAND, SHARE
from core.memory.throughput import FITTED_ON, Case, case, scored, share_reached
from core.memory.validation import record

CASES = [c for c in map(case, throughput.rows()) if isinstance(c, Case)]


def test_every_speed_is_a_question_or_has_a_reason() -> None:
    known = {r.id for r in memory_rows()}
    assert len({r.id for r in throughput.rows()}) == len(throughput.rows())
    for row in throughput.rows():
        assert row.source in SOURCES
        assert row.memory_row in known
        assert "@" in row.where
        found = case(row)
        assert isinstance(found, Case) or found.endswith(".")
    assert len(CASES) >= 19
    assert {c.row.source for c in CASES} >= {FITTED_ON, "torchtune-speed", "peft-bench"}


def test_a_speed_is_asked_of_the_step_that_ran() -> None:
    by_id = {c.row.id: c for c in CASES}
    packed = by_id["torchtune-flags/02"]
    assert (packed.measured, packed.setup.batch, packed.setup.length) == (7075, 2, 4096)
    short = by_id["peft-bench/19"]
    assert (short.setup.method, short.setup.settings.rank, short.setup.length) == ("lora", 32, 210)
    assert by_id["torchtune-speed/03"].setup.checkpointing


def test_the_share_that_was_reached_gives_what_was_measured() -> None:
    one = next(c for c in CASES if c.row.id == "torchtune-flags/03")
    done = one.work
    assert done is not None
    share = share_reached(one)
    assert 0.5 < share < 0.8
    assert done.tokens / done.seconds(share) == pytest.approx(one.measured)


def test_the_constants_are_what_the_record_says() -> None:
    """The share is of one source; the band holds all rows, those that took no part as well."""
    found = scored()
    kept = record()["speed"]
    assert found == kept, "run python -m tests.bench_memory --only speed"
    ours = [share_reached(c) for c in CASES if c.row.source == FITTED_ON]
    assert found["share"] == statistics.median(ours) == pytest.approx(SHARE, abs=0.005)
    low, high = found["band"]
    assert BAND[0] <= low < 1 < high <= BAND[1]
    assert max(low - BAND[0], BAND[1] - high) < 0.1, "no wider than what was found asks for"


def test_errors_are_of_the_rows_that_took_no_part() -> None:
    found = scored()
    assert found["held_out"]["rows"] == sum(r["source"] != FITTED_ON for r in found["rows"])
    assert {r["role"] for r in found["rows"] if r["source"] == FITTED_ON} == {"fitted"}
    by_hand = [abs(r["predicted"] / r["measured"] - 1) for r in found["rows"] if r["role"] == "held out"]
    assert found["held_out"]["mean_abs"] == pytest.approx(statistics.mean(by_hand), abs=1e-4)
    assert len(found["rows"]) + len(found["uncovered"]) == len(throughput.rows())
