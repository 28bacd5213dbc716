"""The parts of an exported script behind its arguments: data, base, method, training, saving."""

from __future__ import annotations

import json
from typing import Any

from core.config import RunConfig, resolved
from core.errors import BadInput
from core.export.facts import Facts
from core.export.label_parts import LABEL_LOSS, label_parts
from core.export.method_code import BY_HAND, files, method_code, quantization
from core.export.peft_config import WITHOUT_CONFIG
from core.export.piece import Part
from core.export.python_text import Code, call
from core.methods import METHODS
from core.template import PLAIN_BETWEEN, PLAIN_OPENING, PLAIN_SYSTEM, PLAIN_USER

TRAINERS = ("transformers", "sft")
OPTIMS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}


def why_none(method: str, *, few_bits: bool) -> BadInput | None:
    """Why no script can be written for a method's runs; None where one can.

    Args:
        few_bits: see Facts.
    """
    if not few_bits or method not in WITHOUT_CONFIG:
        return None
    return BadInput(
        "transformers' Trainer trains a base in few bits with an adapter of PEFT's only, which "
        f"{METHODS[method].TITLE} is not.",
        "Train it here, or take the unquantized checkpoint of the same model.",
    )


def parts(config: RunConfig, facts: Facts, *, trainer: str = "transformers") -> list[Part]:
    """Everything behind the arguments, in order: data, base, method, training, saving.

    Raises:
        BadInput: an unknown trainer, or one that does not train what the run trained.
    """
    if trainer not in TRAINERS:
        raise BadInput(f"There is no trainer {trainer!r}.", f"The trainers are {', '.join(TRAINERS)}.")
    config = resolved(config)
    refused = why_none(config.method, few_bits=facts.few_bits)
    if refused is not None:
        raise refused
    if facts.labels:
        if trainer == "sft":
            raise BadInput(
                "TRL's SFTTrainer trains language models; this run trained a classifier.",
                "Take the script with transformers' Trainer.",
            )
        data, base = label_parts(config, facts)
    else:
        data, base = _data(config, facts, trainer), _base(config, facts)
    return [
        data,
        base,
        Part("method", *method_code(config, classifies=bool(facts.labels))),
        _training(config, facts, trainer),
        _saving(config),
    ]


# --- data ---------------------------------------------------------------------------------------------------------


def _plain_template() -> str:
    """Our plain template for tokenizers that have none (core/template.py), in Jinja, as a Python literal in lines."""
    system, user = (json.dumps(t.split("{content}")) for t in (PLAIN_SYSTEM, PLAIN_USER))
    before, after = json.loads(user)
    q = json.dumps
    lines = [
        f"{{% for m in messages %}}{{% if m.role == 'system' %}}{{{{ m.content + {q(json.loads(system)[1])} }}}}",
        f"{{% elif m.role == 'user' %}}{{{{ {q(before)} + m.content + {q(after)} }}}}",
        f"{{% else %}}{{{{ {q(PLAIN_OPENING)} + m.content + eos_token }}}}",
        f"{{% if not loop.last %}}{{{{ {q(PLAIN_BETWEEN)} }}}}{{% endif %}}{{% endif %}}{{% endfor %}}",
        f"{{% if add_generation_prompt %}}{{{{ {q(PLAIN_OPENING)} }}}}{{% endif %}}",
    ]
    return "\n".join(f"    r'''{line}'''" for line in lines)


TEMPLATE = """# A tokenizer without a chat template gets a plain one.
PLAIN = (
{plain}
)
if tokenizer.chat_template is None:
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    tokenizer.chat_template = ("{{{{ bos_token }}}}" if begins else "") + PLAIN"""

READ = '''def messages_of(row):
    """The conversation in a line of the data."""
    if "messages" in row:
        return row["messages"]
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]'''

ENCODE = '''def chat(messages, **more):
    return tokenizer.apply_chat_template(messages, tokenize=False, **more)


def tokens(text):
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # the template has written them


def encode(messages):
    """Token ids, and labels on what the assistant says up to the token that ends it; -100 is not scored."""
    whole = chat(messages)
    ids = tokens(whole)
    labels, end = [-100] * len(ids), len(ids)
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            asked = chat(messages[:place], add_generation_prompt=True)
            if not whole.startswith(asked):  # a generation prompt that finished answers do not have
                asked = whole[: whole.index(message["content"], len(chat(messages[:place])))]
            start = len(tokens(asked))
            # What some templates write behind the last token of an answer (a line break) is not learnt.
            end = len(tokens(chat(messages[: place + 1]).rstrip()))
            labels[start:end] = ids[start:end]
    if ids[end - 1] not in tokenizer.added_tokens_decoder:  # a template that ends an answer with nothing
        ids, labels = ids[:end] + [tokenizer.eos_token_id], labels[:end] + [tokenizer.eos_token_id]
    return {"input_ids": ids, "labels": labels}'''


READ_ROWS = """with open(args.data, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file if line.strip()]"""

OWN_ROWS = """dataset = [encode(messages_of(row)) for row in rows]
dataset = [row for row in dataset if len(row["input_ids"]) <= {limit}]"""

SFT_ROWS = """conversations = [messages_of(row) for row in rows]
conversations = [m for m in conversations if len(tokenizer.apply_chat_template(m, return_dict=False)) <= {limit}]
dataset = Dataset.from_list([{{"prompt": m[:-1], "completion": m[-1:]}} for m in conversations])"""


def _data(config: RunConfig, facts: Facts, trainer: str) -> Part:
    loop = config.train
    revision = ", revision=revision" if config.revision else ""
    lines = []
    if config.revision:
        lines.append(f"revision = {json.dumps(config.revision)} if args.base == {json.dumps(config.base)} else None")
    lines += [
        f"tokenizer = AutoTokenizer.from_pretrained(args.base{revision})",
        "tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token",
        'tokenizer.padding_side = "right"',
        TEMPLATE.format(plain=_plain_template()),
        "", "", READ, "",
    ]  # fmt: skip
    text = "Conversations become tokens by the model's own chat template; only the answers are scored."
    if trainer == "sft":
        text += (
            " TRL does both when a row has a prompt and a completion. It would cut long rows, so they are left out "
            f"here, as the run left them out ({loop.max_length} tokens)."
        )
        lines += ["", READ_ROWS, SFT_ROWS.format(limit=loop.max_length)]
    else:
        text += f" Rows of more than {loop.max_length} tokens are left out, as the run left them out."
        lines += ["", ENCODE, "", "", READ_ROWS, OWN_ROWS.format(limit=loop.max_length)]
    lines.append('print(f"{len(dataset)} of {len(rows)} rows are used")')
    return Part("data", text, "\n".join(lines))


# --- base ---------------------------------------------------------------------------------------------------------


def _base(config: RunConfig, facts: Facts) -> Part:
    revision = ", revision=revision" if config.revision else ""
    kind = METHODS[config.method].BASE
    half = facts.precision == "bfloat16" and kind != "trained"
    lines = [f"set_seed({config.seed})"]
    dtype = "torch.float32"
    if half:
        text = "On a GPU 16 bits are enough for what does not train; what trains beside it is kept in 32."
        dtype = "dtype"
        lines.append("dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32")
    elif kind == "trained":
        text = "Weights that train are kept in 32 bits: small steps would be lost in 16."
    else:
        text = "The run computed in 32 bits. On a GPU, bfloat16 here and `bf16=True` below halve the memory."
    if kind == "quantized" or facts.few_bits:
        text = (
            "The base's linear layers are stored in a few bits and decoded when they are needed; embedding, norms and "
            "head stay as they are. (PEFT's `prepare_model_for_kbit_training` would copy those into 32 bits as well.)\n"
        ) + text
        how = "" if facts.few_bits else " quantization_config=quantization,"  # a base stored so says it itself
        lines += [
            *([] if facts.few_bits else [quantization(config.settings, dtype)]),
            "model = AutoModelForCausalLM.from_pretrained(",
            f"    args.base{revision}, dtype={dtype},{how}",
            '    device_map={"": PartialState().device},  # this process\'s own GPU',
            ")",
        ]
    else:
        lines.append(f"model = AutoModelForCausalLM.from_pretrained(args.base{revision}, dtype={dtype})")
    return Part("base", text, "\n".join(lines))


# --- training -----------------------------------------------------------------------------------------------------


def _warmup(config: RunConfig) -> str:
    share = config.train.warmup
    return f"max(1, round({share:g} * args.steps))" if share > 0 else "0"


def _rate(config: RunConfig) -> str:
    after = {
        "linear": "return 1 - done",
        "cosine": "return 0.5 * (1 + math.cos(math.pi * done))",
        "constant": "",
    }[config.train.schedule]
    shape = {"linear": "a line to 0", "cosine": "half a cosine to 0", "constant": "no more change"}[
        config.train.schedule
    ]
    rise = config.train.warmup > 0
    lines = ["def rate(step):"]
    lines.append(f'    """Share of the learning rate in a step, from 0: {"a rise, then " if rise else ""}{shape}."""')
    if rise:
        lines += [f"    warmup = {_warmup(config)}", "    if step < warmup:", "        return (step + 1) / warmup"]
    if after:
        start = "step - warmup" if rise else "step"
        whole = "max(1, args.steps - warmup)" if rise else "args.steps"
        top = f"({start})" if rise else start
        lines += [f"    done = {top} / {whole}", f"    {after}"]
    else:
        lines.append("    return 1.0")
    return "\n".join(lines)


def _trainer_class(config: RunConfig, trainer: str) -> str:
    loop, s = config.train, config.settings
    parent = "SFTTrainer" if trainer == "sft" else "Trainer"
    lines = [f"class RunTrainer({parent}):"]
    lines += [
        "    # Trainer's own warm-up starts at a rate of 0, so its first step moves nothing; the run's starts above."
        if loop.warmup > 0
        else "    # The run's schedule, as it was computed there.",
        "    def create_scheduler(self, num_training_steps, optimizer=None):",
        "        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, rate)",
        "        return self.lr_scheduler",
    ]
    if config.method == "lora_plus":
        kind = {"adamw": "torch.optim.AdamW", "adamw_8bit": "bnb.optim.AdamW8bit"}.get(
            loop.optimizer, "bnb.optim.PagedAdamW8bit"
        )
        lines += [
            "",
            "    # LoRA+ is in the optimizer alone: B learns faster than A.",
            "    def create_optimizer(self, model=None):",
            "        self.optimizer = create_loraplus_optimizer(",
            f"            model=self.model, optimizer_cls={kind}, lr={loop.learning_rate!r},",
            f"            loraplus_lr_ratio={s.rate_ratio!r}, loraplus_weight_decay={loop.weight_decay!r},",
            "        )",
            "        return self.optimizer",
        ]
    elif loop.weight_decay:
        lines += [
            "",
            "    # Trainer spares biases and norms from weight decay; the run did not.",
            "    def get_decay_parameter_names(self, model):",
            "        return [name for name, _ in model.named_parameters()]",
        ]
    return "\n".join(lines)


LOG = '''class Log(TrainerCallback):
    """One line of JSON a step, from the first process."""

    def on_train_begin(self, arguments, state, control, **_):
        if args.log and state.is_world_process_zero:
            open(args.log, "w").close()

    def on_log(self, arguments, state, control, logs=None, **_):
        if args.log and state.is_world_process_zero and "loss" in logs:
            kept = {key: logs[key] for key in ("loss", "grad_norm", "learning_rate") if key in logs}
            with open(args.log, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **kept}) + "\\n")'''


def _training(config: RunConfig, facts: Facts, trainer: str) -> Part:
    loop = config.train
    batch = facts.batch_size or loop.batch_size
    half = facts.precision == "bfloat16"
    if facts.ordered:
        own = f"HERE / {json.dumps(facts.data)}"
        strategy = f'"sequential" if Path(args.data).resolve() == {own} else "random"'
    else:
        strategy = '"random"'
    arguments: dict[str, Any] = {
        "output_dir": Code("args.out"),
        "max_steps": Code("args.steps"),
        "per_device_train_batch_size": Code("batch"),
        "gradient_accumulation_steps": loop.accumulation,
        "learning_rate": loop.learning_rate,
        "weight_decay": loop.weight_decay,
        "max_grad_norm": loop.clip,
        "optim": OPTIMS[loop.optimizer],
        "bf16": half,
        "use_cpu": Code("not torch.accelerator.is_available()"),
        "gradient_checkpointing": loop.gradient_checkpointing,
    }
    if loop.compile:
        arguments["torch_compile"] = True
    if loop.gradient_checkpointing:
        arguments["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    if trainer == "sft":
        arguments |= {"max_length": loop.max_length, "completion_only_loss": True, "packing": False}
    arguments |= {
        "train_sampling_strategy": Code(strategy),
        "dataloader_drop_last": True,
        "seed": config.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
    }
    counted = "labels" if facts.labels else "answers' tokens"
    text = f"The loss is the mean over the {counted} of all passes of a step, as in the run."
    if facts.ordered:
        text += " The file beside this script has the rows in the order in which the run saw them, so it is read from "
        text += "the top; other data is shuffled."
    lines = [
        "# Processes started by `accelerate launch` share the batch, so that the steps stay those of the run.",
        f'batch, rest = divmod(min({batch}, len(dataset)), int(os.environ.get("WORLD_SIZE", 1)))',
        "if rest or not batch:",
        f'    raise SystemExit("The batch of {batch} cannot be shared evenly among the processes.")',
        call("settings", "SFTConfig" if trainer == "sft" else "TrainingArguments", arguments),
        "", "", _rate(config), "", "", _trainer_class(config, trainer), "", "", LOG, "", "",
    ]  # fmt: skip
    if trainer == "sft":
        made = {"model": Code("model"), "args": Code("settings"), "train_dataset": Code("dataset"),
                "processing_class": Code("tokenizer"), "callbacks": Code("[Log()]")}  # fmt: skip
    else:
        made = {"model": Code("model"), "args": Code("settings"), "train_dataset": Code("dataset"),
                "data_collator": Code("DataCollatorForSeq2Seq(tokenizer)"), "callbacks": Code("[Log()]")}  # fmt: skip
        if facts.labels:
            lines += [LABEL_LOSS, "", ""]
            made |= {"data_collator": Code("DataCollatorWithPadding(tokenizer)"),
                     "compute_loss_func": Code("loss_of")}  # fmt: skip
    lines += [call("trainer", "RunTrainer", made), "trainer.train()"]
    return Part("training", text, "\n".join(lines))


def _saving(config: RunConfig) -> Part:
    method = config.method
    text = "Safetensors only; from the first process."
    lines = ["if trainer.is_world_process_zero():"]
    if method == "full":
        text += " Full fine-tuning leaves a whole model."
        lines += ["    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(args.out)"]
    elif method in BY_HAND:
        file, prefix = files(method)
        name = f'"{prefix}" + name' if prefix else "name"
        text += " Only what trained is saved, under its name in the model; `--adapter` reads it again."
        lines += [
            "    Path(args.out).mkdir(parents=True, exist_ok=True)",
            f"    tensors = {{{name}: p.detach().cpu().contiguous() for name, p in trained.items()}}",
            f'    save_file(tensors, Path(args.out) / "{file}", metadata={{"format": "pt"}})',
        ]
    elif method == "pissa":
        text += " As a change of the base as it was, with twice the rank."
        lines += ["    model.save_pretrained(args.out, path_initial_model_for_weight_conversion=start)"]
    else:
        lines += ["    model.save_pretrained(args.out)"]
    lines += ["    tokenizer.save_pretrained(args.out)", '    print(f"saved in {args.out}")']
    return Part("saving", text, "\n".join(lines))
