"""Fits in the background: asked once, watched, shared, and refused in words."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import DeltalabError, Refused
from core.memory import fitter
from core.memory.estimate import Sizes
from core.memory.fitter import Fitter, alike
from core.memory.setup import Setup
from core.memory.tracer import Tracer
from core.methods import METHODS
from tests.core import memory_support

SECONDS = 90.0


@pytest.fixture(scope="module")
def running() -> Iterator[Fitter]:
    """One warm process for all tests of this file."""
    made = Fitter()
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    memory_support.config_of("qwen2").save_pretrained(path)
    return str(path)


def setup_of(method: str = "lora", **changes: object) -> Setup:
    values = {"batch": 2, "length": 64, **changes}
    settings = values.pop("settings", METHODS[method].Config())
    return Setup(method, settings, **values)  # type: ignore[arg-type]


def done(running: Fitter, kind: str, model: str, setup: Setup | None = None) -> fitter.Work:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        work = running.look(kind, model, setup)
        if work is not None and not work.active:
            return work
        time.sleep(0.05)
    raise AssertionError(f"{kind} of {model} is not done after {SECONDS} s")


def test_a_model_never_seen_is_fitted_once_and_then_known(running: Fitter, folder: str) -> None:
    from core.catalog import configuration
    from core.memory.trace import trace

    setup = setup_of()
    assert running.surrogate(folder, setup) is None
    assert running.look(fitter.FIT, folder, setup) is None
    assert running.ask(fitter.FIT, folder, setup, "alice").active
    assert running.ask(fitter.FIT, folder, setup, "bob").active, "the second who asks waits for the same"
    work = done(running, fitter.FIT, folder, setup)
    assert work.status == fitter.FINISHED, work.error
    other = setup_of(batch=5, length=90, settings=METHODS["lora"].Config(rank=3))
    made = running.surrogate(folder, other)
    assert made is not None, "it answers all sizes of its regime"
    assert made.peak_bytes(Sizes.of(other)) == trace(configuration(folder), other).peak_bytes
    assert running.surrogate(folder, setup_of(length=300)) is None, "a CPU takes another attention for longer rows"


def test_the_process_is_warmed_once(running: Fitter) -> None:
    running.warm()
    assert done(running, fitter.WARM, "").status == fitter.FINISHED
    before = running.look(fitter.WARM, "")
    running.warm()
    assert running.look(fitter.WARM, "") is before


def test_shipped_models_need_no_process() -> None:
    idle = Fitter(Tracer(("false",)))
    from core.catalog import gpu
    from core.memory.compare import on

    assert idle.surrogate("Llama-3.1-8B", on(setup_of(length=512), gpu("RTX 4090"))) is not None
    assert idle.surrogate("meta-llama/Llama-3.1-8B", on(setup_of(length=512), gpu("RTX 4090"))) is not None


def test_the_table_of_a_pasted_model(running: Fitter, folder: str) -> None:
    from core.architecture import architecture_of_config
    from core.catalog import configuration

    running.ask(fitter.TABLE, folder)
    found = done(running, fitter.TABLE, folder).result
    assert found.total == architecture_of_config(configuration(folder)).total


def test_a_trace_is_of_one_step(running: Fitter, folder: str) -> None:
    setup = setup_of(batch=3)
    running.ask(fitter.TRACE, folder, setup)
    result = done(running, fitter.TRACE, folder, setup).result
    assert result["timeline"]
    assert result["ledger"]["allocated_bytes"] == max(r["bytes"] for r in result["timeline"])
    assert running.look(fitter.TRACE, folder, setup_of(batch=4)) is None


def test_what_cannot_be_traced_is_said_and_can_be_asked_again(running: Fitter, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobody-knows-it"}))
    running.ask(fitter.TABLE, str(tmp_path))
    work = done(running, fitter.TABLE, str(tmp_path))
    assert work.status == fitter.FAILED
    assert isinstance(work.error, DeltalabError)
    assert running.ask(fitter.TABLE, str(tmp_path)).active, "asked again, it is tried again"
    done(running, fitter.TABLE, str(tmp_path))


def test_one_owner_cannot_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Fitter(Tracer(("sleep", "60")))
    monkeypatch.setattr(fitter, "MOST_WAITING", 2)
    for length in (100, 101, 102):
        stuck.ask(fitter.TRACE, "embedded", setup_of(length=length), "alice")
        time.sleep(0.1)  # the first one is taken from the queue
    with pytest.raises(Refused, match="wait already"):
        stuck.ask(fitter.TRACE, "embedded", setup_of(length=103), "alice")
    assert stuck.ask(fitter.TRACE, "embedded", setup_of(length=104), "bob").active
    stuck.close()


def test_any_dropout_takes_the_same_memory() -> None:
    some, more = (setup_of(settings=METHODS["lora"].Config(dropout=d)) for d in (0.05, 0.3))
    assert alike(some) == alike(more) != setup_of()
    assert alike(setup_of()) == setup_of()
