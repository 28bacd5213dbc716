"""What the probes say of one run, recorded: the page that looks inside runs shows it to whoever has none yet.

python -m core.probes.example        trains the default LoRA run on the task json, and full fine-tuning to compare
                                     it with; measures both; writes core/catalog/inside.json
"""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "catalog" / "inside.json"
OWNER = "recorder"
DIGITS = 5


@lru_cache(maxsize=1)
def recorded() -> dict[str, Any]:
    """{"provenance": {device, date, commit, changed, versions, command}, "method", "results": {probe: its result}}"""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def record() -> dict[str, Any]:
    """Train, measure and return what `recorded` reads. Takes about two minutes on two cores.

    Raises:
        DeltalabError: a run failed.
    """
    import datetime

    from core.config import RunConfig
    from core.errors import DeltalabError
    from core.hardware import attached_light
    from core.runs import prober
    from core.runs.recorded import commit_facts
    from core.runs.store import Store
    from core.runs.worker import execute
    from core.train import versions

    with tempfile.TemporaryDirectory(prefix="deltalab-inside-") as folder:
        store = Store(home=Path(folder))
        runs = []
        for method in ("lora", "full"):
            run = store.create(OWNER, RunConfig(method=method, task="json"), key=method, title=method, direct=True)
            if execute(store, run.id) != "finished":
                raise DeltalabError(store.get(run.id, OWNER).sentence)
            runs.append(run.id)
        results = {}
        for name, ids in (("spectrum", runs[:1]), ("truncation", runs[:1]), ("tokens", runs[:1]), ("overlap", runs)):
            request, place = prober.asked(store, name, ids, {}, OWNER)
            prober.prepare(place, request)
            results[name] = _rounded(prober.measure(request, place, lambda share, text: None))
        store.close()
    provenance = {
        "device": attached_light().name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **commit_facts(),
        "versions": versions(),
        "command": "python -m core.probes.example",
    }
    return {"provenance": provenance, "method": "lora", "results": results}


def _rounded(value: Any) -> Any:
    """Floats to five digits, wherever they are: the file is read by people and by diffs."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def main() -> int:
    """Record, and write the file."""
    found = record()
    partial = FILE.with_suffix(".partial")
    partial.write_text(json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(FILE)
    print(f"{FILE}: {FILE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
