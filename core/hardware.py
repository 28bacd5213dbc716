"""What this machine has: the device that trains, its memory, number formats, and the back end of bitsandbytes.

Names are exact, as the system gives them; what cannot be found out is None and shown as unknown, never guessed.
`attached_light` imports no torch and is meant for the web server; `attached` asks torch and is meant for workers and
`deltalab doctor`. What depends on speed (`pick_precision`, `best_threads`) is measured once per machine and kept in
the data folder.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from core.units import GIB, bytes_text

if TYPE_CHECKING:
    import torch

# More threads than this cost more in waiting for each other than they bring, at the matrix sizes of small models.
MOST_THREADS = 16
THREADS = "DELTALAB_THREADS"
# Another number of threads than the rule's has to be faster by this, since a timing of milliseconds is not exact.
CLEARLY = 1.25
# bfloat16 rounds to 8 bits of precision: it has to be clearly faster to be worth that.
WORTHWHILE = 1.1
# Below this the card emulates bfloat16 (https://docs.nvidia.com/cuda/cuda-c-programming-guide, compute capabilities).
BFLOAT16_CAPABILITY = (8, 0)
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Card:
    """A GPU. memory_bytes: all of it; capability: CUDA's compute capability, such as '9.0'."""

    name: str
    memory_bytes: int | None
    capability: str | None = None
    driver: str | None = None


@dataclass(frozen=True)
class Hardware:
    """The machine as training sees it.

    name, kind: of the device that trains ('cpu' or 'cuda'; 'mps' is reported in `notes`, training does not use it).
    memory_bytes: the device's; for a CPU what this process may use (a container's limit counts).
    cpu: exact name. cores: CPUs this process may use, after affinity and quota; physical_cores: without the second
    thread of a core (None: unknown). ram_bytes, free_bytes: main memory, as far as this process may use it.
    cards: all GPUs that are visible. dtypes: number formats the device computes in natively.
    bitsandbytes: version and back end, in words. versions: of Python and the libraries.
    notes: what will be slow or missing, as sentences.
    """

    name: str
    kind: str
    memory_bytes: int | None
    cpu: str
    cores: int
    physical_cores: int | None
    ram_bytes: int
    free_bytes: int
    cards: tuple[Card, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)
    bitsandbytes: str = UNKNOWN
    versions: dict[str, str] = field(default_factory=dict)
    system: str = ""
    notes: tuple[str, ...] = ()

    def chip(self) -> str:
        """One short line for a device chip: 'NVIDIA H200, 141 GiB' or 'Intel … CPU, 2 cores, 23 GiB'."""
        if self.kind == "cuda":
            return f"{self.name}, {bytes_text(self.memory_bytes)}" if self.memory_bytes else self.name
        many = "core" if self.cores == 1 else "cores"
        return f"{self.cpu}, {self.cores} {many}, {bytes_text(self.ram_bytes)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)


# --- CPU and memory ---------------------------------------------------------------------------------------------------


def _read(path: str | Path) -> str:
    """A file of /proc or /sys; '' where there is none (another system, a locked-down container)."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@functools.cache
def cpu_name() -> str:
    """The processor's name as the system gives it."""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    if found:
        return " ".join(found.group(1).split())
    if sys.platform == "darwin":
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if done.stdout.strip():
            return done.stdout.strip()
    return platform.processor() or f"unknown {platform.machine()} processor"


def _cgroup_folders() -> list[Path]:
    """This process's control groups, innermost first: limits may stand at any level."""
    root = Path("/sys/fs/cgroup")
    own = re.search(r"^0::(/.*)$", _read("/proc/self/cgroup"), re.MULTILINE)
    place = root / own.group(1).lstrip("/") if own else root
    folders = [place, *place.parents]
    return [f for f in folders if f == root or root in f.parents]


def _cpu_quota() -> float | None:
    """CPUs' worth of time that a container may use; None: no limit."""
    limits = []
    for folder in _cgroup_folders():
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if quota.isdigit() and period.isdigit():
            limits.append(int(quota) / int(period))
    old = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip(), _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    if old[0].isdigit() and old[1].isdigit():
        limits.append(int(old[0]) / int(old[1]))
    return min(limits, default=None)


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def cores() -> int:
    """CPUs this process may use: its affinity, and a container's quota (rounded down, at least 1)."""
    quota = _cpu_quota()
    allowed = len(_affinity())
    return max(1, min(allowed, math.floor(quota)) if quota is not None else allowed)


def physical_cores() -> int | None:
    """Physical cores among the CPUs this process may use; None where the system does not tell."""
    siblings = set()
    for cpu in _affinity():
        text = _read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").strip()
        if not text:
            return psutil.cpu_count(logical=False)
        siblings.add(text)
    return len(siblings)


def _memory_limit() -> tuple[int, int] | None:
    """(limit, used) of the tightest control group, in bytes; None: no limit."""
    found = []
    for folder in _cgroup_folders():
        limit = _read(folder / "memory.max").strip()
        used = _read(folder / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            # File pages that can be dropped at once count as used there, but are free for whoever needs them.
            droppable = re.search(r"^inactive_file (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
            found.append((int(limit), int(used) - (int(droppable.group(1)) if droppable else 0)))
    old = _read("/sys/fs/cgroup/memory/memory.limit_in_bytes").strip()
    used = _read("/sys/fs/cgroup/memory/memory.usage_in_bytes").strip()
    if old.isdigit() and used.isdigit():
        found.append((int(old), int(used)))
    return min(found, key=lambda f: f[0] - f[1], default=None)


def memory_bytes() -> int:
    """Main memory this process may use in all."""
    total = int(psutil.virtual_memory().total)
    limit = _memory_limit()
    return min(total, limit[0]) if limit else total


def free_memory_bytes() -> int:
    """Main memory this process could still take."""
    free = int(psutil.virtual_memory().available)
    limit = _memory_limit()
    return max(0, min(free, limit[0] - limit[1]) if limit else free)


def _cpu_has_bfloat16() -> bool | None:
    """Whether the CPU multiplies bfloat16 natively; None: the system does not tell."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    if not found:
        return None
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(found.group(1).split()))


# --- GPUs and libraries, without torch --------------------------------------------------------------------------------


@functools.cache
def _installed(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries a run depends on; 'missing' where one is not installed."""
    packages = ("deltalab", "torch", "transformers", "tokenizers", "safetensors", "bitsandbytes", "streamlit")
    return {"python": platform.python_version(), **{p: _installed(p) or "missing" for p in packages}}


@functools.cache
def _torch_cuda() -> str | None:
    """The CUDA version torch was built for, read from its version.py; None: a build without CUDA, or no torch."""
    from importlib.util import find_spec

    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    text = _read(Path(spec.submodule_search_locations[0]) / "version.py")
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else None


def _nvidia_cards() -> tuple[Card, ...]:
    """The NVIDIA cards that CUDA_VISIBLE_DEVICES lets through, from nvidia-smi; none where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = "--query-gpu=index,uuid,name,memory.total,compute_cap,driver_version"
    try:
        done = subprocess.run(
            [tool, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()  # a driver that does not answer is as good as none; `attached` asks torch itself
    if done.returncode != 0:
        return ()
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    rows = [row for row in rows if len(row) == 6]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        chosen = [v.strip() for v in visible.split(",") if v.strip()]
        rows = [row for v in chosen for row in rows if row[0] == v or (len(v) > 4 and row[1].startswith(v))]
    return tuple(
        Card(name, int(memory) * 2**20 if memory.isdigit() else None, capability or None, driver or None)
        for _, _, name, memory, capability, driver in rows
    )


def _dtypes(card: Card | None) -> tuple[str, ...]:
    if card is None:
        return ("float32", "bfloat16") if _cpu_has_bfloat16() else ("float32",)
    major = int((card.capability or "0").split(".")[0])
    return ("float32", "float16", "bfloat16") if major >= BFLOAT16_CAPABILITY[0] else ("float32", "float16")


def _notes(cards: tuple[Card, ...], kind: str, bnb: str) -> tuple[str, ...]:
    out = []
    if kind == "cpu":
        out.append("No GPU is used: models above a few hundred million parameters take long for each step.")
        if cards:
            out.append(f"There is a {cards[0].name}, but this torch was built without CUDA: install one that was.")
        if sys.platform == "darwin" and platform.machine() == "arm64":
            out.append(
                "Apple's GPU (mps) is not used: bitsandbytes and bit-for-bit repeatable runs need CUDA or a CPU."
            )
        if _cpu_has_bfloat16() is False:
            out.append("This CPU has no bfloat16 arithmetic, so steps compute in float32.")
        if cores() < 2:
            out.append("There is one core only: the app and the training share it.")
        out.append("QLoRA decodes its weights anew in each step: on a CPU, too, it saves memory and not time.")
    elif cards and "bfloat16" not in _dtypes(cards[0]):
        out.append(f"The {cards[0].name} has no bfloat16 arithmetic, so steps compute in float32.")
    if "missing" in bnb:
        out.append("bitsandbytes is not installed: QLoRA and the 8-bit optimizers are not available.")
    elif "fallback" in bnb:
        out.append("bitsandbytes has no compiled library for this machine: QLoRA runs, but slowly.")
    free = free_memory_bytes()
    if free < 2 * GIB:
        out.append(f"Only {bytes_text(free)} of memory are free.")
    return tuple(out)


def _hardware(cards: tuple[Card, ...], uses_card: bool, bnb: str) -> Hardware:
    ram = memory_bytes()
    return Hardware(
        name=cards[0].name if uses_card else cpu_name(),
        kind="cuda" if uses_card else "cpu",
        memory_bytes=cards[0].memory_bytes if uses_card else ram,
        cpu=cpu_name(),
        cores=cores(),
        physical_cores=physical_cores(),
        ram_bytes=ram,
        free_bytes=free_memory_bytes(),
        cards=cards,
        dtypes=_dtypes(cards[0] if uses_card else None),
        bitsandbytes=bnb,
        versions=versions(),
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
        notes=_notes(cards, "cuda" if uses_card else "cpu", bnb),
    )


@functools.cache
def attached_light() -> Hardware:
    """The machine without importing torch: from /proc, nvidia-smi and package metadata. Asked once per process."""
    cards = _nvidia_cards()
    version = _installed("bitsandbytes")
    return _hardware(
        cards, bool(cards) and _torch_cuda() is not None, f"{version} (not loaded)" if version else "missing"
    )


def attached() -> Hardware:
    """The machine as torch and bitsandbytes see it; imports both (seconds, when nothing has before)."""
    import torch

    cards = []
    if torch.cuda.is_available():
        drivers = {c.name: c.driver for c in _nvidia_cards()}
        for index in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(index)
            cards.append(Card(p.name, int(p.total_memory), f"{p.major}.{p.minor}", drivers.get(p.name)))
    return _hardware(tuple(cards) or _nvidia_cards(), bool(cards), bitsandbytes_back_end())


def bitsandbytes_back_end() -> str:
    """Version and back end of bitsandbytes in words: '0.50.2 (compiled for CPU)'; imports it."""
    version = _installed("bitsandbytes")
    if version is None:
        return "missing"
    try:
        from core.layers.quiet_bitsandbytes import bnb  # without a line on standard error that concerns nobody

        cextension = bnb.cextension
    except (ImportError, OSError, RuntimeError) as why:
        return f"{version} (does not load: {str(why).splitlines()[0] if str(why) else type(why).__name__})"
    kind = type(cextension.lib).__name__
    if "Mock" in kind:
        return f"{version} (fallback in plain PyTorch)"
    return f"{version} (compiled for {getattr(cextension, 'BNB_BACKEND', UNKNOWN)})"


# --- choices that depend on speed -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A choice and its reason. ratio: how many times as long a step takes with the other (float32, of the formats; the
    rule's count, of threads); None: not measured."""

    value: str
    ratio: float | None
    why: str


@functools.cache
def cpu_flops() -> float:
    """Operations a second that this CPU reaches in float32 products of large matrices, as numpy does them: the best of
    a few, measured once per process in a fraction of a second. Imports no torch."""
    import numpy as np

    width = 1024
    a = np.ones((width, width), np.float32)
    b = np.full((width, width), 0.5, np.float32)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return float(2 * width**3 / min(times))


def best_threads() -> int:
    """Threads for torch on this CPU: see `threads_choice`."""
    return int(threads_choice().value)


def threads_choice() -> Choice:
    """How many threads torch computes with on this CPU.

    The rule (`rule_threads`) is timed, in a small training step, against half as many and one per logical core, once
    per machine, and another count than the rule's is taken where it is clearly faster (CLEARLY). The result is kept in
    the data folder, because another count takes sums in another order and a run is to repeat itself bit for bit. A
    machine that is busy just then is not measured, and the rule holds until it is quiet. (The load is the whole
    machine's: within a container that others share it with, that may be never.) The environment variable
    DELTALAB_THREADS, a number, overrides it all.
    """
    own = os.environ.get(THREADS, "").strip()
    if own.isdecimal() and int(own) > 0:
        return Choice(own, None, f"as {THREADS} says")
    allowed, physical = cores(), physical_cores()
    count = rule_threads()
    why = f"one per physical core (this process may use {allowed} CPUs"
    why += f", on {physical} physical cores)" if physical else "; how many cores they share is unknown)"
    if count == MOST_THREADS and min(allowed, physical or allowed) > MOST_THREADS:
        why += f", at most {MOST_THREADS}: more wait for each other at the matrix sizes of small models"
    others = sorted({count // 2, min(allowed, MOST_THREADS)} - {0, count})
    if not others:
        return Choice(str(count), None, why)
    key = f"{cpu_name()} | {allowed} of them | torch {_installed('torch')}"
    known = _kept("threads", key)
    if known is None and _busy(allowed):
        return Choice(str(count), None, f"{why}; other counts were not timed, because the machine is busy")
    return known or _keep("threads", key, _clearest(count, why, _thread_seconds((count, *others))))


def rule_threads() -> int:
    """One thread per physical core this process may use: the two threads of a core share one set of multipliers, which
    dense matrices keep busy by themselves; and no more than MOST_THREADS."""
    allowed = cores()
    return max(1, min(allowed, physical_cores() or allowed, MOST_THREADS))


def _busy(allowed: int) -> bool:
    """Whether others use so much of the CPUs that a timing would be theirs as well (unknown: no)."""
    try:
        return os.getloadavg()[0] > 0.5 * allowed
    except (AttributeError, OSError):
        return False


def _clearest(count: int, why: str, seconds: Mapping[int, float]) -> Choice:
    """The rule's count, or the one that was clearly faster. seconds: of a step, by count."""
    quickest = min(seconds, key=lambda n: seconds[n])
    told = ", ".join(f"{n}: {t / seconds[count]:.2f}" for n, t in sorted(seconds.items()) if n != count)
    ratio = round(seconds[count] / seconds[quickest], 2)
    if quickest != count and ratio >= CLEARLY:
        return Choice(str(quickest), ratio, f"measured: a step takes {ratio:.2f} times as long with {count}, {why}")
    return Choice(str(count), 1.0, f"{why}; a step with another count took, in units of it, {told}")


@functools.cache
def _thread_seconds(counts: tuple[int, ...]) -> dict[int, float]:
    """Seconds by the clock of a small training step in float32 with each number of threads: the best of several, taken
    in turn (about half a second)."""
    import torch

    before = torch.get_num_threads()
    step = _small_step()
    times: dict[int, list[float]] = {count: [] for count in counts}
    try:
        for _ in range(8):
            for count in counts:
                torch.set_num_threads(count)
                step(False)  # the threads wake up
                began = time.perf_counter()
                step(False)
                times[count].append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return {count: min(found) for count, found in times.items()}


def _small_step() -> Callable[[bool], None]:
    """A small training step on the CPU, forward and backward, to be timed: in bfloat16 autocast or in float32."""
    import torch

    width, hidden, tokens, layers = 256, 704, 512, 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [
            torch.nn.Sequential(
                torch.nn.LayerNorm(width), torch.nn.Linear(width, hidden), torch.nn.SiLU(),
                torch.nn.Linear(hidden, width),
            )
            for _ in range(layers)
        ]  # fmt: skip
        model = torch.nn.Sequential(*blocks)
        x = torch.randn(tokens, width)

    def step(bfloat16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(x).float().square().mean()
        loss.backward()

    return step


def pick_precision(device: torch.device | str = "cpu") -> str:
    """'bfloat16' or 'float32', whichever this device does fastest and well: see `precision_choice`."""
    return precision_choice(device).value


def precision_choice(device: torch.device | str = "cpu") -> Choice:
    """The number format for the forward and backward pass on `device`.

    A GPU has bfloat16 from compute capability 8.0 on (by rule). CPUs differ by more than a factor of two in either
    direction, so a small training step is timed in both formats, once per machine: the result is kept in the data
    folder under the CPU's name and the torch version.

    One format for all methods and bases: those that are compared, in a race or in a lesson, then differ by the method
    alone. That is why it does not depend on whether the decoder that is written out by hand (core/fast/llama.py) would
    cover a run: DoRA, say, would be compared in another format than LoRA. What is timed is a stand-in for all forms,
    plain and written out: it is mostly products, so a whole step gains somewhat less. (`python -m tests.bench_forms`
    measures the forms themselves.)
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        word = "bfloat16" if capability >= BFLOAT16_CAPABILITY else "float32"
        return Choice(word, None, f"by rule, for compute capability {capability[0]}.{capability[1]}")
    if device.type != "cpu":
        return Choice("float32", None, f"the only format used on {device.type}")
    key = f"{cpu_name()} | torch {torch.__version__}"
    return _kept("precision", key) or _keep("precision", key, _choose(_time_ratio()))


def _choose(ratio: float) -> Choice:
    word = "bfloat16" if ratio >= WORTHWHILE else "float32"
    return Choice(word, round(ratio, 2), f"measured: a step in float32 takes {ratio:.2f} times as long as in bfloat16")


def _time_ratio() -> float:
    """Time of a small training step in float32 over the same in bfloat16 autocast, on this CPU (about 0.3 s).

    One thread, and the processor's time instead of the clock's: what else the machine does must not decide.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step = _small_step()

        def timed(bfloat16: bool) -> float:
            began = time.thread_time()
            step(bfloat16)
            return time.thread_time() - began

        timed(False), timed(True)
        times = [(timed(False), timed(True)) for _ in range(6)]
    finally:
        torch.set_num_threads(before)
    return min(t for t, _ in times) / min(t for _, t in times)


def _kept(what: str, key: str) -> Choice | None:
    """The choice of `what` under `key` in the data folder's hardware.json; None if none can be read there."""
    try:
        return Choice(**_file()[what][key])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(what: str, key: str, choice: Choice) -> Choice:
    """Keep a choice for the next time, and return it."""
    try:
        kept = _file()
    except (OSError, ValueError):
        kept = {}  # nothing kept yet, or not readable
    others = {name: part for name, part in kept.items() if isinstance(part, dict)} if isinstance(kept, dict) else {}
    record = {**others, what: {**others.get(what, {}), key: dataclasses.asdict(choice)}}
    try:
        path = _path()
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(record, file, indent=1)
        Path(file.name).replace(path)
    except OSError:
        pass  # a data folder that cannot be written costs half a second at each start, not the run
    return choice


def _path() -> Path:
    from core.runs.home import data_home

    return data_home() / "hardware.json"


def _file() -> Any:
    return json.loads(_path().read_text(encoding="utf-8"))
