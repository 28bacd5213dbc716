"""A model card from a run's own record: what was trained, on what, what it scores now, what it costs, how to load it.

Markdown with the front matter that the Hugging Face hub reads (https://huggingface.co/docs/hub/model-cards). Every
figure is one that the run recorded; what the record does not know is not said, and the licence stays "unknown" until a
person writes theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import EMBEDDED, TrainConfig
from core.errors import Refused
from core.export.peft_config import WITHOUT_CONFIG
from core.methods import METHODS
from core.units import bytes_text, count_text, seconds_text

if TYPE_CHECKING:
    from core.runs.store import Store

PROJECT = "Deltalab"
# Methods whose folder PEFT reads.
IN_PEFT = frozenset(METHODS) - frozenset(WITHOUT_CONFIG)


@dataclass(frozen=True)
class Record:
    """What a card is written from: the run's title, its events (as dicts) of the kinds below, and when it ended
    (seconds since the epoch). before is None where the run was not scored before its first step."""

    title: str
    started: Mapping[str, Any]
    finished: Mapping[str, Any]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    ended: float | None

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved settings."""
        found: Mapping[str, Any] = self.started["config"]
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """What a classifier tells apart, in the order of its outputs; () for a language model."""
        return tuple((self.started.get("base") or {}).get("labels") or ())

    @property
    def kind(self) -> str:
        """The hub's name of what the model does."""
        return "text-classification" if self.labels else "text-generation"


def record_of(store: Store, run_id: str, owner: str) -> Record:
    """Read a run's record.

    Raises:
        NotFound: no such run of this owner.
        Refused: it is not finished.
    """
    run = store.get(run_id, owner)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    kinds = ("started", "evaluated", "finished")
    for _, event in store.events(run_id, owner, kinds=kinds, limit=100_000):
        by_kind.setdefault(event["kind"], []).append(event)
    if run.status != "finished" or not by_kind.get("finished") or not by_kind.get("started"):
        raise Refused("A card is written of a run that is finished.", "Wait for its end, or resume it.")
    looks = by_kind.get("evaluated", [])
    before = looks[0] if looks and looks[0]["step"] == 0 else None
    after = looks[-1] if looks and looks[-1]["step"] > 0 else None
    return Record(run.title or "", by_kind["started"][-1], by_kind["finished"][-1], before, after, run.ended)


def card(record: Record, *, merged: str | None = None) -> str:
    """The card as Markdown.

    Args:
        merged: the format of a merged model ('float32', 'bfloat16', 'nf4') when the card is for that and not for the
            adapter.
    """
    import yaml

    front = yaml.safe_dump(_front_matter(record, merged), sort_keys=False, allow_unicode=True)
    method = METHODS[str(record.config["method"])]
    parts = [
        f"---\n{front}---\n",
        f"# {_text(_heading(record))}\n",
        _summary(record, merged),
        _table(
            "What was trained",
            ("fact", "value"),
            [
                ("Base", _base_text(record)),
                ("Method", f"{method.TITLE} ({method.PAPER})"),
                ("Formula", f"`{' '.join(method.FORMULA.split())}`"),
                ("Trained parameters", f"{record.started['trainable']:,} of {record.started['total']:,}"),
                ("Data", _data_text(record)),
                ("Seed", str(record.config.get("seed", 0))),
            ],
        ),
        _table("Settings", ("setting", "value"), _settings(record)),
        _scores(record),
        _table("Memory and time, as measured", ("fact", "value"), _costs(record)),
        "## How to load it\n\n" + _loading(record, merged),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _limits(record, merged)) + "\n",
        "## Versions\n\n" + ", ".join(f"{k} {v}" for k, v in record.started.get("versions", {}).items()) + "\n",
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(record: Record, merged: str | None) -> dict[str, Any]:
    config = record.config
    out: dict[str, Any] = {}
    base = str(config["base"])
    if _is_hub_id(base):
        out["base_model"] = base
        out["base_model_relation"] = {None: "adapter", "nf4": "quantized"}.get(merged, "finetune")
    out["library_name"] = "peft" if merged is None and config["method"] in IN_PEFT else "transformers"
    out["pipeline_tag"] = record.kind
    out["license"] = "unknown"
    out["tags"] = [PROJECT.lower(), str(config["method"]), *(["lora"] if "lora" in str(config["method"]) else [])]
    out["tags"] = list(dict.fromkeys(out["tags"]))
    metrics = _metrics(record)
    if metrics:
        out["metrics"] = list(dict.fromkeys(m["type"] for row in metrics for m in row["metrics"]))
        out["model-index"] = [{"name": _heading(record), "results": metrics}]
    return out


def _metrics(record: Record) -> list[dict[str, Any]]:
    after = record.after
    if after is None:
        return []
    task, exact = after["task"], "exact_match"
    rows = []
    if after["exact_match"] is not None and record.labels:
        rows.append((task, "accuracy", "Accuracy, held-out texts", after["exact_match"]))
    elif after["exact_match"] is not None:
        rows.append((task, exact, "Exact match, held-out items", after["exact_match"]))
    if after.get("macro_f1") is not None:
        rows.append((task, "f1", "Macro F1, held-out texts", after["macro_f1"]))
    rows += [(name, exact, "Exact match, an old skill of the base", share) for name, share in after["skills"].items()]
    return [
        {
            "task": {"type": record.kind},
            "dataset": {"name": str(name), "type": str(name)},
            "metrics": [{"type": kind, "name": title, "value": share}],
        }
        for name, kind, title, share in rows
    ]


def _is_hub_id(base: str) -> bool:
    local = base == EMBEDDED or base.startswith((".", "/", "~")) or Path(base).is_dir()
    return not local and base.count("/") == 1


def _base_text(record: Record) -> str:
    base = str(record.config["base"])
    facts = record.started.get("base", {})
    if base == EMBEDDED:
        told = f"Deltalab's embedded base ({count_text(facts.get('parameters') or record.started['total'])} parameters)"
    elif _is_hub_id(base):
        told = f"[{base}](https://huggingface.co/{base})"
        told += f", revision {facts['revision']}" if facts.get("revision") else ""
    else:
        told = f"{_text(Path(base).name)}, a local folder"
    mark = facts.get("fingerprint")
    return told + (f"; weights `{mark}`" if mark else "")


def _heading(record: Record) -> str:
    method = METHODS[str(record.config["method"])].TITLE
    return record.title or f"{method} on {_task(record)}"


def _text(typed: str) -> str:
    """What a person typed, with the signs that Markdown would read made plain."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#$" else c for c in typed)


def _task(record: Record) -> str:
    return str(record.config.get("task") or Path(str(record.config.get("data"))).name)


def _data_text(record: Record) -> str:
    many = f"{record.started['examples']:,} examples, {record.started['held_out']:,} held out"
    if record.config.get("task"):
        return f"the task `{record.config['task']}` of Deltalab's small world, generated from the seed: {many}"
    return f"own data, {_text(_task(record))}: {many}"


def _summary(record: Record, merged: str | None) -> str:
    method = METHODS[str(record.config["method"])].TITLE
    kind = "adapter" if merged is None else f"model, merged into {merged}"
    text = f"A {method} {kind}, fine-tuned with {PROJECT} on {_data_text(record).partition(':')[0]}."
    if record.before and record.after and None not in (record.before["exact_match"], record.after["exact_match"]):
        how = "given the right label" if record.labels else "answered exactly"
        text += (
            f" On held-out items it went from {_percent(record.before['exact_match'])} to "
            f"{_percent(record.after['exact_match'])} {how}."
        )
    if record.labels:
        text += f" It tells apart: {_text(', '.join(record.labels))}."
    return text + "\n"


def _settings(record: Record) -> list[tuple[str, str]]:
    rows = [(k, str(v)) for k, v in record.config["settings"].items() if v != ""]
    kept = {f.name: f.default for f in fields(TrainConfig)}
    main = ("steps", "batch_size", "learning_rate", "precision")
    loop = record.config["train"]
    rows += [(k, str(loop[k])) for k in main if k in loop]
    rows += [(k, str(v)) for k, v in loop.items() if k not in main and v != kept.get(k)]
    return rows


def _scores(record: Record) -> str:
    before, after = record.before, record.after
    if after is None:
        return "## Scores\n\nNothing was held out that could be scored.\n"
    rows = []
    task = _text(str(after["task"]))
    if after["exact_match"] is not None:
        score = "accuracy" if record.labels else "exact match"
        rows.append((f"{task}, {score}", _share(before, "exact_match"), _percent(after["exact_match"])))
    if after.get("macro_f1") is not None:
        rows.append((f"{task}, macro F1", _share(before, "macro_f1"), _percent(after["macro_f1"])))
    if after["loss"] is not None:
        known = before["loss"] if before is not None else None
        unit = "label" if record.labels else "token"
        rows.append((f"{task}, held-out loss (nats a {unit})", _nats(known), _nats(after["loss"])))
    for name, share in after["skills"].items():
        known = (before or {}).get("skills", {}).get(name)
        rows.append((f"old skill: {name.replace('_', ' ')}", _percent(known), _percent(share)))
    if not rows:
        return "## Scores\n\nNothing was held out that could be scored.\n"
    how = "the likeliest label counts" if record.labels else "greedy answers"
    note = f"{after['items']} held-out items, {how}." if after.get("items") else ""
    return _table("Scores", ("score", "before", "after"), rows) + (f"\n{note}\n" if note else "")


def _costs(record: Record) -> list[tuple[str, str]]:
    end = record.finished
    rows = [("Device", f"{record.started['device']}, computing in {record.started['dtype']}")]
    rows.append(("Training time", seconds_text(end["seconds"])))
    if end.get("tokens"):
        rows.append(("Labels trained on" if record.labels else "Answer tokens trained on", f"{end['tokens']:,}"))
    if end.get("peak_bytes"):
        rows.append(("Peak memory", bytes_text(end["peak_bytes"])))
    rows.append(("Size on the disk", bytes_text(end["adapter_bytes"])))
    return rows


def _loading(record: Record, merged: str | None) -> str:
    config = record.config
    base, method = str(config["base"]), str(config["method"])
    name = base if _is_hub_id(base) else "path/to/the/base"
    kind = "AutoModelForSequenceClassification" if record.labels else "AutoModelForCausalLM"
    if merged is not None or method == "full":
        body = f'model = {kind}.from_pretrained("path/to/this/folder")'
        return _code(
            [f"from transformers import {kind}, AutoTokenizer", "", body]
            + ['tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")'] * (merged is not None)
        )
    if method not in IN_PEFT:
        own = f"PEFT does not have {METHODS[method].TITLE}; the folder is in {PROJECT}'s own format. "
        merges = METHODS[method].MERGES
        return own + ("`deltalab merge` makes a plain checkpoint of it.\n" if merges else "`deltalab chat` loads it.\n")
    lines = ["from peft import PeftModel", f"from transformers import {kind}, AutoTokenizer"]
    arguments = ""
    if method == "qlora" and not (record.started.get("base") or {}).get("few_bits"):
        lines[1] += ", BitsAndBytesConfig"
        settings = config["settings"]
        lines.append("")
        kept = ""
        if record.labels:
            lines[0] = "from peft import PeftConfig, PeftModel"
            # What trains whole beside the adapter is not stored in few bits.
            lines.append('whole = PeftConfig.from_pretrained("path/to/this/folder").modules_to_save')
            lines.append('kept = [f".*{name}" for name in whole]')
            kept = ", llm_int8_skip_modules=kept"
        if settings["quant_type"] == "int8":
            lines.append(f"few_bits = BitsAndBytesConfig(load_in_8bit=True{kept})")
        else:
            lines += [
                "few_bits = BitsAndBytesConfig(",
                f'    load_in_4bit=True, bnb_4bit_quant_type="{settings["quant_type"]}",',
                f"    bnb_4bit_use_double_quant={settings['double_quantization']}{kept},",
                ")",
            ]
        arguments = ", quantization_config=few_bits"
    if record.labels:
        # The head comes with the adapter; the base is given one of its size.
        lines += ["", f"labels = {json.dumps(list(record.labels), ensure_ascii=False)}"]
        arguments += ", num_labels=len(labels), ignore_mismatched_sizes=True"
    lines += [
        "",
        f'base = {kind}.from_pretrained("{name}"{arguments})',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")',
    ]
    note = ""
    if base == EMBEDDED:
        note = f"\nThe embedded base is the folder `core/assets/embedded` of {PROJECT}.\n"
    return _code(lines) + note


def _limits(record: Record, merged: str | None) -> list[str]:
    out = []
    items = (record.after or {}).get("items")
    if items:
        out.append(f"It was scored on {items} held-out items of the kind it was trained on, with one seed; no more.")
    else:
        out.append("It was not scored: nothing is known of how well it does.")
    before, after = (record.before or {}).get("skills", {}), (record.after or {}).get("skills", {})
    fell = {n: before[n] - after[n] for n in after if n in before and before[n] - after[n] > 0.005}
    if fell:
        worst = max(fell, key=lambda n: fell[n])
        out.append(
            f"It forgot: {len(fell)} of {len(after)} old skills fell, {worst.replace('_', ' ')} most, from "
            f"{_percent(before[worst])} to {_percent(after[worst])}."
        )
    elif after:
        out.append("None of the base's old skills that were scored fell by more than half a point.")
    else:
        out.append("What it may have forgotten of the base's abilities was not measured.")
    if record.config["base"] == EMBEDDED:
        out.append("The base is a model organism of a few million parameters that knows a small made-up world only.")
    if record.started.get("base", {}).get("template") == "plain":
        out.append("The base has no chat template of its own: prompts must be written as in training.")
    limit = record.config["train"].get("max_length")
    out.append(f"It was trained on texts of at most {limit} tokens.")
    if merged == "nf4":
        out.append("Its weights were rounded to four bits after merging; the scores above are from before.")
    elif merged == "bfloat16":
        out.append("Its weights were rounded to bfloat16 after merging; the scores above are from before.")
    out.append("Whether it is safe or fair was not examined. Its licence is its author's and its base's to say.")
    return out


def _table(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def _code(lines: list[str]) -> str:
    return "```python\n" + "\n".join(lines) + "\n```\n"


def _share(event: Mapping[str, Any] | None, name: str) -> str:
    return _percent(event[name] if event is not None else None)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _nats(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"
