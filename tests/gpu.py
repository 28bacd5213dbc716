"""`make gpu`: everything that needs a GPU, in one command of under ten minutes.

    python -m tests.gpu               # tests, kernels, steps, runs, memory; writes records; prints a table
    python -m tests.gpu --dry-run     # a rehearsal on any machine: all of it but the timing; keeps nothing

Parts: the GPU tests (tests/gpu_tests.py); every kernel against its reference and rivals (kernels/bench.py), which also
decides which kernels are used on this kind of card (kernels/measured.json) and feeds the Kernels page
(kernels/records); the engine's step, captured and as it comes, against Trainer + PEFT + bitsandbytes
(tests/gpu_steps.py), with the share of the roofline; default runs of the main methods; predicted beside measured memory
(tests/gpu_memory.py).

Runs unattended and without a network, with the packages that are there; what is missing is skipped and said. This
process never touches the card: each case is carried out in another one (tests/gpu_process.py), within its time, and
what goes wrong there costs that case only. The parts share one budget of time: what one leaves goes to those after it,
and what did not fit is listed as left out. Each record grows beside its place, as <record>.part, row by row, so that a
run that is cut off leaves what it has, and takes its place when its part is over and something was measured.

Ends with 0 if nothing failed, 1 if something did (a test, a kernel, a step, a run, a memory case, or a part), and 2
where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernels import KERNELS
from kernels import bench as kernel_bench
from kernels.base import MEASURED
from tests import gpu_memory, gpu_steps, gpu_tests
from tests.gpu_memory import slug
from tests.gpu_process import NO_TIME, PATIENCE, ROOT, SPOILT, Ahead, Processes, attached, why_left_out

RECORDS = ROOT / "tests" / "records"
COMPARED = ("full", "lora", "qlora", "bitfit")
SECONDS = 560.0  # in all
SHARES = {"tests": 3.5, "kernels": 2.5, "steps": 4.5, "runs": 1.0, "memory": 3.0}
"""How the time is shared out, in proportion."""
ROW_SECONDS, COMPILER_SECONDS, RUN_SECONDS = 60.0, 60.0, 60.0
LEFT_OUT = {"passed": True, "left_out": NO_TIME}  # in a kernel's row: nothing wrong was found
REHEARSED = {"steps": 2, "eval_items": 4, "skill_items": 0, "batch_size": 8}


class Budget:
    """The time: `begin` a part, and `left` says what it still has.

    Args:
        seconds: in all. clock: for tests.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.over_at = clock, clock() + seconds
        self.until = self.over_at

    def begin(self, part: str) -> float:
        """Seconds for this part: its share of what is left for it and those after it."""
        names = list(SHARES)
        rest = sum(SHARES[name] for name in names[names.index(part) :])
        now = self.clock()
        self.until = now + max(0.0, self.over_at - now) * SHARES[part] / rest
        return self.left()

    def left(self) -> float:
        """Seconds that the part has."""
        return max(0.0, self.until - self.clock())


class Record:
    """A record that grows row by row, and takes its place in the end.

    Args:
        path: its place. content: all but what grows.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self.part = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, **more: Any) -> None:
        """With this in it."""
        self.content |= more
        beside = self.path.with_name(self.path.name + ".new")  # a half-written one is none
        beside.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self.part)

    def finish(self, worth: bool) -> None:
        """Put it in its place, if it is worth it: an older one is not replaced by nothing."""
        if not self.part.exists():
            return
        if worth:
            os.replace(self.part, self.path)
        where = self.path if worth else self.part
        print(f"written to {where.relative_to(ROOT) if where.is_relative_to(ROOT) else where}", flush=True)


def run_default(case: dict[str, Any]) -> dict[str, Any]:
    """The default json run of a method: quality, seconds, measured memory by term. case: method; loop: settings other
    than the default ones, for a rehearsal."""
    from core.config import RunConfig, TrainConfig
    from core.events import Evaluated, Failed, Finished
    from core.train import train

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        events = list(train(RunConfig(method=case["method"], train=TrainConfig(**case["loop"])), Path(folder)))
        seconds = time.perf_counter() - start
    last = events[-1]
    if isinstance(last, Failed):
        return {"failed": last.sentence}
    assert isinstance(last, Finished)
    scores = [e for e in events if isinstance(e, Evaluated)]
    return {
        "exact_match_before": scores[0].exact_match,
        "exact_match_after": scores[-1].exact_match,
        "seconds": round(seconds, 2),
        "training_seconds": round(last.seconds, 2),
        "ledger": last.ledger,
        SPOILT: gpu_steps.spoilt(),
    }


# --- the parts: generators of rows ------------------------------------------------------------------------------------


def kernel_cases(dry: bool) -> list[tuple[str, int]]:
    """(kernel, number of its case), in the order in which they are timed."""
    return [(name, number) for name in KERNELS for number in kernel_bench.numbers(name, dry)]


def kernel_rows(dry: bool, processes: Processes, left: Callable[[], float]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of each kernel at each size; then, again, the largest of each with torch.compile among its rivals:
    compiling may take longer than there is time, or fail, and must cost nothing else."""
    cases = kernel_cases(dry)
    rows = []
    patience = PATIENCE if dry else 1
    for place, (name, number) in enumerate(cases):
        row = _kernel_row(name, number, dry, False, processes, min(ROW_SECONDS * patience, left()))
        if "broken" in row:  # by the kernel itself, or by a rival in the same process?
            alone = _kernel_row(name, number, dry, False, processes, min(ROW_SECONDS * patience, left()), alone=True)
            row = {**alone, "failed": {"rivals": row["broken"]}} if "seconds" in alone else row
        rows.append(row)
        yield place, rows[-1]
    for place, (name, number) in enumerate(cases):
        row = rows[place]
        if number != kernel_bench.numbers(name, dry)[-1] or not row.get("passed") or "left_out" in row:
            continue
        if not dry and left() < 15:
            yield place, {**row, "failed": {**row.get("failed", {}), kernel_bench.COMPILER: NO_TIME}}
            continue
        again = _kernel_row(name, number, dry, True, processes, min(COMPILER_SECONDS * patience, left()))
        if not again.get("passed") or "left_out" in again:
            why = again.get("broken") or again.get("left_out") or "Its process gave another result than the first."
            again = {**row, "failed": {**row.get("failed", {}), kernel_bench.COMPILER: why}}
        yield place, again


def _kernel_row(
    name: str, number: int, dry: bool, compiler: bool, processes: Processes, seconds: float, alone: bool = False
) -> dict[str, Any]:
    case = {"kernel": name, "number": number, "rehearse": dry, "compiler": compiler, "alone": alone}
    row = _kernel_case(name, number, dry)
    if seconds < 5:
        return {**row, **LEFT_OUT}
    answer = processes.ask("kernels.bench:row", case, seconds=seconds)
    if "failed" in answer and isinstance(answer["failed"], str):  # the process has crashed, or took too long
        if seconds < ROW_SECONDS and answer["failed"].startswith("It took more than"):
            return {**row, **LEFT_OUT}
        return {**row, "passed": False, "broken": answer["failed"]}
    if not all(time.get("captured", True) for time in answer.get("seconds", {}).values()):
        processes.renew()  # a capture that failed may leave the allocator in the middle of it
    return answer


def _kernel_case(name: str, number: int, dry: bool) -> dict[str, Any]:
    return {"kernel": name, "case": kernel_bench.cases(name, dry)[number]}


def verdicts(rows: list[dict[str, Any]], tests: dict[str, bool | None]) -> tuple[dict[str, Any], set[str]]:
    """Thresholds of the kernels that are to be used, and the kernels about which something is known now.

    A kernel whose own tests failed is not used; one whose tests did not all run keeps what an earlier run has said, as
    does one that was not timed at every size.
    """
    found, known = kernel_bench.thresholds(rows), kernel_bench.decided(rows)
    wrong = {row["kernel"] for row in rows if row.get("passed") is False}
    for name in KERNELS:
        if tests.get(name) is False:
            found.pop(name, None)
            known.add(name)
        elif tests.get(name) is None and name not in wrong:
            found.pop(name, None)
            known.discard(name)
    return found, known


def run_rows(dry: bool, processes: Processes, left: Callable[[], float]) -> Iterator[dict[str, Any]]:
    """The default run of each main method."""
    for method in COMPARED[1:2] if dry else COMPARED:
        why = why_left_out(gpu_steps.missing({"method": method, "way": "default"}), left)
        if why:
            yield {"method": method, "left_out": why}
            continue
        case = {"method": method, "loop": REHEARSED if dry else {}}
        most = RUN_SECONDS * (PATIENCE if dry else 1)
        yield {"method": method, **processes.ask_within("tests.gpu:run_default", case, most, left)}


def run_line(row: dict[str, Any]) -> str:
    """A default run for a person."""
    if "left_out" in row or "failed" in row:
        return f"run {row['method']:8} {row.get('left_out') or row['failed']}"
    return (
        f"run {row['method']:8} {row['exact_match_before']:.0%} → {row['exact_match_after']:.0%} in {row['seconds']} s "
        f"({row['training_seconds']} s of training)"
    )


# --- all of it --------------------------------------------------------------------------------------------------------


class Everything:
    """All parts in turn, on the attached card (or rehearsed), with what they have found.

    Args:
        dry: a rehearsal. seconds: in all. records, kernel_records: folders. measured: file of the thresholds.
    """

    def __init__(self, dry: bool, seconds: float, records: Path, kernel_records: Path, measured: Path) -> None:
        self.dry, self.budget = dry, Budget(seconds)
        self.records, self.kernel_records, self.measured = records, kernel_records, measured
        self.failures: list[str] = []
        self.tests: dict[str, Any] = {}
        self.kernels: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.memory: list[dict[str, Any]] = []
        self.ceilings: dict[str, float] | None = None
        self.about: dict[str, Any] = {}
        self.free_bytes = 0
        processors = os.cpu_count() or 1
        self.spare, self.beside = processors >= 8 and not dry, max(1, min(5, processors // 3))

    @contextmanager
    def part(self, name: str) -> Iterator[Callable[[], float]]:
        """A part: what it raises is a failure of its own, and the next one begins."""
        print(f"--- {name}", flush=True)
        self.budget.begin(name)
        try:
            yield self.budget.left
        except Exception as error:
            traceback.print_exc()
            self.failures.append(f"{name}: {type(error).__name__}: {error}"[:300])

    def look(self) -> bool:
        """What is attached; False if there is no card and one is needed."""
        from core.train import versions

        found = attached(600 if self.dry else 60)
        if "failed" in found:
            print(f"The card cannot be used: {found['failed']}", file=sys.stderr)
            return False
        self.free_bytes = found.pop("free_bytes")
        self.about = {**found, "command": "make gpu", "versions": {**versions(), **found["versions"]}}
        return self.dry or self.capability is not None

    @property
    def capability(self) -> tuple[int, int] | None:
        """Of the card."""
        from core.memory.setup import Device

        return None if self.dry else Device.of(self.about["capability"]).capability

    def place(self, folder: Path, prefix: str = "") -> Path:
        """A record's."""
        return folder / f"{prefix}{slug(self.about['device'])}.json"

    def go(self) -> None:
        """Every part."""
        wanted = gpu_steps.wanted(self.dry, self.capability) + gpu_memory.wanted(self.dry, self.capability)
        with Ahead(wanted, "tests.gpu_memory", seconds=600.0 if self.dry else 60.0) as ahead:
            self.test()
            self.time_kernels()
            record = Record(
                self.place(self.records, "gpu_"),
                {
                    "what": "GPU tests; a training step three ways, with the share of the roofline; default json runs "
                    "on the embedded base",
                    **self.about, "ceilings": self.ceilings, "tests": self.tests, "steps": [], "runs": [],
                },
            )  # fmt: skip
            record.write()
            self.time_steps(record, ahead)
            self.run_all(record)
            record.finish(any("seconds" in row for row in self.steps + self.runs) or bool(self.tests.get("passed")))
            self.measure_memory(ahead)

    def test(self) -> None:
        """The GPU tests; in a rehearsal they are found and imported."""
        with self.part("tests") as left:
            if self.dry:
                found = gpu_tests.collected()
                print(f"{found['found']} GPU tests found", flush=True)
                if found["code"] or not found["found"]:
                    self.failures.append(f"tests: {found['last']}")
                return
            self.tests = gpu_tests.run(left(), KERNELS, self.beside)
            print(gpu_tests.line(self.tests), flush=True)
            self.failures += gpu_tests.failures(self.tests)

    def time_kernels(self) -> None:
        """Every kernel; its verdict is kept whatever becomes of the others."""
        record = Record(
            self.place(self.kernel_records),
            {"what": "kernels, forward and backward, against their references and rivals", **self.about},
        )
        # (What is never reached is left out; nothing follows from a kernel of which some sizes are missing.)
        self.kernels = [{**_kernel_case(*case, self.dry), **LEFT_OUT} for case in kernel_cases(self.dry)]
        found: dict[str, Any] = {}
        with self.part("kernels") as left, Processes("kernels.bench", spare=self.spare) as processes:
            if not self.dry:
                for _ in range(2):
                    answer = processes.ask("kernels.bench:ceilings", None, seconds=min(60.0, left()))
                    if "failed" not in answer:
                        self.ceilings = answer
                        break
                else:
                    self.failures.append(f"ceilings: {answer['failed']}")
            for place, row in kernel_rows(self.dry, processes, left):
                self.kernels[place] = row
                record.write(ceilings=self.ceilings, rows=self.kernels)
                print(kernel_bench.line(row), flush=True)
        self.failures += [kernel_bench.line(row) for row in self.kernels if row.get("passed") is False]
        if self.dry:
            return
        with self.part("kernels"):
            found, known = verdicts(self.kernels, self.tests.get("kernels", {}))
            kernel_bench.keep(str(self.about["capability"]), found, self.measured, of=known)
            print(f"in use from now on: {found}; nothing new about {sorted(set(KERNELS) - known)}", flush=True)
        record.write(thresholds=found)
        record.finish(self.ceilings is not None and any("seconds" in row for row in self.kernels))

    def time_steps(self, record: Record, ahead: Ahead) -> None:
        """Steps, three ways."""
        with self.part("steps") as left, Processes("tests.gpu_steps", spare=self.spare) as processes:
            for row in gpu_steps.rows(self.dry, processes, ahead, left):
                self.steps.append(row)
                record.write(steps=self.steps)
                print(gpu_steps.line(row), flush=True)
        with self.part("steps"):
            if not self.dry:
                self.steps = gpu_steps.with_shares(self.steps, self.ceilings)
        record.write(steps=self.steps)
        self.failures += [f"step {gpu_steps.line(row)}" for row in self.steps if "failed" in row]

    def run_all(self, record: Record) -> None:
        """Default runs."""
        with self.part("runs") as left, Processes("tests.gpu_steps") as processes:
            for row in run_rows(self.dry, processes, left):
                self.runs.append(row)
                record.write(runs=self.runs)
                print(run_line(row), flush=True)
        self.failures += [run_line(row) for row in self.runs if "failed" in row]

    def measure_memory(self, ahead: Ahead) -> None:
        """Predicted beside measured."""
        record = Record(self.place(self.records, "gpu_memory_"), gpu_memory.record_of(self.about, []))
        with self.part("memory") as left, Processes("tests.gpu_memory", spare=self.spare) as processes:
            for row in gpu_memory.rows(self.dry, processes, ahead, left, self.free_bytes):
                self.memory.append(row)
                record.write(rows=self.memory)
                print(gpu_memory.line(row), flush=True)
        record.finish(any("measured" in row for row in self.memory))
        self.failures += [f"memory {gpu_memory.line(row)}" for row in self.memory if "failed" in row]

    def table(self) -> None:
        """Everything again, for who looks at the end only."""
        print("--- all of it")
        if self.tests:
            print(gpu_tests.line(self.tests))
        for row in self.kernels:
            print(kernel_bench.line(row))
        for row in self.steps:
            print(gpu_steps.line(row))
        for row in self.runs:
            print(run_line(row))
        for row in self.memory:
            print(gpu_memory.line(row))
        every = [*self.kernels, *self.steps, *self.runs, *self.memory]
        print(f"{len(every)} rows, of which {sum('left_out' in row for row in every)} were left out")


MADE_UP = {"kernel": 1.0, "reference": 2.0}
"""Seconds that a rehearsal pretends, so that what follows from timings can be carried out; they go into no record."""


def decisions(rows: list[dict[str, Any]], folder: Path) -> int:
    """What follows from the timings, with made-up ones and in a temporary folder: which kernels are used from which
    size on, that kept and read again, the record and its points, the steps' shares of the roofline."""
    from core import kernel_records

    timed = [
        {**row, "seconds": {name: {"median": MADE_UP.get(name, 3.0)} for name in row["versions"]}}
        if row["passed"] else row for row in rows
    ]  # fmt: skip
    found, known = verdicts(timed, dict.fromkeys(KERNELS, True))
    kept = folder / "measured.json"
    for capability in ("0.0", "0.1", "0.0"):  # a card that is new, another one, the first one again
        kernel_bench.keep(capability, found, kept, of=known)
    if json.loads(kept.read_text(encoding="utf-8")) != {"0.0": found, "0.1": found} or set(found) != set(KERNELS):
        print(f"The thresholds are not what the made-up seconds say: {found}")
        return 1
    ceilings = {"bytes_per_second": 1e12, "flops_per_second": 1e14}
    record = Record(folder / "record.json", {"device": "none", "date": "2000-01-01", "ceilings": ceilings})
    record.write(rows=timed)
    record.finish(True)
    points = kernel_records.points(json.loads((folder / "record.json").read_text(encoding="utf-8")))
    steps = [
        {"shape": "tiny", "method": "lora", "way": way, "seconds": [MADE_UP["reference"]], "peak_bytes": 0}
        for way in gpu_steps.WAYS
    ]
    shares = gpu_steps.with_shares(steps, ceilings)
    print(f"{len(found)} kernels would be used, {len(points)} points; {gpu_steps.line(shares[0])}")
    return 0 if len(points) == sum(len(r["versions"]) for r in rows) else 1


def rehearse() -> int:
    """Every part's path, on small shapes and on the CPU; nothing is timed, and what is written goes into a temporary
    folder."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        all_of_it = Everything(True, 3600.0, folder / "records", folder / "kernel records", folder / "measured.json")
        if all_of_it.look():
            all_of_it.go()
        else:
            all_of_it.failures.append("The process that looks for a card failed.")
        with all_of_it.part("kernels"):
            if decisions(all_of_it.kernels, folder):
                all_of_it.failures.append("decisions")
    return told(all_of_it.failures, "Rehearsed; nothing was kept.")


def told(failures: list[str], otherwise: str) -> int:
    """Say what failed; the exit code."""
    for failure in failures:
        print(f"failed: {failure}")
    print(f"{len(failures)} failed." if failures else otherwise)
    return 1 if failures else 0


def main(given: list[str] | None = None) -> int:
    """Test, measure, write the records, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="rehearse without timing; keeps nothing")
    asked = parser.parse_args(given)
    began = time.monotonic()
    # Ended from outside, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # One card, by whatever name: with two, Trainer would take both.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if asked.dry_run:
        return rehearse()
    all_of_it = Everything(False, SECONDS, RECORDS, ROOT / "kernels" / "records", MEASURED)
    if not all_of_it.look():
        print("make gpu needs a CUDA device, and torch sees none here. Nothing was measured.", file=sys.stderr)
        return 2
    all_of_it.go()
    all_of_it.table()
    print(f"{time.monotonic() - began:.0f} s")
    return told(all_of_it.failures, "Nothing failed.")


if __name__ == "__main__":
    sys.exit(main())
