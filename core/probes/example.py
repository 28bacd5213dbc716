"""What the probes say of one run, recorded: the page that looks inside runs shows it to whoever has none yet.

deltalab train --task json --method lora
deltalab train --task json --method lora --seed 1 --set rank=4
python -m core.probes.example RUN OTHER       measures the first, compares it with the second, and writes
                                              core/catalog/inside.json
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.errors import DeltalabError

FILE = Path(__file__).resolve().parents[1] / "catalog" / "inside.json"
DIGITS = 5
# Under which name a result is kept, the probe, how many of the two runs it takes, and its settings.
ASKED: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("spectrum", "spectrum", 1, {}),
    ("truncation", "truncation", 1, {}),
    ("tokens", "tokens", 1, {}),
    ("input", "overlap", 2, {"side": "input"}),
    ("output", "overlap", 2, {"side": "output"}),
)


@lru_cache(maxsize=1)
def recorded() -> dict[str, Any]:
    """{"provenance": {device, date, commit, changed, versions, base}, "configs": of the two runs, "results": {name of
    ASKED: its result}}"""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def record(names: Sequence[str]) -> dict[str, Any]:
    """Measure two runs of the terminal's (or take what was measured of them), and return what `recorded` reads.

    Raises:
        DeltalabError: no such runs, or one cannot be measured.
    """
    from core.cli.stored import OWNER, find_run, open_store
    from core.runs import prober
    from core.runs.recorded import commit_facts

    store = open_store()
    runs = [store.get(find_run(store, name), OWNER) for name in names]
    results = {}
    for name, probe, count, settings in ASKED:
        request, folder = prober.asked(store, probe, [run.id for run in runs[:count]], settings, OWNER)
        found = prober.kept(folder)
        results[name] = found.result if found is not None else prober.measure(request, folder, lambda share, text: None)
    _, started = store.events(runs[0].id, OWNER, kinds=("started",))[-1]
    provenance = {
        "device": started["device"],
        "date": datetime.datetime.fromtimestamp(runs[0].created, datetime.UTC).isoformat(timespec="seconds"),
        **commit_facts(),
        "versions": started["versions"],
        "base": started["base"].get("fingerprint", ""),
    }
    return {"provenance": provenance, "configs": [run.config for run in runs], "results": rounded(results)}


def rounded(value: Any) -> Any:
    """Floats to five digits, wherever they are: the file is read by people and by diffs."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def main(arguments: Sequence[str]) -> int:
    """Record, and write the file; exit status 0 done, 2 bad input."""
    if len(arguments) != 2:
        print("Name two runs of the terminal's: python -m core.probes.example RUN OTHER", file=sys.stderr)
        return 2
    try:
        found = record(arguments)
    except DeltalabError as error:
        print(error, file=sys.stderr)
        return 2
    partial = FILE.with_suffix(".partial")
    partial.write_text(json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(FILE)
    print(f"{FILE}: {FILE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
