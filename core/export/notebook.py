"""A run as a Jupyter notebook: the parts of the script, each with its prose, and the model asked before and after.

The format is nbformat 4.5 (JSON; nbformat.readthedocs.io, "The notebook file format"); cells have fixed ids, so the
same run gives the same bytes. Nothing is executed here: the outputs are the reader's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from core.config import RunConfig, resolved
from core.export.facts import Facts
from core.export.parts import Part, parts
from core.export.script import default_code, differences, imports, requirements_file, uses_here, values, what
from core.material import SCORING_SEED
from core.methods import METHODS
from core.world import examples

ASKED = 3  # questions before and after

ASK = '''def ask(question):
    """What the model answers, taking the likeliest token each time."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    ).to(model.device)
    model.eval()
    with torch.no_grad():
        out = model.generate(**asked, max_new_tokens=100, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(out[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)'''

ASK_LABEL = '''def ask(row):
    """The label that the model gives a text."""
    asked = tokenizer(row["text"], row.get("text_pair"), return_token_type_ids=TYPES, return_tensors="pt")
    model.eval()
    with torch.no_grad():
        return labels[int(model(**asked.to(model.device)).logits.argmax())]'''

UNPACKED = """# On some CPUs bitsandbytes re-packs 4-bit weights when they first answer, and cannot train any more.
for module in model.modules():
    if hasattr(module, "support_avx512bf16_for_cpu"):
        module.support_avx512bf16_for_cpu = False
"""


def notebook(config: RunConfig, facts: Facts | None = None, *, trainer: str = "transformers") -> str:
    """The notebook, as JSON.

    Args:
        config, facts, trainer: as `core.export.script.script`.

    Raises:
        BadInput: as there.
    """
    config, facts = resolved(config), facts or Facts()
    data, base, method, training, saving = (
        Part(p.title, p.text.replace("\n", "\n\n"), p.code) for p in parts(config, facts, trainer=trainer)
    )
    about = METHODS[config.method]
    cells = [_prose("head", _head(config, facts, trainer))]
    cells += _cells("settings", Part("settings", "Everything that you may want to change.", _settings(config, facts)))
    needed = imports(
        config, trainer, "", notebook=True, classifies=bool(facts.labels), few_bits=facts.few_bits
    )  # fmt: skip
    cells += _cells("imports", Part("", "", "\n".join(needed)))
    for name, part in (("data", data), ("base", base)):
        cells += _cells(name, part)
    cells += _cells("before", Part("before", "What the base says, untrained.", _before(config, facts)))
    shown = Part(
        method.title, f"**{about.TITLE}.** {about.SUMMARY}\n\n    {about.FORMULA}\n\n*{about.PAPER}*", method.code
    )
    cells += _cells("method", shown)
    cells += _cells("training", training)
    cells += _cells("after", Part("after", "The same questions again.", AFTER))
    cells += _cells("saving", saving)
    record = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


AFTER = """for question, before in zip(QUESTIONS, BEFORE, strict=True):
    print(f"{question}\\n   before: {before}\\n   after:  {ask(question)}\\n")"""


def _head(config: RunConfig, facts: Facts, trainer: str) -> str:
    lines = [
        f"# {what(config)}",
        "",
        f"A run of Deltalab{f' called “{facts.title}”' if facts.title else ''}, again, on "
        f"{'TRL' if trainer == 'sft' else 'transformers'} without Deltalab. {' '.join(facts.told)}".rstrip(),
        "",
        f"Install what it needs with `pip install -r {requirements_file(trainer)}`, then run the cells from the top.",
    ]
    other = differences(config, trainer, facts)
    if other:
        lines += ["", "What differs from the run:", "", *(f"- {sentence}" for sentence in other)]
    return "\n".join(lines)


def _settings(config: RunConfig, facts: Facts) -> str:
    lines = ["from pathlib import Path", "from types import SimpleNamespace", ""]
    if uses_here(config, facts):
        lines.append("HERE = Path.cwd()")
    lines.append("args = SimpleNamespace(")
    missing = []
    for name, default, text in values(config, facts):
        if default is None:
            missing.append(name)
            lines.append(f'    {name}="",  # {text}')
        else:
            lines.append(f"    {name}={default_code(name, default, config, facts)},  # {text}")
    lines.append(")")
    if missing:
        lines.append(f'assert {" and ".join(f"args.{n}" for n in missing)}, "Fill in {" and ".join(missing)} above."')
    return "\n".join(lines)


def questions(config: RunConfig) -> list[str]:
    """A few questions that the run did not train on; none for a person's own file."""
    if config.task is None:
        return []
    return [e.prompt for e in examples(config.task, "heldout", ASKED, SCORING_SEED)]


def _before(config: RunConfig, facts: Facts) -> str:
    start = UNPACKED if config.method == "qlora" or facts.few_bits else ""
    if facts.labels:
        listed = f"QUESTIONS = rows[:{ASKED}]"
        return f"{start}{listed}\n\n\n{ASK_LABEL}\n\n\nBEFORE = [ask(row) for row in QUESTIONS]\nBEFORE"
    asked = questions(config)
    if asked:
        listed = "QUESTIONS = [\n" + "".join(f"    {json.dumps(q, ensure_ascii=False)},\n" for q in asked) + "]"
    else:
        listed = f'QUESTIONS = [messages_of(row)[-2]["content"] for row in rows[:{ASKED}]]'
    return f"{start}{listed}\n\n\n{ASK}\n\n\nBEFORE = [ask(question) for question in QUESTIONS]\nBEFORE"


def _cells(name: str, part: Part) -> list[dict[str, Any]]:
    """A part's prose, if it has any, and its code."""
    out = []
    if part.text:
        title = f"## {part.title.capitalize()}\n\n" if part.title else ""
        out.append(_prose(f"{name}-text", title + part.text))
    out.append(
        {
            "cell_type": "code",
            "execution_count": None,
            "id": name,
            "metadata": {},
            "outputs": [],
            "source": _lines(part.code),
        }
    )
    return out


def _prose(name: str, text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": _lines(text)}


def _lines(text: str) -> Sequence[str]:
    return text.splitlines(keepends=True)
