"""`deltalab export`: a run's adapter, scripts, notebook, curves and data, in a folder or a zip."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from core.cli.arguments import DONE, command, json_argument, quiet_libraries
from core.cli.stored import OWNER, find_run, open_store


def add(commands: Any) -> None:
    """The command's flags."""
    export = command(commands, "export", _export, "write a run out: adapter, scripts, notebook, curves, data")
    export.add_argument("run", metavar="RUN", help="the run's id or its beginning, or last")
    export.add_argument("--out", required=True, metavar="FOLDER|FILE.zip", help="a new folder, or a zip")
    export.add_argument(
        "--what", default="bundle", metavar="PART", help="bundle (all), script, notebook, tensorboard or adapter"
    )
    export.add_argument(
        "--trainer", default="transformers", help="the script's and notebook's: transformers or sft (TRL's SFTTrainer)"
    )
    export.add_argument("--with-data", action="store_true", help="also write the rows of your own file into it")
    json_argument(export)


def _export(asked: argparse.Namespace) -> int:
    from core.export.bundle import export_of, root_of, size_text, write_folder, write_zip

    quiet_libraries()
    store = open_store()
    run_id = find_run(store, asked.run)
    made = export_of(store, run_id, OWNER, part=asked.what, trainer=asked.trainer, with_data=asked.with_data)
    out = Path(asked.out).expanduser()
    if out.suffix.lower() == ".zip":
        write_zip(made, out, root=root_of(run_id, asked.what))
    else:
        write_folder(made, out)
    if asked.json:
        print(
            json.dumps(
                {
                    "run": run_id, "what": asked.what, "out": str(out), "bytes": made.size_bytes,
                    "files": list(made.files), "notes": list(made.notes),
                }
            )
        )  # fmt: skip
        return DONE
    print(f"{out}: {size_text(made)}")
    for note in made.notes:
        print(note)
    return DONE
