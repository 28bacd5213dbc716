"""Everything of a run in one zip (or folder): what it learnt, how to run it again, its curves, and checksums.

    adapter/              what was learnt, in the method's own format (a model card goes there, as README.md)
    base/                 the embedded base, which no hub has
    config.json           every setting; own files and folders by their names alone
    metrics.csv           a row a step: loss, rate, gradient norm, tokens, seconds, memory; scores where they were taken
    environment.json      device, precision, versions, fingerprint of the base
    train.py, train_trl.py, train.ipynb, requirements.txt, requirements-trl.txt
    data.jsonl            the rows in the order in which the run saw them (a person's own only when asked for)
    tensorboard/          event files
    README.md             what is what (CONTENTS.md, if the caller has a README.md of its own)
    SHA256SUMS            for `sha256sum -c SHA256SUMS`

The same run gives the same bytes. Files appear whole or not at all.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from core.base import CLASSIFICATION, EMBEDDED_FOLDER, kind_of_base
from core.config import EMBEDDED, RunConfig
from core.errors import BadInput, BaseUnavailable, Refused
from core.export import link
from core.export.facts import Facts, method_title, requirements, started, told, trl_requirements
from core.export.notebook import notebook
from core.export.order import order
from core.export.parts import TRAINERS, why_none
from core.export.script import script, what
from core.export.tensorboard import event_file, file_name
from core.units import bytes_text

if TYPE_CHECKING:
    from core.runs.store import Run, Store

Content = bytes | Path  # a file of an export: its bytes, or where it lies
SUMS = "SHA256SUMS"
SCRIPTS = {"transformers": "train.py", "sft": "train_trl.py"}
PARTS = ("bundle", "script", "notebook", "tensorboard", "adapter")
_BASE_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_METRICS = ("loss", "learning_rate", "grad_norm", "tokens", "seconds", "memory_bytes")


@dataclass(frozen=True)
class Export:
    """Files of a run by their names, with slashes; and what a person should know about them, as sentences.

    needs: arguments that the scripts want, because what they name is not part of this.
    """

    files: Mapping[str, Content]
    notes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """All of them together."""
        return sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in self.files.values())


def export(
    run: Run,
    events: Sequence[Mapping[str, Any]],
    *,
    part: str = "bundle",
    trainer: str = "transformers",
    with_data: bool = False,
    extra: Mapping[str, Content] | None = None,
) -> Export:
    """The files of a run, or of one part of it.

    Args:
        run: from the store, for its owner; or a recorded one, which has no adapter.
        events: the run's, as dicts in order.
        part: one of PARTS; each but the first brings what it needs to be run.
        trainer: whose notebook it is, and whose script where only one is asked for.
        with_data: write a person's own rows into it too (built-in tasks' are always there).
        extra: more files, such as a model card as adapter/README.md.

    Raises:
        BadInput: an unknown part or trainer, an extra file with a name that leads elsewhere.
        Refused: the run has no adapter (yet), or nothing to show.
    """
    if part not in PARTS:
        raise BadInput(f"There is no part {part!r} to export.", f"The parts are {', '.join(PARTS)}.")
    if trainer not in TRAINERS:
        raise BadInput(f"There is no trainer {trainer!r}.", f"The trainers are {', '.join(TRAINERS)}.")
    files: dict[str, Content] = {}
    notes: list[str] = []
    needs: tuple[str, ...] = ()
    if part in ("bundle", "adapter"):
        files |= _adapter(run)
    if part in ("bundle", "tensorboard"):
        files |= _curves(run, events, needed=part == "tensorboard")
    if part in ("bundle", "script", "notebook"):
        runnable, notes = _runnable(run, events, with_data, needed=part != "bundle")
        needs = runnable.needs if runnable.scripted else ()
        kept = {
            "script": lambda name: not name.endswith(".ipynb") and name not in _other_script(trainer),
            "notebook": lambda name: not name.endswith(".py"),
        }.get(part, lambda name: True)
        if runnable.scripted:
            runnable.files["train.ipynb"] = notebook(runnable.config, runnable.facts, trainer=trainer).encode()
        files |= {name: content for name, content in runnable.files.items() if kept(name)}
    if part == "bundle":
        files |= {
            "config.json": _json(public_config(run.config)),
            "metrics.csv": metrics(events).encode(),
            "environment.json": _json(environment(run, events)),
        }
    own = {"README.md": _readme(run, events, files, notes, needs).encode()} if part == "bundle" else {}
    for name, content in (extra or {}).items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or not name:
            raise BadInput(f"{name!r} is no name for a file of a bundle.", "Give a name such as README.md.")
        files[name] = content
    if "README.md" in files:
        own = {"CONTENTS.md": own["README.md"]} if own else {}
    files |= own
    ordered = {name: files[name] for name in sorted(files)}
    return Export({**ordered, SUMS: sums(ordered)}, tuple(notes), needs)


def export_of(
    store: Store, run_id: str, owner: str, *, part: str = "bundle", trainer: str = "transformers",
    with_data: bool = False,
) -> Export:  # fmt: skip
    """`export` of a run in the store, with its model card beside the adapter.

    Raises:
        NotFound: the owner has no such run; the rest as `export`.
    """
    from core.export.card import card, record_of

    run = store.get(run_id, owner)
    events = [event for _, event in store.events(run.id, owner, limit=1_000_000)]
    extra = {}
    if run.status == "finished" and part in ("bundle", "adapter"):
        extra["adapter/README.md"] = card(record_of(store, run.id, owner)).encode()
    return export(run, events, part=part, trainer=trainer, with_data=with_data, extra=extra)


def root_of(run_id: str, part: str = "bundle") -> str:
    """The folder that everything in a run's zip stands in."""
    return f"deltalab-{run_id[:8]}" + (f"-{part}" if part != "bundle" else "")


def commands(made: Export, archive: str, root: str, trainer: str = "transformers") -> str:
    """What to type, line by line, once `archive` is downloaded: unpack, check, and use what is in it."""
    lines = [f"unzip {archive}", f"cd {root}", f"sha256sum -c {SUMS}"]
    scripts = [name for name in (SCRIPTS[trainer], *SCRIPTS.values()) if name in made.files]
    if scripts or "train.ipynb" in made.files:
        kind = (
            "requirements-trl.txt" if trainer == "sft" and "requirements-trl.txt" in made.files else "requirements.txt"
        )
        lines += ["python3 -m venv .venv", f".venv/bin/pip install -r {kind}"]
    if scripts:
        lines.append(f"{' '.join(['.venv/bin/python', scripts[0], *made.needs])}   # the run again")
    elif "train.ipynb" in made.files:
        lines += [".venv/bin/pip install jupyterlab", ".venv/bin/jupyter lab train.ipynb   # the run again"]
    if any(name.startswith("tensorboard/") for name in made.files):
        tool = ".venv/bin/" if scripts else ""
        lines += [f"{tool}pip install tensorboard", f"{tool}tensorboard --logdir tensorboard   # its curves"]
    if not scripts and "adapter/README.md" in made.files:
        lines.append("cat adapter/README.md   # how to load it")
    return "\n".join(lines)


# --- what is in it ------------------------------------------------------------------------------------------------


def _adapter(run: Run) -> dict[str, Content]:
    folder = run.adapter
    if folder is None:
        how = "is recorded, without its adapter" if run.recorded else f"is {run.status} and has no adapter"
        raise Refused(f"This run {how}.", "Export its script instead, or a run that is finished.")
    return {f"adapter/{p.relative_to(folder).as_posix()}": p for p in sorted(folder.rglob("*")) if p.is_file()}


def _curves(run: Run, events: Sequence[Mapping[str, Any]], *, needed: bool) -> dict[str, Content]:
    if not any(e["kind"] in ("step", "evaluated") for e in events):
        if needed:
            raise Refused("This run has not made a step yet, so it has no curves.", "Wait for its first steps.")
        return {}
    began = started(events).get("time") or run.created
    return {f"tensorboard/{file_name(began, run.id)}": event_file(events, began)}


def _labels(run: Run, events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What the run's head tells apart, in the order of its outputs; () for a language model.

    Raises:
        Refused: a classifier that never began, so that nobody has put its labels in order.
    """
    base = started(events).get("base") or {}
    known = base.get("task") or kind_of_base(run.config["base"], run.config.get("revision"))
    if known == CLASSIFICATION and not base.get("labels"):
        raise Refused("This run has not begun yet, so its labels have no order.", "Wait until it has.")
    return tuple(base["labels"]) if known == CLASSIFICATION else ()


@dataclass
class _Runnable:
    config: RunConfig
    facts: Facts
    files: dict[str, Content]
    scripted: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        wanted = (("--base FOLDER", self.facts.base), ("--data FILE.jsonl", self.facts.data))
        return tuple(argument for argument, known in wanted if not known)


def _runnable(
    run: Run, events: Sequence[Mapping[str, Any]], with_data: bool, *, needed: bool
) -> tuple[_Runnable, list[str]]:
    """Scripts, what they need to be installed, and what they read: the base where no hub has it, and the rows.

    Args:
        needed: whether there must be a script; else a note says why there is none.

    Raises:
        BadInput: none can be written, and one is needed.
    """
    config = RunConfig.from_dict(run.config)
    begun = started(events)
    notes = []
    files: dict[str, Content] = {}
    few_bits = bool((begun.get("base") or {}).get("few_bits"))
    refused = why_none(config.method, few_bits=few_bits)
    if refused is not None:
        if needed:
            raise refused
        notes.append(f"There is no script and no notebook: {refused.sentence}")
        return _Runnable(config, Facts(), files, scripted=False), notes
    base = config.base
    if config.base == EMBEDDED:
        base = "base"
        files |= {f"base/{n}": EMBEDDED_FOLDER / n for n in _BASE_FILES if (EMBEDDED_FOLDER / n).is_file()}
    elif _is_folder(config.base):
        base = ""
        notes.append(f"The base was the local folder {Path(config.base).name}; the scripts want it named with --base.")
    facts = Facts(
        title=run.title or "",
        precision=begun.get("dtype") or "float32",
        versions=begun.get("versions") or {},
        told=told(events),
        base=base,
        labels=_labels(run, events),
        few_bits=few_bits,
    )
    if config.data is not None and not with_data:
        notes.append("The run's own file is not part of this; the scripts want it (as JSONL) named with --data.")
    else:
        read = replace(config, data=str(run.folder / config.data)) if config.data is not None else config
        try:
            found = order(read)
        except BaseUnavailable as why:
            notes.append(f"data.jsonl could not be written: {why}")
        else:
            files["data.jsonl"] = found.text().encode()
            facts = replace(facts, data="data.jsonl", ordered=True, batch_size=found.batch_size)
            if not found.whole:
                notes.append(
                    f"data.jsonl holds the first {len(found.rows):,} rows that the run saw; it saw more, over again."
                )
    for trainer, name in SCRIPTS.items():
        if facts.labels and trainer == "sft":
            continue  # TRL trains language models
        files[name] = script(config, facts, trainer=trainer, name=name).encode()
    files["requirements.txt"] = requirements(
        config.method, config.train.optimizer, facts.versions, few_bits=facts.few_bits
    ).encode()
    if facts.labels:
        notes.append("There is no script with TRL: its SFTTrainer trains language models, and this is a classifier.")
    else:
        files["requirements-trl.txt"] = trl_requirements(facts.versions).encode()
    return _Runnable(config, facts, files), notes


def _other_script(trainer: str) -> tuple[str, ...]:
    others = tuple(name for kind, name in SCRIPTS.items() if kind != trainer)
    return others if trainer == "sft" else (*others, "requirements-trl.txt")


def _is_folder(base: str) -> bool:
    return Path(base).is_absolute() or base.startswith((".", "~"))


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings without the folders of its owner's machine: files and folders by their names."""
    out = dict(config)
    if out.get("data"):
        out["data"] = Path(out["data"]).name
    if _is_folder(out["base"]):
        out["base"] = Path(out["base"]).name
    return out


def metrics(events: Iterable[Mapping[str, Any]]) -> str:
    """A run's curves as CSV: one row a step, 0 being before training; empty cells where nothing was measured."""
    rows: dict[int, dict[str, Any]] = {}
    scores = ["held_out_loss", "exact_match"]
    for one in events:
        if one["kind"] == "step":
            rows.setdefault(one["step"], {}).update({name: one.get(name) for name in _METRICS})
        elif one["kind"] == "evaluated":
            found = {"held_out_loss": one.get("loss"), "exact_match": one.get("exact_match")}
            found |= {f"skill_{name}": share for name, share in (one.get("skills") or {}).items()}
            scores += [name for name in found if name not in scores]
            rows.setdefault(one["step"], {}).update(found)
    out = io.StringIO()
    writer = csv.DictWriter(out, ["step", *_METRICS, *scores], restval="", lineterminator="\n")
    writer.writeheader()
    for step in sorted(rows):
        writer.writerow({"step": step, **{k: "" if v is None else v for k, v in rows[step].items()}})
    return out.getvalue()


def environment(run: Run, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where and with what the run was made: device, precision, versions, the base and its fingerprint, its times."""
    begun = started(events)
    finished: Mapping[str, Any] = next((e for e in reversed(events) if e["kind"] == "finished"), {})
    base = begun.get("base") or {}
    return {
        "run": run.id, "created": run.created, "device": begun.get("device"), "precision": begun.get("dtype"),
        "versions": begun.get("versions"), "seconds": finished.get("seconds"), "peak_bytes": finished.get("peak_bytes"),
        "base": {key: base.get(key) for key in ("name", "model_type", "parameters", "revision", "fingerprint")},
        "notes": list(begun.get("notes") or ()),
    }  # fmt: skip


def _json(record: Any) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def _readme(
    run: Run, events: Sequence[Mapping[str, Any]], files: Mapping[str, Content], notes: Sequence[str],
    needs: Sequence[str],
) -> str:  # fmt: skip
    config = RunConfig.from_dict(run.config)
    if _is_folder(config.base):  # where it lay on its owner's machine is nobody's business
        config = replace(config, base=f"./{Path(config.base).name}")
    lines = [f"# {run.title or what(config)}", "", f"{what(config)}. {' '.join(told(events))}", ""]
    about = {
        "adapter/": f"what was learnt, as {method_title(config.method)} saves it",
        "base/": "the base it was trained on",
        "train.py": "the run again, with transformers' Trainer",
        "train_trl.py": "the same with TRL's SFTTrainer (requirements-trl.txt)",
        "train.ipynb": "the same as a notebook, with questions before and after",
        "data.jsonl": "its rows, in the order in which it saw them",
        "config.json": "every setting",
        "metrics.csv": "its curves: a row a step",
        "tensorboard/": "the same for `tensorboard --logdir tensorboard`",
        "environment.json": "device, precision, versions, and which base it was",
        SUMS: f"checksums: `sha256sum -c {SUMS}`",
    }
    there = {name.partition("/")[0] + ("/" if "/" in name else "") for name in (*files, SUMS)}
    there |= {"config.json", "metrics.csv", "environment.json"}
    lines += ["| file | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in about.items() if name in there]
    if "train.py" in files:
        run_it = " ".join(["python train.py", *needs])
        lines += ["", "```text", "pip install -r requirements.txt", run_it, "```"]
    if notes:
        lines += ["", *notes]
    lines += ["", "The settings as a link, to be put behind the address of a Deltalab's Playground:", "", "```text"]
    return "\n".join([*lines, f"?{link.encode(config)}", "```", ""])


# --- written down -------------------------------------------------------------------------------------------------


def sums(files: Mapping[str, Content]) -> bytes:
    """SHA256SUMS of the files, as `sha256sum` writes it."""
    lines = []
    for name, content in files.items():
        digest = hashlib.sha256()
        with _opened(content) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        lines.append(f"{digest.hexdigest()}  {name}\n")
    return "".join(lines).encode()


def _opened(content: Content) -> IO[bytes]:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def write_zip(made: Export, target: Path, *, root: str) -> Path:
    """Write an export as a zip; everything in it stands in the folder `root`. An existing file is replaced.

    Raises:
        BadInput: `target` cannot be written.
    """
    target = Path(target)
    with _whole(target) as fresh, zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, content in made.files.items():
            # One date for all, and one system's rights: the same run gives the same bytes.
            info = zipfile.ZipInfo(f"{root}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            # Weights do not get smaller.
            info.compress_type = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
            with _opened(content) as source, archive.open(info, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    return target


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A new file that takes the place of `target` when the block ends well."""
    try:
        if target.is_dir():
            raise BadInput(f"{target} is a folder.", "Name a file that ends in .zip.")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent)
        os.close(handle)
        fresh = Path(name)
        try:
            yield fresh
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            fresh.chmod(0o644)
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as why:
        raise BadInput(f"{target} cannot be written: {why.strerror or why}.", "Choose another place.") from why


def write_folder(made: Export, target: Path) -> Path:
    """Write an export into a new folder, or an empty one.

    Raises:
        BadInput: there is something in it already, or it cannot be written.
    """
    target = Path(target)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise BadInput(f"{target} is not an empty folder.", "Name a new folder; nothing is written over.")
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for name, content in made.files.items():
                path = fresh / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with _opened(content) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
            fresh.chmod(0o755)
            if target.exists():
                target.rmdir()
            fresh.replace(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as why:
        raise BadInput(f"{target} cannot be written: {why.strerror or why}.", "Choose another place.") from why
    return target


def size_text(made: Export) -> str:
    """'14 files, 15.2 MiB'"""
    return f"{len(made.files)} files, {bytes_text(made.size_bytes)}"
