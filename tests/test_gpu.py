"""`make gpu` where there is no GPU: what it does with the timings, on made-up ones."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch

from kernels import KERNELS, base, bench
from tests import gpu


def rows() -> list[dict[str, object]]:
    """A rehearsed row of each kernel, which is compared with its reference and not timed."""
    return [
        bench.row_of(n, import_module(f"kernels.{n}").CASES[1], torch.bfloat16, "cpu", True, False) for n in KERNELS
    ]


def test_the_rehearsal_goes_through_thresholds_and_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows()
    assert gpu.decisions(found, tmp_path) == 0
    assert f"{len(KERNELS)} kernels would be used" in capsys.readouterr().out
    assert not base.MEASURED.exists() or "0.0" not in json.loads(base.MEASURED.read_text(encoding="utf-8"))
    found[0]["passed"] = False
    assert gpu.decisions(found, tmp_path) == 1, "a wrong kernel is not used, and here all should be"


def test_what_is_kept_is_what_a_launch_is_decided_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "measured.json"
    bench.keep("9.0", {"rope": {"from": 100, "to": None}}, path)
    monkeypatch.setattr(base, "MEASURED", path)
    monkeypatch.setattr(base, "measured", base.measured.__wrapped__)
    monkeypatch.setattr(base, "runs_on", lambda x: True)
    monkeypatch.setattr(base, "INTERPRETED", False)
    monkeypatch.delenv(base.SETTING, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    x = torch.zeros(1)
    assert [base.pays("rope", x, n) for n in (99, 100)] == [False, True]
    assert not base.pays("swiglu", x, 100)
