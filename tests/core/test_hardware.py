"""What is said about the machine, held against the system's own answers; and the choices that depend on speed."""

from __future__ import annotations

import json
import os
import platform
import re
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from core import hardware
from core.hardware import (
    Card,
    Choice,
    attached,
    attached_light,
    best_threads,
    cores,
    cpu_name,
    free_memory_bytes,
    memory_bytes,
    pick_precision,
    precision_choice,
    threads_choice,
)


def run(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def files(**content: str):
    """A `_read` that knows these files only; for limits that a test cannot impose on itself."""
    known = {key.replace("__", "/"): value for key, value in content.items()}
    return lambda path: next((v for k, v in known.items() if str(path).endswith(k)), "")


def test_the_processor_is_named_exactly():
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("compares with x86 Linux's /proc/cpuinfo")
    line = next(x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name"))
    assert cpu_name() == " ".join(line.partition(":")[2].split())


def test_memory_is_within_what_the_system_says():
    system = psutil.virtual_memory()
    assert 0 < memory_bytes() <= system.total
    assert 0 < free_memory_bytes() <= memory_bytes()


def test_cores_follow_the_affinity():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU affinity")
    code = (
        "import os\nfrom core.hardware import cores, best_threads, physical_cores\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(cores(), best_threads(), physical_cores())"
    )
    assert run(code) == "1 1 1"
    assert cores() <= len(os.sched_getaffinity(0))


def test_a_quota_limits_the_cores(monkeypatch):
    monkeypatch.setattr(hardware, "_affinity", lambda: set(range(64)))
    own = {"proc__self__cgroup": "0::/pod/me\n"}
    for limit, expected in (("150000 100000", 1), ("800000 100000", 8), ("50000 100000", 1), ("max 100000", 64)):
        monkeypatch.setattr(hardware, "_read", files(**{**own, "pod__me__cpu.max": limit}))
        assert cores() == expected
    # The outer group may be the tighter one.
    monkeypatch.setattr(
        hardware, "_read", files(**{**own, "pod__me__cpu.max": "max 100000", "pod__cpu.max": "300000 100000"})
    )
    assert cores() == 3
    old = {"cpu.cfs_quota_us": "250000", "cpu.cfs_period_us": "100000"}
    monkeypatch.setattr(hardware, "_read", files(**old))
    assert cores() == 2


def test_a_container_limits_the_memory(monkeypatch):
    gib = 2**30
    monkeypatch.setattr(
        hardware,
        "_read",
        files(
            **{
                "proc__self__cgroup": "0::/me\n",
                "me__memory.max": str(gib),
                "me__memory.current": str(gib // 2),
                "me__memory.stat": f"anon 1\ninactive_file {gib // 4}\nactive_file 2\n",
            }
        ),
    )
    assert memory_bytes() == gib
    assert free_memory_bytes() == gib - gib // 4
    monkeypatch.setattr(hardware, "_read", lambda _: "")
    assert memory_bytes() == psutil.virtual_memory().total


def test_threads_one_per_physical_core(monkeypatch):
    for allowed, physical, expected in ((8, 4, 4), (2, None, 2), (64, 32, 16), (1, 1, 1), (3, 8, 3)):
        monkeypatch.setattr(hardware, "cores", lambda allowed=allowed: allowed)
        monkeypatch.setattr(hardware, "physical_cores", lambda physical=physical: physical)
        monkeypatch.setattr(hardware, "_busy", lambda _: True)
        assert best_threads() == expected
        assert "one per physical core" in threads_choice().why


def test_threads_are_timed_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DELTALAB_HOME", str(tmp_path))
    monkeypatch.setattr(hardware, "cores", lambda: 4)
    monkeypatch.setattr(hardware, "physical_cores", lambda: 2)
    asked = []

    def seconds(counts: tuple[int, ...]) -> dict[int, float]:
        asked.append(counts)
        return {2: 1.0, 1: 1.4, 4: 0.7}

    monkeypatch.setattr(hardware, "_busy", lambda _: True)
    monkeypatch.setattr(hardware, "_thread_seconds", seconds)
    assert best_threads() == 2
    assert "busy" in threads_choice().why
    assert not asked
    monkeypatch.setattr(hardware, "_busy", lambda _: False)
    first = threads_choice()
    assert (first.value, first.ratio) == ("4", 1.43)
    assert "1.43 times as long with 2" in first.why
    monkeypatch.setattr(hardware, "_thread_seconds", lambda _: {2: 1.0, 1: 0.1, 4: 1.0})
    assert threads_choice() == first, "it is kept, whatever a later timing would say"
    assert asked == [(2, 1, 4)]
    monkeypatch.setattr(hardware, "_busy", lambda _: True)
    assert threads_choice() == first, "however busy the machine is later"
    pick_precision("cpu")
    assert set(json.loads((tmp_path / "hardware.json").read_text())) == {"threads", "precision"}
    assert threads_choice() == first


def test_another_number_of_threads_must_be_clearly_faster():
    close = hardware._clearest(2, "the rule", {2: 1.0, 1: 0.9})
    assert (close.value, close.ratio) == ("2", 1.0)
    assert "1: 0.90" in close.why
    assert hardware._clearest(2, "the rule", {2: 1.0, 1: 0.5}).value == "1"


def test_a_number_of_threads_that_is_set_holds(monkeypatch):
    monkeypatch.setenv("DELTALAB_THREADS", "3")
    assert best_threads() == 3
    assert "DELTALAB_THREADS" in threads_choice().why
    for nothing in ("", "0", "many", "-1"):
        monkeypatch.setenv("DELTALAB_THREADS", nothing)
        monkeypatch.setattr(hardware, "cores", lambda: 1)
        assert best_threads() == 1


def test_the_timing_of_threads_leaves_their_number_as_it_was():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    found = hardware._thread_seconds((1, 2))
    assert set(found) == {1, 2}
    assert all(0 < seconds < 10 for seconds in found.values())
    assert torch.get_num_threads() == before


def test_the_light_description_loads_no_torch():
    out = run(
        "import sys, json\nfrom core.hardware import attached_light\nh = attached_light()\n"
        "assert 'torch' not in sys.modules and 'bitsandbytes' not in sys.modules\n"
        "print(json.dumps([h.to_dict(), h.chip()]))"
    )
    described, chip = json.loads(out)
    assert described["cpu"] == cpu_name()
    assert described["cores"] == cores()
    assert chip
    assert described["versions"]["python"] == platform.python_version()


def test_light_and_full_agree_on_what_both_know():
    light, full = attached_light(), attached()
    for name in ("name", "kind", "cpu", "cores", "physical_cores", "ram_bytes", "dtypes", "versions", "system"):
        assert getattr(light, name) == getattr(full, name), name
    assert full.bitsandbytes.startswith(full.versions["bitsandbytes"])
    assert "compiled for" in full.bitsandbytes or "fallback" in full.bitsandbytes
    if full.kind == "cpu":
        assert any("No GPU" in note for note in full.notes)


def smi(folder: Path, text: str) -> str:
    """A `nvidia-smi` that prints `text`, on a PATH of its own."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


ROWS = (
    "0, GPU-aaaa-1, NVIDIA H200, 143771, 9.0, 570.86.15\n"
    "1, GPU-bbbb-2, NVIDIA GeForce RTX 2080 Ti, 11264, 7.5, 570.86.15"
)


def test_cards_from_the_driver_without_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", smi(tmp_path, ROWS))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = hardware._nvidia_cards()
    assert first == Card("NVIDIA H200", 143771 * 2**20, "9.0", "570.86.15")
    assert second.name == "NVIDIA GeForce RTX 2080 Ti"
    for visible, names in (("1", [second]), ("1,0", [second, first]), ("GPU-aaaa", [first]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert list(hardware._nvidia_cards()) == names, visible
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for text in ("No devices were found", "0, GPU-1, NVIDIA Odd, [N/A], 8.6, 1.2"):
        monkeypatch.setenv("PATH", smi(tmp_path, text))
        assert [card.memory_bytes for card in hardware._nvidia_cards()] == ([None] if "Odd" in text else [])
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert hardware._nvidia_cards() == ()


def test_what_a_card_means_for_training(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", smi(tmp_path, ROWS))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    new, old = hardware._nvidia_cards()
    used = hardware._hardware((new,), True, "0.50 (compiled for CUDA)")
    assert (used.kind, used.name, used.chip()) == ("cuda", "NVIDIA H200", "NVIDIA H200, 140 GiB")
    assert "bfloat16" in used.dtypes
    aged = hardware._hardware((old,), True, "0.50 (compiled for CUDA)")
    assert "bfloat16" not in aged.dtypes
    assert any("no bfloat16" in note for note in aged.notes)
    idle = hardware._hardware((new,), False, "missing")
    assert idle.kind == "cpu"
    assert any("built without CUDA" in note for note in idle.notes)
    assert any("bitsandbytes is not installed" in note for note in idle.notes)


def test_the_precision_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DELTALAB_HOME", str(tmp_path))
    measured = []

    def ratio() -> float:
        measured.append(1)
        return 0.8

    real = hardware._time_ratio()
    assert 0.05 < real < 50
    monkeypatch.setattr(hardware, "_time_ratio", ratio)
    first = precision_choice("cpu")
    assert first == Choice("float32", 0.8, first.why)
    assert pick_precision("cpu") == "float32"
    assert len(measured) == 1
    kept = json.loads((tmp_path / "hardware.json").read_text())
    assert cpu_name() in next(iter(kept["precision"]))
    for damage in ("", "[]", '{"precision": []}', '{"precision": {"x": 1}}'):
        (tmp_path / "hardware.json").write_text(damage)
        before = len(measured)
        assert pick_precision("cpu") == "float32"
        assert len(measured) == before + 1
        assert pick_precision("cpu") == "float32"
        assert len(measured) == before + 1


def test_bfloat16_must_be_worth_its_rounding():
    assert hardware._choose(0.5).value == "float32"
    assert hardware._choose(1.05).value == "float32"
    assert hardware._choose(2.0).value == "bfloat16"
    assert "2.00 times" in hardware._choose(2.0).why


def test_a_data_folder_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DELTALAB_HOME", str(tmp_path / "file" / "below"))
    assert pick_precision("cpu") in ("float32", "bfloat16")


def test_the_measured_choice_is_that_of_a_plain_timing(tmp_path, monkeypatch):
    """On this machine, whatever it is: where one format is clearly faster in a real step, the choice says so."""
    monkeypatch.setenv("DELTALAB_HOME", str(tmp_path))
    choice = precision_choice("cpu")
    assert choice.ratio is not None
    assert choice.value == ("bfloat16" if choice.ratio >= hardware.WORTHWHILE else "float32")
    assert re.search(r"\d\.\d\d times", choice.why)


@pytest.mark.gpu
def test_a_real_gpu_is_described():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    full = attached()
    assert full.name == torch.cuda.get_device_name(0)
    assert full.memory_bytes == torch.cuda.get_device_properties(0).total_memory
    assert attached_light().name == full.name
    assert precision_choice("cuda").ratio is None


@pytest.mark.parametrize(("given", "wanted"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(given: dict[str, str], wanted: str) -> None:
    """Set before torch is there to read it."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | given
    code = "import core, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.split() == [wanted, "False"]
