"""The part of an exported script that sets the method up: PEFT's configuration, or plain torch where PEFT has none.

Which parameters train is decided in the script, on the model that it is given: names differ from family to family.
"""

from __future__ import annotations

from typing import Any

from core.config import RunConfig
from core.export.peft_config import WITHOUT_CONFIG, peft_arguments
from core.export.python_text import Code, call, ends, literal, value_text
from core.methods import METHODS
from core.methods.adapters import PLACES
from core.methods.lora import ALL_LINEAR
from core.methods.modules import names_of

BY_HAND = ("bitfit", "last_k", "adapters")  # a part of the model trains, and PEFT does not save it


def frozen(method: str) -> tuple[str, ...]:
    """The matrices of a kind of LoRA's pairs that do not train."""
    return getattr(METHODS[method], "FROZEN", ())


def is_prompt(method: str) -> bool:
    """Whether the method trains a prompt, of which PEFT's file has what came out alone."""
    return hasattr(METHODS[method], "PROMPT")


def continues_in_peft(method: str) -> bool:
    """Whether PEFT itself goes on with a saved adapter: not with prompts, and not with PiSSA's converted pairs."""
    return method not in WITHOUT_CONFIG and not is_prompt(method) and method != "pissa"


def prompt_table(config: RunConfig) -> bool:
    """Whether what is saved is what trains, rather than what an encoder made of it."""
    return config.method == "prompt_tuning" or (config.method == "prefix_tuning" and not config.settings.projection)


def continues(config: RunConfig) -> bool:
    method = config.method
    return continues_in_peft(method) or method in BY_HAND or prompt_table(config)


NORMS = """norms = [
    name for name, module in model.named_modules()
    if "norm" in type(module).__name__.lower() and any(True for _ in module.parameters(recurse=False))
]"""

THERE = '''def there(names):
    """Those of the names that layers of this model end in."""
    paths = [path for path, _ in model.named_modules()]
    return [name for name in names if any(path.endswith("." + name) for path in paths)]'''

COUNT = """trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
count, total = sum(p.numel() for p in trained.values()), model.num_parameters()
print(f"trainable params: {count:,} || all params: {total:,} || trainable%: {100 * count / total:.4f}")"""

BOTTLENECK = '''class Bottleneck(nn.Module):
    """A linear layer with an adapter behind it: h + up(f(down(h))). At first `up` is zero, so it adds nothing."""

    def __init__(self, base_layer, features):
        super().__init__()
        self.base_layer = base_layer
        self.adapter_down, self.adapter_up = nn.Linear(features, {width}{dtype}), nn.Linear({width}, features{dtype})
        nn.init.zeros_(self.adapter_up.weight)
        nn.init.zeros_(self.adapter_up.bias)

    def forward(self, x):
        h = self.base_layer(x)
{forward}


model.requires_grad_(False)
for path, layer in list(model.named_modules()):
    if path.endswith(OUTPUTS):
        weight = layer.weight  # of shape (out, in); GPT-2 has it the other way round
        features = len(weight) if isinstance(layer, nn.Linear) else weight.shape[1]
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, Bottleneck(layer, features))'''

LAST_K = """blocks = max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)
if len(blocks) < {k}:
    raise SystemExit(f"The model has {{len(blocks)}} blocks; the last {k} are asked for.")
model.requires_grad_(False)
blocks[-{k}:].requires_grad_(True)"""

LAST_NORM = """modules = list(model.modules())
inside = set(blocks.modules())
for module in modules[modules.index(blocks) :]:
    if "norm" in type(module).__name__.lower() and module not in inside:
        module.requires_grad_(True)"""


# Of a classifier the layers are named by their whole paths: the last names are found in its head too, which trains
# whole anyway.
THERE_IN_ENCODER = '''def there(names):
    """The encoder's layers that end in one of these names; without names, all of its linear ones."""
    return [
        path for path, module in model.named_modules()
        if not part_of_head(path)
        and (path.endswith(tuple("." + name for name in names)) if names else isinstance(module, torch.nn.Linear))
    ]'''

HEAD_TRAINS = """for name, parameter in model.named_parameters():  # the head trains whole
    if part_of_head(name):
        parameter.requires_grad = True"""


def method_code(config: RunConfig, *, classifies: bool = False, adapters: str = "") -> tuple[str, str]:
    """What the method is, in prose, and the code that puts it on `model`.

    Args:
        adapters: number format of layers that are added to a base in 16 bits where no autocast converts what goes
            into them; '' where one does.
        classifies: the model is an encoder with a head, whose parts `part_of_head` and `HEAD` name in the script.
    """
    method, s = config.method, config.settings
    about = METHODS[method]
    text = f"{about.SUMMARY}\n{about.FORMULA}"
    lines: list[str] = []
    if method == "full":
        lines += ["model.requires_grad_(True)", COUNT]
    elif method == "bitfit":
        lines.append("for name, parameter in model.named_parameters():")
        if s.biases.lower() == "all":
            lines.append('    parameter.requires_grad = name.endswith("bias")')
        else:
            lines += [
                '    module, _, last = ("." + name).rpartition(".")',
                f'    parameter.requires_grad = last.endswith("bias") and module.endswith({ends(names_of(s.biases))})',
            ]
        lines += [HEAD_TRAINS] if classifies else []
        lines += [
            COUNT, "if not trained:",
            '    raise SystemExit("This model has no such biases. GPT-2, OPT and Qwen2 have some.")',
        ]  # fmt: skip
    elif method == "last_k":
        lines += [LAST_K.format(k=s.blocks)]
        if s.final_norm:
            lines += ["# The norm above the last block trains too.", LAST_NORM]
        lines += [HEAD_TRAINS] if classifies else []
        lines.append(COUNT)
    elif method == "adapters":
        text += "\nPEFT does not have these adapters, so they are written out."
        lines += [
            "# What ends the attention and the MLP of a block is called differently in every family."
            if s.placement == "houlsby"
            else "# What ends the MLP of a block is called differently in every family.",
            literal("OUTPUTS = ", tuple(f".{n}" for n in PLACES[s.placement])),
            "", "", _bottleneck(s, adapters),
            *([HEAD_TRAINS] if classifies else []), COUNT,
            'if not trained:', '    raise SystemExit("No layer of this model ends like one of OUTPUTS; add its name.")',
        ]  # fmt: skip
    else:
        if method == "ln_tuning" and s.norms.lower() == "all":
            lines.append(NORMS.replace("    if ", "    if not part_of_head(name) and ") if classifies else NORMS)
        lists: dict[str, list[str]] = {}

        def there(name: str, names: list[str]) -> Code:
            lists[name] = names
            return Code(f"there({name})")

        kind, arguments = peft_arguments(method, s, find=there, norms=Code("norms"), base=Code("args.base"))
        if classifies:
            own = arguments.get("target_modules")
            if own == ALL_LINEAR:
                arguments["target_modules"] = Code("there([])")
            elif isinstance(own, list) and not isinstance(own, Code) and method != "ln_tuning":
                arguments["target_modules"] = there("TARGETS", own)
            inputs = arguments.get("feedforward_modules")
            if isinstance(inputs, list):
                arguments["feedforward_modules"] = there("INPUTS", inputs)
            arguments |= {"task_type": "SEQ_CLS", "modules_to_save": Code("HEAD")}
        if lists:
            lines += [
                "# What these layers are called differs from family to family.",
                *(literal(f"{name} = ", names) for name, names in lists.items()), "", "",
            ]  # fmt: skip
        if lists or arguments.get("target_modules") == "there([])":
            lines += [THERE_IN_ENCODER if classifies else THERE, "", ""]
        lines.append(call("config", kind, arguments))
        if continues_in_peft(method):
            lines += [
                "if args.adapter:", "    model = PeftModel.from_pretrained(model, args.adapter, is_trainable=True)",
                "else:", "    model = get_peft_model(model, config)",
            ]  # fmt: skip
        else:
            lines.append("model = get_peft_model(model, config)")
        lines += _prompt_start(config)
        if frozen(method):
            lines += freeze(method)
        if method == "pissa":
            text += (
                "\nPiSSA takes the largest singular directions out of the base's weights. What it starts from is saved "
                "beside the result, which can then be saved as a change of the base as it was."
            )
            lines += [
                "# With this flag the adapter is read as it is, and not started anew from the weights.",
                'model.peft_config["default"].init_lora_weights = True',
                'start = Path(args.out) / "start"', "model.save_pretrained(start)",
            ]  # fmt: skip
        lines.append("model.print_trainable_parameters()")
    if method in BY_HAND:
        lines += _go_on(method)
    return text, "\n".join(lines)


PLAIN = "        return h + self.adapter_up(nn.functional.{activation}(self.adapter_down(h)))"
# (As core.layers.bottleneck does it: what is added computes in the base's number format.)
CONVERTED = """        def linear(layer, x):  # its weights are in 32 bits, the text in 16
            return nn.functional.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))

        return h + linear(self.adapter_up, nn.functional.{activation}(linear(self.adapter_down, h)))"""


def _bottleneck(s: Any, adapters: str) -> str:
    """The adapter's class, for a number format of its own where there is one."""
    forward = (CONVERTED if adapters == "float32" else PLAIN).format(activation=s.activation)
    dtype = f", dtype=torch.{adapters}" if adapters else ""
    return BOTTLENECK.format(width=s.width, dtype=dtype, forward=forward)


def quantization(s: Any, dtype: str, skip: str = "") -> str:
    """The lines that say in how many bits QLoRA's base is stored.

    Args:
        s: QLoRA's settings. dtype: what it computes in, as code. skip: what is not stored so beside bitsandbytes' own
            choice, as code; '' for nothing.
    """
    skipped = {"llm_int8_skip_modules": Code(skip)} if skip else {}
    if s.quant_type == "int8":
        return call("quantization", "BitsAndBytesConfig", {"load_in_8bit": True, **skipped})
    arguments = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": s.quant_type,
        "bnb_4bit_use_double_quant": s.double_quantization,
        "bnb_4bit_compute_dtype": Code(dtype),
        **skipped,
    }
    return call("quantization", "BitsAndBytesConfig", arguments)


def freeze(method: str) -> list[str]:
    """The lines that keep what does not train as it was drawn."""
    parts = ends([f"{name}.default.weight" for name in frozen(method)])
    return [
        "for name, parameter in model.named_parameters():",
        f"    if name.endswith({parts}):",
        "        parameter.requires_grad = False",
    ]


def _prompt_start(config: RunConfig) -> list[str]:
    """What a prompt starts from: given vectors, or random ones of the size that words have."""
    s, lines = config.settings, []
    if config.method == "prompt_tuning" and s.start == "random":
        lines += [
            "# Random numbers as large as the embeddings of words; PEFT's own are far larger.",
            "with torch.no_grad():",
            '    model.prompt_encoder["default"].embedding.weight.mul_(model.get_input_embeddings().weight.std())',
        ]
    if config.method == "prompt_tuning" and s.start != "random":
        if s.start == "vocabulary":
            lines += [
                "# PEFT draws other numbers before the words to start from; these are those that the run drew.",
                f"set_seed({config.seed})",
                f"words = torch.randint(model.get_input_embeddings().num_embeddings, ({s.tokens},))",
            ]
        else:
            lines += [
                "# PEFT puts the tokenizer's first token of a text before the words; the run began with the words.",
                f'words = tokenizer({value_text(s.text)}, add_special_tokens=False)["input_ids"]',
                f"words = torch.tensor([words[i % len(words)] for i in range({s.tokens})])",
            ]
        lines += [
            "with torch.no_grad():  # through the module, because some embeddings scale what they look up",
            "    embedding = model.get_input_embeddings()",
            '    model.prompt_encoder["default"].embedding.weight.copy_(embedding(words.to(embedding.weight.device)))',
        ]
    if prompt_table(config):
        lines += [
            "if args.adapter:",
            '    saved = load_file(Path(args.adapter) / "adapter_model.safetensors")["prompt_embeddings"]',
            "    with torch.no_grad():",
            '        model.prompt_encoder["default"].embedding.weight.copy_(saved)',
        ]
    return lines


def files(method: str) -> tuple[str, str]:
    """File and prefix of the names in it, for what PEFT cannot save: as Deltalab writes them."""
    return ("adapter_model.safetensors", "base_model.model.") if method == "adapters" else (f"{method}.safetensors", "")


def _go_on(method: str) -> list[str]:
    file, prefix = files(method)
    strip = [f'    saved = {{name.removeprefix("{prefix}"): t for name, t in saved.items()}}'] if prefix else []
    return [
        "if args.adapter:",
        f'    saved = load_file(Path(args.adapter) / "{file}")',
        *strip,
        "    if saved.keys() != trained.keys():",
        '        raise SystemExit(f"{args.adapter} was trained on other parameters than these.")',
        "    model.load_state_dict(saved, strict=False)",
    ]
