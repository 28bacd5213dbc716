"""What each of several processes does in test_distributed: the runs of a plan, one after the other.

    torchrun --nproc-per-node 2 -m tests.core.distributed_runs plan.json

plan.json is a list of {"name", "config", "folder", "resume", "stop_after"}; rank r writes the events of each
run, one JSON object a line, into <folder>/events-r.jsonl. One import of torch serves for all of them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from core.config import RunConfig
from core.distributed import joined
from core.events import to_dict
from core.train import train


def carry_out(one: dict[str, Any], rank: int) -> None:
    config, folder = RunConfig.from_dict(one["config"]), Path(one["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        # Only rank 0 is asked in earnest: the others would go on for ever.
        return rank == 0 and one.get("stop_after") is not None and asked > one["stop_after"]

    began = time.perf_counter()
    # Only rank 0's arguments hold: the others are told.
    mine = (config, folder, one.get("resume", False)) if rank == 0 else (RunConfig(), Path("/nowhere"), False)
    with (folder / f"events-{rank}.jsonl").open("a", encoding="utf-8") as file:
        for event in train(mine[0], mine[1], resume=mine[2], should_stop=stop):
            file.write(json.dumps(to_dict(event)) + "\n")
    print(f"{rank}: {one['name']} took {time.perf_counter() - began:.2f} s", file=sys.stderr)


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with joined() as world:
        for one in plan:
            carry_out(one, world.rank)


if __name__ == "__main__":
    main()
