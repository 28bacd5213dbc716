"""Data and base of an exported script that trains a classifier on an encoder, and its loss."""

from __future__ import annotations

import json
from typing import Any

from core.config import RunConfig
from core.export.facts import Facts
from core.export.method_code import quantization
from core.export.piece import Part
from core.export.python_text import Code, call, literal
from core.methods import METHODS

ROWS = """with open(args.data, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file if line.strip()]
# The labels in the order of the model's outputs: the run's, or those of other data by the alphabet.
{run}
found = sorted({{str(row["label"]) for row in rows}})
labels = RUN if set(found) <= set(RUN) else found"""

ENCODE = '''def encode(row):
    """Token ids of a text (or of a pair), and the number of its label."""
    tokens = tokenizer(row["text"], row.get("text_pair"), return_token_type_ids=TYPES, verbose=False)
    return {**tokens, "labels": labels.index(str(row["label"]))}'''

USED = """dataset = [encode(row) for row in rows]
dataset = [row for row in dataset if len(row["input_ids"]) <= {limit}]
print(f"{{len(dataset)}} of {{len(rows)}} rows are used, with the labels {{', '.join(labels)}}")"""

LOADED = """# What the checkpoint lacks is drawn by the run's seed, as there: the head, and often a pooler too.
fresh = {name.rpartition(".")[0] for name in (*info["missing_keys"], *(m[0] for m in info["mismatched_keys"]))}
encoder = model.base_model_prefix + "."


def part_of_head(path):
    \"\"\"The module of the head that a module or parameter belongs to, or None.\"\"\"
    if not path.startswith(encoder):
        return path.partition(".")[0]
    if any(path == name or path.startswith(name + ".") for name in fresh):
        return path.removeprefix(encoder).partition(".")[0]
    return None


HEAD = sorted({part_of_head(name) for name, _ in model.named_parameters()} - {None})"""

LABEL_LOSS = '''def loss_of(outputs, labels, num_items_in_batch=None):
    """Cross-entropy, summed over a pass and divided by the labels of the whole step."""
    summed = torch.nn.functional.cross_entropy(outputs.logits.float(), labels, reduction="sum")
    return summed / (num_items_in_batch if num_items_in_batch is not None else len(labels))'''


def label_parts(config: RunConfig, facts: Facts) -> tuple[Part, Part]:
    """The script's data and its base."""
    return _data(config, facts), _base(config, facts)


def _data(config: RunConfig, facts: Facts) -> Part:
    loop = config.train
    lines = []
    if config.revision:
        lines.append(f"revision = {json.dumps(config.revision)} if args.base == {json.dumps(config.base)} else None")
    revision = ", revision=revision" if config.revision else ""
    lines += [
        f"tokenizer = AutoTokenizer.from_pretrained(args.base{revision})",
        "# Encoders that tell no two kinds of text apart are not told which is which.",
        f"TYPES = (getattr(AutoConfig.from_pretrained(args.base{revision}), \"type_vocab_size\", 0) or 0) > 1",
        ROWS.format(run=literal("RUN = ", list(facts.labels))),
        "", "", ENCODE, "", "", USED.format(limit=loop.max_length),
    ]  # fmt: skip
    text = (
        "A row is a text (or a pair of texts) and its label. Texts become tokens with the special ones that the "
        f"encoder expects; rows of more than {loop.max_length} tokens are left out, as the run left them out."
    )
    return Part("data", text, "\n".join(lines))


def _from_pretrained(target: str, arguments: dict[str, Any]) -> str:
    loaded = call(target, "AutoModelForSequenceClassification.from_pretrained", arguments)
    return loaded.replace("from_pretrained(\n", "from_pretrained(\n    args.base,\n")


def _base(config: RunConfig, facts: Facts) -> Part:
    kind = METHODS[config.method].BASE
    half = facts.precision == "bfloat16" and kind != "trained"
    text = "The encoder gets a head with an output for each label, which trains whole beside what the method trains."
    lines = [f"set_seed({config.seed})"]
    dtype = "torch.float32"
    if half:
        dtype = "dtype"
        lines.append("dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32")
    arguments: dict[str, Any] = {
        "num_labels": Code("len(labels)"),
        "id2label": Code("dict(enumerate(labels))"),
        "label2id": Code("{label: i for i, label in enumerate(labels)}"),
        "problem_type": "single_label_classification",
        "dtype": Code(dtype),
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
    }
    if config.revision:
        arguments["revision"] = Code("revision")
    lines += [_from_pretrained("model, info", arguments), LOADED]
    if kind == "quantized":
        text += (
            " The encoder's linear layers are stored in a few bits and decoded when they are needed. The head is not, "
            "so what belongs to it is found out first, on the plain model."
        )
        stored = {name: value for name, value in arguments.items() if name != "output_loading_info"}
        stored |= {"quantization_config": Code("quantization"), "device_map": Code('{"": PartialState().device}')}
        lines += [
            "head = {name: p.detach().clone() for name, p in model.named_parameters() if part_of_head(name)}",
            'kept = sorted({name.rpartition(".")[0] for name in head})',
            quantization(config.settings, dtype, skip="kept"),
            _from_pretrained("model", stored),
            "model.load_state_dict(head, strict=False)",
        ]
    lines.append(f"set_seed({config.seed})  # what the method draws, it draws from here")
    return Part("base", text, "\n".join(lines))
