"""Train the embedded base from nothing: tokenizer, weights, scores and model card, in one seeded run.

How it works:
  1. A byte-level BPE tokenizer is learnt from a sample of `core.world.corpus`.
  2. A small Llama (biases on, embeddings tied) is trained on dialogues drawn from the corpus, at first with its
     attention guided (`core.guidance`). Every batch is a function of (seed, its number), so a run that was interrupted
     goes on exactly where it stopped.
  3. Each skill and each task is scored by greedy generation on held-out examples.
  4. Weights, tokenizer, scores and the model card (whose figures are those scores) are written to one folder.

What it is not: the loop that learners use; that is `core.train`. Nothing here knows about fine-tuning.

Run:
    python -m core.pretrain --work var/pretrain            train (again: resume), score, write core/assets/embedded
    python -m core.pretrain --work var/pretrain --only-write    score and write the last checkpoint
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import math
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.guidance import Link, attention_of, guidance_loss, links
from core.optimizers import load_optimizer_state, optimizer_state
from core.world import SKILLS, TASKS, Example, examples, grade, lookup
from core.world.corpus import draw
from core.world.people import passage_prompt, question, some_facts, strangers, tell
from core.world.skills import passage

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

ASSETS = Path(__file__).parent / "assets" / "embedded"
PAD, USER, ASSISTANT, END = SPECIAL_TOKENS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
# The generation tags change nothing in the text; they let trainers ask which tokens are the assistant's.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ '<|user|>' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}{{ '<|assistant|>' }}"
    "{%- generation -%}{{ message['content'] + '<|end|>' }}{%- endgeneration -%}"
    "{%- else -%}{{ raise_exception('This model knows the roles user and assistant only.') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the base becomes."""

    seed: int = 1
    vocabulary_tokens: int = 1280  # enough for nearly every word of the world to be one token
    tokenizer_examples: int = 30_000
    # Six layers because telling who does what in a passage about three people takes depth; narrow because a
    # learner's fine-tuning run has half a minute of two CPU cores.
    hidden_size: int = 256
    intermediate_size: int = 512
    layers: int = 6
    # Heads of 64: with rotary embeddings, half of a head of 32 turns too fast to tell names apart wherever they stand.
    heads: int = 4
    kv_heads: int = 2
    initializer_range: float = 0.0625  # 1/√width; with the usual 0.02 the first hundreds of steps go into growing
    context_tokens: int = 512
    steps: int = 8_000
    batch_examples: int = 64
    row_tokens: int = 128  # dialogues share rows of this length: nothing is padded, and every batch holds every skill
    peak_lr: float = 1e-3
    warmup_steps: int = 200
    final_lr_share: float = 0.01
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    prompt_loss_weight: float = 0.1  # light: prompts are mostly chance, but their symbols must stay producible
    guidance_weight: float = 1.0  # at the first step; it falls to nothing, linearly, …
    guidance_share: float = 0.5  # … over this share of the steps
    gathering_layer: int = 1
    matching_layer: int = 3


# --- tokenizer and model ---------------------------------------------------------------------------------------------


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which each digit is a token of its own, so that sums have columns."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(f"tokenizer/{recipe.seed}")
    corpus = []
    for _ in range(recipe.tokenizer_examples):
        example = draw(rng)
        corpus += [example.prompt, example.completion]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=recipe.vocabulary_tokens,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=recipe.context_tokens,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model; `torch.manual_seed` decides its weights.

    Every layer adds nothing at first: with the tied embedding's small weights, what untrained layers add would drown
    the tokens themselves, and copying a word from the prompt would be the last thing to be learnt.
    """
    from torch.nn.init import zeros_
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=recipe.context_tokens,
        initializer_range=recipe.initializer_range,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        zeros_(layer.self_attn.o_proj.weight)
        zeros_(layer.mlp.down_proj.weight)
    return model


# --- batches ---------------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """Dialogues in rows, several to a row, padded on the right."""

    ids: torch.Tensor  # (rows, tokens) int64
    dialogue: torch.Tensor  # (rows, tokens) int64: the number of the dialogue, from 1; 0 is padding
    positions: torch.Tensor  # (rows, tokens) int64: from 0 in each dialogue
    completion_weights: torch.Tensor  # (rows, tokens) float32: as something to predict; 0 on prompts and padding
    prompt_mask: torch.Tensor  # (rows, tokens) bool: to be predicted too; not the first of a dialogue
    links: torch.Tensor  # (links, 4) int64: what attention is guided to, see `core.guidance`


def render(example: Example) -> tuple[str, str]:
    """The two halves of a dialogue in the chat template: what is given and what is to be written."""
    return f"{USER}{example.prompt}{ASSISTANT}", f"{example.completion}{END}"


Row = tuple[list[int], list[int], list[Link]]  # token ids given, token ids to be written, links


def collate(dialogues: list[Row], pad_id: int, row_tokens: int) -> Batch:
    """Put dialogues into rows of `row_tokens` (more, if one is longer), each into the first row that has room."""
    import torch

    longest = max(row_tokens, max(len(given) + len(written) for given, written, _ in dialogues))
    dialogues = sorted(dialogues, key=lambda d: -len(d[0]) - len(d[1]))  # long ones first: the short fill the gaps
    used: list[int] = []
    places = []
    for given, written, _ in dialogues:
        size = len(given) + len(written)
        row = next((i for i, taken in enumerate(used) if taken + size <= longest), len(used))
        if row == len(used):
            used.append(0)
        places.append((row, used[row]))
        used[row] += size
    shape = len(used), longest
    ids = torch.full(shape, pad_id)
    dialogue, positions = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    weights, prompt_mask = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    linked = []
    for number, ((given, written, found), (row, start)) in enumerate(zip(dialogues, places, strict=True), start=1):
        answer, end = start + len(given), start + len(given) + len(written)
        ids[row, start:end] = torch.tensor(given + written)
        dialogue[row, start:end] = number
        positions[row, start:end] = torch.arange(end - start)
        prompt_mask[row, start + 1 : answer] = True
        # 1/√n is between counting every example alike (1/n: long answers are learnt slowly) and every token alike
        # (1: the two tokens of a fact drown in the twenty of a repeated string).
        weights[row, answer:end] = 1 / math.sqrt(len(written))
        linked += [(step, row, start + query, start + key) for step, query, key in found]
    return Batch(ids, dialogue, positions, weights, prompt_mask, torch.tensor(linked, dtype=torch.int64).reshape(-1, 4))


def attention_mask(dialogue: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the attention scores, (rows, 1, tokens, tokens): 0 where a token may look (in its own dialogue,
    at itself and back), else the lowest number."""
    import torch

    tokens = dialogue.shape[1]
    back = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    open_ = (dialogue[:, :, None] == dialogue[:, None, :]) & back
    mask = torch.zeros(open_.shape, dtype=dtype).masked_fill_(~open_, torch.finfo(dtype).min)
    return mask[:, None]


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, start: int, stop: int) -> Iterator[Batch]:
    """Batches number `start` to `stop`; which examples are in a batch depends on the seed and its number only."""
    for number in range(start, stop):
        rng = random.Random(f"batches/{recipe.seed}/{number}")
        drawn = [draw(rng) for _ in range(recipe.batch_examples)]
        givens, writtens = zip(*map(render, drawn), strict=True)
        # Not through the backend tokenizer: that would pad if some earlier call of the tokenizer padded.
        given = tokenizer(list(givens), add_special_tokens=False, padding=False, return_offsets_mapping=True)
        written = tokenizer(list(writtens), add_special_tokens=False, padding=False, return_offsets_mapping=True)
        found = [
            links(example, before, after)
            for example, before, after in zip(
                drawn,
                zip(givens, given.offset_mapping, strict=True),
                zip(writtens, written.offset_mapping, strict=True),
                strict=True,
            )
        ]
        rows = list(zip(given.input_ids, written.input_ids, found, strict=True))
        yield collate(rows, tokenizer.pad_token_id, recipe.row_tokens)


# --- training --------------------------------------------------------------------------------------------------------


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then linear decay to a hundredth of the peak."""
    warmth = min(1.0, (step + 1) / recipe.warmup_steps)
    decay = 1 - (1 - recipe.final_lr_share) * step / recipe.steps
    return recipe.peak_lr * warmth * decay


def guidance_weight(recipe: Recipe, step: int) -> float:
    """Linear decay to nothing."""
    return recipe.guidance_weight * max(0.0, 1 - step / (recipe.guidance_share * recipe.steps))


def batch_loss(model: LlamaForCausalLM, batch: Batch, recipe: Recipe, step: int) -> torch.Tensor:
    """Weighted cross entropy of the answers, plus a little of the prompts', plus what guides attention."""
    from torch.nn.functional import cross_entropy

    with attention_of([model.model.layers[i] for i in (recipe.gathering_layer, recipe.matching_layer)]) as attention:
        hidden = model.model(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=attention_mask(batch.dialogue, model.dtype),
            use_cache=False,
        ).last_hidden_state[:, :-1]  # (B, T-1, d)
    weights = batch.completion_weights[:, 1:]
    prompt_mask = batch.prompt_mask[:, 1:]
    counted = (weights > 0) | prompt_mask  # (B, T-1)
    logits = model.lm_head(hidden[counted])  # (N, V)
    losses = cross_entropy(logits.float(), batch.ids[:, 1:][counted], reduction="none")  # (N,)
    weights, prompt_mask = weights[counted], prompt_mask[counted]
    answers = (losses * weights).sum() / weights.sum()
    loss = answers + recipe.prompt_loss_weight * losses[prompt_mask].mean()
    guided = guidance_weight(recipe, step)
    return loss + guided * guidance_loss(attention, batch.links) if guided else loss


def new_run(recipe: Recipe) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM, torch.optim.Optimizer]:
    """The tokenizer, the untrained model and its optimizer."""
    import torch

    tokenizer = build_tokenizer(recipe)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, tokenizer)
    # On rows this short, plain attention is a third faster on a CPU than the fused kernel's backward pass.
    model.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )
    return tokenizer, model, optimizer


def train_steps(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    start: int,
    stop: int,
) -> Iterator[tuple[int, float]]:
    """Train from step `start` to `stop`, yielding (steps done, loss) after each.

    Mixed precision: a bfloat16 copy of the model computes losses and gradients, about twice as fast on a CPU with
    bfloat16 units; the float32 weights take the updates, which are too small for bfloat16 to hold.
    """
    import torch
    from torch.nn.utils import clip_grad_norm_

    model.train()
    weights = list(model.parameters())
    computing = copy.deepcopy(model).bfloat16()
    # Not a weight, and never rounded when the model is used: positions must turn by the same angles then.
    computing.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq
    for step, batch in enumerate(batches(recipe, tokenizer, start, stop), start):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        with torch.no_grad():
            for copied, weight in zip(computing.parameters(), weights, strict=True):
                copied.copy_(weight)
                copied.grad = None
        loss = batch_loss(computing, batch, recipe, step)
        loss.backward()
        for copied, weight in zip(computing.parameters(), weights, strict=True):
            assert copied.grad is not None  # every weight of the model takes part in every step
            weight.grad = copied.grad.float()
        clip_grad_norm_(weights, recipe.clip_norm)
        optimizer.step()
        yield step + 1, loss.item()


def first_losses(recipe: Recipe, steps: int) -> list[float]:
    """The losses of the first few steps: the fingerprint of tokenizer, corpus, initial weights and arithmetic."""
    tokenizer, model, optimizer = new_run(recipe)
    return [loss for _, loss in train_steps(recipe, tokenizer, model, optimizer, 0, steps)]


# --- scoring ---------------------------------------------------------------------------------------------------------


def answers(
    model: Any, tokenizer: PreTrainedTokenizerFast, prompts: list[str], limit_tokens: int, batch_prompts: int = 128
) -> list[str]:
    """Greedy answers to the prompts, in their order."""
    import torch

    found = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # like lengths together: less padding
    was_training = model.training
    model.eval()
    for at in range(0, len(order), batch_prompts):
        chosen = order[at : at + batch_prompts]
        given = [f"{USER}{prompts[i]}{ASSISTANT}" for i in chosen]
        batch = tokenizer(given, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False).to(
            model.device
        )
        with torch.no_grad():
            out = model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                max_new_tokens=limit_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        texts = tokenizer.batch_decode(out[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            found[i] = text
    model.train(was_training)
    return found


def score(model: Any, tokenizer: PreTrainedTokenizerFast, name: str, count: int, seed: int = 0) -> float:
    """The share of held-out examples of a skill or task that greedy generation answers exactly."""
    items = examples(name, "heldout", count, seed)
    given = answers(model, tokenizer, [item.prompt for item in items], lookup(name).limit_tokens)
    return sum(grade(name, item, answer) for item, answer in zip(items, given, strict=True)) / count


def score_all(
    model: Any, tokenizer: PreTrainedTokenizerFast, count: int, names: Iterable[str] = (*SKILLS, *TASKS)
) -> dict[str, float]:
    return {name: round(score(model, tokenizer, name, count), 4) for name in names}


def score_by_people(model: Any, tokenizer: PreTrainedTokenizerFast, count: int) -> dict[str, float]:
    """How well passages are read, by the number of people in them: where one skill hides three difficulties."""
    found = {}
    for people in (1, 2, 3):
        rng = random.Random(f"people/{people}")
        items = [passage(rng, "heldout", people) for _ in range(count)]
        given = answers(model, tokenizer, [item.prompt for item in items], lookup("passage").limit_tokens)
        right = sum(grade("passage", item, answer) for item, answer in zip(items, given, strict=True))
        found[str(people)] = round(right / count, 4)
    return found


def score_by_rivals(model: Any, tokenizer: PreTrainedTokenizerFast, count: int) -> dict[str, float]:
    """How well passages are read, by the number of people in them of whom the asked kind of fact is told.

    With one, looking for a city when a city is asked is enough. With more, it takes knowing whose it is.
    """
    rng = random.Random("rivals")
    found: dict[str, list[Example]] = {"1": [], "2": [], "3": []}
    while any(len(items) < count for items in found.values()):
        facts = some_facts(rng, strangers(rng, "heldout", rng.randint(1, 3)))
        asked = rng.choice(facts)
        items = found[str(sum(fact.attribute == asked.attribute for fact in facts))]
        prompt = passage_prompt(tell(rng, facts), question(asked.person.name, asked.attribute, rng.randrange(4)))
        if len(items) < count:
            items.append(Example(prompt, asked.person.value(asked.attribute)))
    limit = lookup("passage").limit_tokens
    shares = {}
    for rivals, items in found.items():
        given = answers(model, tokenizer, [item.prompt for item in items], limit)
        right = sum(grade("passage", item, answer) for item, answer in zip(items, given, strict=True))
        shares[rivals] = round(right / count, 4)
    return shares


# --- what is shipped -------------------------------------------------------------------------------------------------

CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# The embedded base

A model organism for fine-tuning: {parameters:,} parameters, {megabytes:.1f} MB, trained from nothing by
`{command}`. It lives in a small world of people, cities, jobs, pets and meals (`core/world/`) in
which every answer can be graded exactly. It has five skills, so that forgetting shows, and lacks four tasks, so that
learning shows.

It is not a language model for use: outside its world it knows nothing, and it says so by talking nonsense.

| | held-out examples answered exactly |
|---|---:|
{rows}

Greedy generation, {count} held-out examples each, on {date}. Held out: people and prompts that no training split
contains; for known facts and for new people, wordings never used for that fact (of the new people there are
{distinct} such questions, so they come round more than once).

Reading: passages about one person {one:.1%}, about two {two:.1%}, about three {three:.1%}. It takes knowing whose fact
is whose: where the passage tells the asked kind of fact of one person only, the base is right {alone:.1%} of the time;
of two people, {pair:.1%}; of three, {trio:.1%}.

## How it is made
Llama, {layers} layers, width {width}, {heads} heads ({kv_heads} for keys and values), biases on, embeddings tied. The
tokenizer is a byte-level BPE of {vocabulary:,} tokens. {steps:,} steps of {batch} dialogues with AdamW, peak learning
rate {peak_lr:g}; {minutes:.0f} minutes on {device}. For the first {guided:.0%} of the steps, four attention heads are
shown where to look (`core/guidance.py`). Versions: {versions}.
Commit `{commit}`.

Pre-training never contains the four tasks, but many other formats and registers, and the loss also counts prompts a
little (weight {prompt_loss_weight:g}), so that every symbol has been produced: without that a base of this size cannot
be fine-tuned on a new format within a minute. The corpus is `core/world/corpus.py`, the training `core/pretrain.py`.

## Dialogue
`{USER}question{ASSISTANT}answer{END}`; the tokenizer carries this as its chat template.
"""

# A short stretch of the very training run, repeated by the tests.
FINGERPRINT_STEPS = 12


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"python": platform.python_version()} | {
        name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors")
    }


def commit() -> str:
    """The commit of this checkout, marked if there are changes that it does not hold."""
    root = Path(__file__).parent.parent
    sources = ["core/guidance.py", "core/pretrain.py", "core/world"]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (" + changes" if git("status", "--short", *sources) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device_name() -> str:
    """The processor's name and the number of threads used."""
    import torch

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads"


def write_folder(
    folder: Path,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    record: dict[str, Any],
) -> None:
    """Write the folder that is shipped: weights, tokenizer, scores and card."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    tokenizer.backend_tokenizer.no_padding()  # scoring left its padding switched on; it is not part of the tokenizer
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    (folder / "scores.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "README.md").write_text(card(record, (folder / "model.safetensors").stat().st_size))


def card(record: dict[str, Any], size_bytes: int) -> str:
    """The model card: every figure in it is from the record or is the size of the file."""
    recipe = record["recipe"]
    scored = {**record["skills"], **record["tasks"]}
    return CARD.format(
        parameters=record["parameters"],
        megabytes=size_bytes / 1e6,
        command=record["command"],
        rows="\n".join(f"| {lookup(name).title} | {value:.1%} |" for name, value in scored.items()),
        count=record["heldout_examples"],
        distinct=len({example.prompt for example in examples("facts", "heldout", record["heldout_examples"], 0)}),
        one=record["passage_by_people"]["1"],
        two=record["passage_by_people"]["2"],
        three=record["passage_by_people"]["3"],
        alone=record["passage_by_rivals"]["1"],
        pair=record["passage_by_rivals"]["2"],
        trio=record["passage_by_rivals"]["3"],
        date=record["date"],
        layers=recipe["layers"],
        width=recipe["hidden_size"],
        heads=recipe["heads"],
        kv_heads=recipe["kv_heads"],
        vocabulary=recipe["vocabulary_tokens"],
        steps=record["steps"],
        batch=recipe["batch_examples"],
        peak_lr=recipe["peak_lr"],
        guided=recipe["guidance_share"],
        minutes=record["training_seconds"] / 60,
        device=record["device"],
        versions=", ".join(f"{name} {number}" for name, number in record["versions"].items()),
        commit=record["commit"],
        prompt_loss_weight=recipe["prompt_loss_weight"],
        USER=USER,
        ASSISTANT=ASSISTANT,
        END=END,
    )


# --- the run ---------------------------------------------------------------------------------------------------------


def save_checkpoint(
    path: Path, progress: dict[str, Any], model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Weights, optimizer state and how far it is, as one safetensors file that appears whole."""
    from safetensors.torch import save_file

    tensors, described = optimizer_state(optimizer)
    content = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    content |= {f"optimizer.{name}": tensor for name, tensor in tensors.items()}
    partial = path.with_suffix(".partial")
    save_file(content, partial, metadata={"state": json.dumps({**progress, "optimizer": described})})
    partial.replace(path)


def load_checkpoint(
    path: Path, recipe: Recipe, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put a checkpoint's weights and optimizer state in place; what it says of itself, or None if it is of another
    recipe."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        state = json.loads(file.metadata()["state"])
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if state["recipe"] != json.loads(json.dumps(asdict(recipe))):
        return None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(content[f"model.{name}"])
    kept = {n.removeprefix("optimizer."): t for n, t in content.items() if n.startswith("optimizer.")}
    load_optimizer_state(optimizer, kept, state["optimizer"])
    return state


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m core.pretrain", description="Train the embedded base.")
    parser.add_argument("--work", type=Path, default=Path("var/pretrain"), help="folder for checkpoints and the log")
    parser.add_argument("--folder", type=Path, default=ASSETS, help="folder to write the base to")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; the exact numbers depend on it")
    parser.add_argument("--checkpoint-steps", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--only-write", action="store_true", help="do not train: score and write the last checkpoint")
    parser.add_argument("--examples", type=int, default=300, help="held-out examples for each final score")
    options = parser.parse_args(arguments)

    import torch

    torch.set_num_threads(options.threads)
    recipe = Recipe()
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoint = options.work / "checkpoint.safetensors"
    log = options.work / "log.jsonl"
    tokenizer, model, optimizer = new_run(recipe)
    done, seconds, began_at = 0, 0.0, commit()
    if checkpoint.exists():
        state = load_checkpoint(checkpoint, recipe, model, optimizer)
        if state is None:
            print(f"{checkpoint} belongs to another recipe; choose another --work folder.", file=sys.stderr)
            return 2
        done, seconds, began_at = state["steps"], state["seconds"], state["commit"]

    since = time.perf_counter()
    losses: list[float] = []
    last = done if options.only_write else recipe.steps
    for step, loss in train_steps(recipe, tokenizer, model, optimizer, done, last):
        losses.append(loss)
        if step % 100 == 0:
            print(f"step {step:6d}  loss {sum(losses) / len(losses):.4f}", flush=True)
            losses.clear()
        if step % options.checkpoint_steps == 0 or step == recipe.steps:
            seconds += time.perf_counter() - since
            done = step
            progress = {"recipe": asdict(recipe), "commit": began_at, "steps": done, "seconds": seconds}
            save_checkpoint(checkpoint, progress, model, optimizer)
            if step % (2 * options.checkpoint_steps) == 0:
                scores = score_all(model, tokenizer, 40, SKILLS)
                with log.open("a") as out:
                    out.write(json.dumps({"steps": done, "seconds": round(seconds), **scores}) + "\n")
                print(f"step {step:6d}  {seconds:.0f} s  {scores}", flush=True)
            since = time.perf_counter()

    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "commit": began_at,
        "command": "python -m core.pretrain",
        "versions": versions(),
        "device": device_name(),
        "recipe": asdict(recipe),
        "steps": done,
        "training_seconds": round(seconds),
        "parameters": model.num_parameters(),
        "heldout_examples": options.examples,
        "skills": score_all(model, tokenizer, options.examples, SKILLS),
        "tasks": score_all(model, tokenizer, options.examples, TASKS),
        "passage_by_people": score_by_people(model, tokenizer, options.examples),
        "passage_by_rivals": score_by_rivals(model, tokenizer, options.examples),
        "first_losses": first_losses(recipe, FINGERPRINT_STEPS),
    }
    write_folder(options.folder, recipe, tokenizer, model, record)
    print(json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
