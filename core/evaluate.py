"""How good is a model: exact match by generation, held-out loss, and the base's old skills.

Everything is greedy and deterministic. The same functions score the base before a run and the fine-tuned model after
it, so the difference between the two is the run's doing alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import TYPE_CHECKING, Any, cast

import torch

from core.base import context_tokens
from core.batches import IGNORED, collate
from core.distributed import ALONE, World
from core.errors import BadInput
from core.template import Dialogue, Encoded, Message, pad_id, prompt_ids, template_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GENERATION_BATCH = 128
GENERATION_BYTES = 2**30  # and no more rows than have room for their keys and values in so many bytes
LOGITS_BYTES = 2**28  # of a pass over whole answers, likewise for their logits
# What a token must lead by to be settled, in nats. In bfloat16 the two ways of summing put a logit of the embedded base
# up to an eighth apart, which is that format's own step at such a size; in float32 on a processor, a few millionths
# (tests/core/test_evaluate.py).
MARGIN = 1.0
MARGIN_FLOAT32 = 0.01


@dataclass(frozen=True)
class Item:
    """One thing to be answered: the dialogue up to the answer, the reference answer, and the check of an answer.

    hopeful: whether an answer that begins like this may still be right when it goes on.
    """

    messages: tuple[Message, ...]
    reference: str
    right: Callable[[str], bool]
    hopeful: Callable[[str], bool] = lambda beginning: True


@dataclass(frozen=True)
class Scored:
    """Share of items answered right (0..1) and the answers themselves, in the order of the items; of an answer that
    nobody asked to see whole (`score`) perhaps the beginning alone, up to where it cannot be right any more."""

    share: float
    answers: tuple[str, ...]
    right: tuple[bool, ...]


def item_of(dialogue: Dialogue) -> Item:
    """A dialogue whose last turn is the answer, checked by equality up to surrounding white space."""
    reference = dialogue.messages[-1].content
    wanted = reference.strip()
    return Item(
        dialogue.messages[:-1], reference, lambda answer: answer.strip() == wanted,
        lambda beginning: wanted.startswith(beginning.strip()),
    )  # fmt: skip


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) without gradients; the mode from before is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


@contextmanager
def answering(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, and generation as this module asks for it.

    What `generate` is not told it takes from the model's own generation_config: a hub model's penalties, beams or
    sampling would enter every score unseen. So that config is put aside meanwhile.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        with evaluating(model):
            yield
    finally:
        model.generation_config = own


def _generation_arguments(
    tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, temperature: float
) -> dict[str, Any]:
    """Arguments of `generate`."""
    from transformers import GenerationConfig

    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    return {
        "generation_config": GenerationConfig(
            max_new_tokens=max_new_tokens,
            eos_token_id=list(template_of(tokenizer).stop_ids) or None,
            pad_token_id=pad_id(tokenizer),
            **sampling,
        )
    }


def room(model: PreTrainedModel, prompt_tokens: int, wanted_tokens: int) -> int:
    """How many of `wanted_tokens` a model can still write behind a prompt: past its context it has no positions.

    Raises:
        BadInput: not even one.
    """
    context = context_tokens(model)
    if context is None:
        return wanted_tokens
    if prompt_tokens >= context:
        raise BadInput(
            f"The prompt has {prompt_tokens} tokens, and this model reads {context} at most.", "Shorten the prompt."
        )
    return min(wanted_tokens, context - prompt_tokens)


def _rows_at_once(model: PreTrainedModel, tokens: int) -> int:
    """How many dialogues of that length are answered together: as many as GENERATION_BYTES hold keys and values for."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row_bytes = 2 * config.num_hidden_layers * heads * size * 4 * tokens
    return max(1, min(GENERATION_BATCH, GENERATION_BYTES // row_bytes))


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message]],
    max_new_tokens: int,
    temperature: float = 0.0,
) -> list[str]:
    """Answers to dialogues that end with a user's turn, in their order, without the end token.

    Args:
        prompts: each a sequence of messages.
        max_new_tokens: an answer longer than this is cut.
        temperature: 0 takes the likeliest token each time; above 0 samples.

    Raises:
        BadInput: a prompt fills the model's whole context.
    """
    encoded = [prompt_ids(tokenizer, messages) for messages in prompts]
    return _generate(model, tokenizer, encoded, max_new_tokens, temperature)


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
) -> list[str]:
    """As `generate`, of prompts as token ids."""
    answers = [""] * len(encoded)
    # Similar lengths together: less padding. The padding is on the left, so that all answers start at one position.
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    pad = pad_id(tokenizer)
    stops = set(template_of(tokenizer).stop_ids)
    device = next(model.parameters()).device
    most = max(map(len, encoded), default=0)
    at_once = _rows_at_once(model, most + max_new_tokens)
    with answering(model):
        for start in range(0, len(order), at_once):
            rows = order[start : start + at_once]
            longest = max(len(encoded[i]) for i in rows)
            arguments = _generation_arguments(tokenizer, room(model, longest, max_new_tokens), temperature)
            ids = torch.full((len(rows), longest), pad, dtype=torch.long)
            mask = torch.zeros((len(rows), longest), dtype=torch.long)
            for row, i in enumerate(rows):
                ids[row, longest - len(encoded[i]) :] = torch.tensor(encoded[i])
                mask[row, longest - len(encoded[i]) :] = 1
            # The mixin that brings `generate` is not part of the declared class.
            out = cast(Any, model).generate(input_ids=ids.to(device), attention_mask=mask.to(device), **arguments)
            for row, i in enumerate(rows):
                answers[i] = str(tokenizer.decode(_until_end(out[row, longest:].tolist(), stops)))
    return [a.strip() for a in answers]


def _until_end(ids: list[int], stops: set[int]) -> list[int]:
    """The tokens before the first one that ends an answer."""
    return next((ids[:i] for i, token in enumerate(ids) if token in stops), ids)


class Dice:
    """Draws tokens from softmax(logits / T) with random numbers of its own; a logits processor for greedy `generate`.

        token = argmax_i (logit_i / T − log e_i),   e_i ~ Exp(1)

    (The Gumbel-max trick: Maddison et al. 2014, A* Sampling, arXiv:1411.0030, section 2.) Why not torch's own sampling:
    that draws from one stream of random numbers for the whole process. Here a seed means the same e at the same place
    of an answer, for every model that is asked, so two answers differ by what the models find likely and not by luck.

    Args:
        temperature: T, above 0.
        seed: None draws one.
    """

    def __init__(self, temperature: float, seed: int | None) -> None:
        self.temperature = temperature
        # On the CPU whatever the device, so that a seed means the same numbers everywhere.
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores: (1, V) logits -> (1, V), the largest of which is the token drawn."""
        # In 64 bits: 32 would round the numbers that rare tokens depend on.
        drawn = torch.empty(scores.shape, dtype=torch.float64).exponential_(generator=self.generator)
        return scores / self.temperature - drawn.log_().to(scores)


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    max_new_tokens: int,
    temperature: float = 0.0,
    *,
    seed: int | None = None,
) -> Generator[str, None, bool]:
    """One answer, a text per token, at the pace of whoever asks: between two texts nothing is computed.

    So several answers can take turns, even two of one model whose change is switched off and on in between. Whoever
    does that holds `answering(model)` around them all: each puts the generation config back that it found.

    The generation runs in a thread of its own, in the caller's autocast mode, and ends early when the iterator is
    closed.

    Args:
        temperature: 0 takes the likeliest token each time; above 0 samples.
        seed: of the sampling; None draws one.

    Returns:
        a generator of texts, empty while a word is not complete yet, and for the token that ends the answer. Its
        return value says whether such a token came; False: the answer was cut.

    Raises:
        BadInput: the prompt fills the model's whole context.
    """
    from transformers import LogitsProcessorList, StoppingCriteriaList, TextIteratorStreamer

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    device = next(model.parameters()).device
    ids = torch.tensor([prompt_ids(tokenizer, messages)], device=device)
    longest = ids.shape[1] + room(model, ids.shape[1], max_new_tokens)
    stops = set(template_of(tokenizer).stop_ids)
    texts: SimpleQueue[str | None] = SimpleQueue()
    go_on = Semaphore(0)
    failure: list[BaseException] = []
    closed = ended = False
    kind = device.type
    autocast = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))
    dice = [Dice(temperature, seed)] if temperature > 0 else []

    def complete_text() -> str:
        waiting = [streamer.text_queue.get() for _ in range(streamer.text_queue.qsize())]
        return "".join(text for text in waiting if text is not streamer.stop_signal)

    def after_token(generated: torch.Tensor, _scores: torch.Tensor, **_: Any) -> torch.Tensor:
        nonlocal ended
        ended = int(generated[0, -1]) in stops
        if not ended and generated.shape[1] < longest:  # the last token's text is complete when `generate` returns
            texts.put(complete_text())
            go_on.acquire()
        return torch.full((len(generated),), closed, device=generated.device)

    def work() -> None:
        try:
            with answering(model), autocast:
                cast(Any, model).generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([after_token]),
                    logits_processor=LogitsProcessorList(dice),
                    **_generation_arguments(tokenizer, longest - ids.shape[1], 0.0),
                )
            texts.put(complete_text())
        except BaseException as error:
            failure.append(error)
        finally:
            texts.put(None)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while (text := texts.get()) is not None:
            yield text
            go_on.release()
    finally:
        closed = True
        go_on.release()
        thread.join()
    if failure:
        raise failure[0]
    return ended


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    world: World = ALONE,
    *,
    whole: int | None = None,
) -> Scored:
    """The model's greedy answer to every item, checked; the processes of `world` share the items.

    No answer may be much longer than the longest reference: eight tokens more are allowed, then it is cut (and wrong).

    A greedy answer is the reference exactly where every token of that is the likeliest after those before it, and one
    pass over prompt and reference tells that of all of them at once (`leads`). Where it is not, the same pass tells the
    token that the answer goes another way with; often no answer that begins so is right. What is not settled so is
    generated, token by token.

    Args:
        whole: of how many items, from the first one on, the answer is wanted to its end though it is wrong; None: of
            all.
    """
    if not items:
        return Scored(0.0, (), ())
    references = [tokenizer(item.reference, add_special_tokens=False)["input_ids"] for item in items]
    longest = max(map(len, references))
    template = template_of(tokenizer)
    parts = world.part(list(zip(range(len(items)), items, references, strict=True)))
    prompts = [prompt_ids(tokenizer, item.messages) for _, item, _ in parts]
    wanted = [[*ids, template.stop_ids[0]] for _, _, ids in parts]
    mine, rest = [""] * len(parts), []
    for place, found in enumerate(leads(model, prompts, wanted, pad_id(tokenizer))):
        number, item, _ = parts[place]
        text = _settled(tokenizer, item, wanted[place], found, shown=whole is None or number < whole)
        if text is None:
            rest.append(place)
        else:
            mine[place] = text
    generated = _generate(model, tokenizer, [prompts[place] for place in rest], longest + 8)
    for place, answer in zip(rest, generated, strict=True):
        mine[place] = answer
    answers = world.together(mine, len(items))
    right = tuple(item.right(answer) for item, answer in zip(items, answers, strict=True))
    return Scored(sum(right) / len(right), tuple(answers), right)


def _settled(
    tokenizer: PreTrainedTokenizerBase, item: Item, wanted: list[int], found: Lead | None, *, shown: bool
) -> str | None:
    """The answer as far as one pass tells it: to its end, or (unless it is `shown`) to where it cannot be right any
    more. None: it has to be generated."""
    stops = template_of(tokenizer).stop_ids
    # (A token that ends an answer, in the middle of a reference, would end the generated one there.)
    if found is None or set(stops) & set(wanted[:-1]):
        return None
    if found.instead is None or found.instead in stops:
        return str(tokenizer.decode(wanted[: min(found.tokens, len(wanted) - 1)])).strip()
    # Where spaces are cleaned up afterwards, a beginning is not what the whole text begins with.
    if shown or getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return None
    # (Of a letter that takes several tokens the first ones have no text yet.)
    beginning = str(tokenizer.decode([*wanted[: found.tokens], found.instead])).rstrip("\ufffd").strip()
    return None if item.hopeful(beginning) else beginning


@dataclass(frozen=True)
class Lead:
    """How far greedy decoding goes with the wanted tokens, and the token that it takes then (None: it takes them
    all)."""

    tokens: int
    instead: int | None = None


def leads(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], pad: int
) -> list[Lead | None]:
    """Of each prompt, how far greedy decoding goes with the wanted tokens.

    Each token taken has to lead all others by more than a margin: a pass over a whole row and one over its last token
    sum in another order, and where two tokens are that close the order would decide. Then, and where prompt and answer
    do not fit the model's context, the answer is None: not known.

    Args:
        prompts: token ids. wanted: of each the answer's, with the token that ends it.
    """
    context = context_tokens(model)
    rows = [
        Encoded([*prompt, *answer], [*[IGNORED] * len(prompt), *answer])
        for prompt, answer in zip(prompts, wanted, strict=True)
    ]
    out: list[Lead | None] = [None] * len(rows)
    order = [i for i, row in enumerate(rows) if context is None or len(row.ids) <= context]
    order.sort(key=lambda i: len(rows[i].ids))
    device = next(model.parameters()).device
    margin = _margin(model, device)
    most_tokens = max((len(rows[i].ids) for i in order), default=1)
    most_wanted = max(map(len, wanted), default=0)
    vocabulary = model.config.get_text_config().vocab_size
    at_once = max(1, min(_rows_at_once(model, most_tokens), LOGITS_BYTES // (4 * vocabulary * max(1, most_wanted))))
    with evaluating(model):
        for start in range(0, len(order), at_once):
            part = order[start : start + at_once]
            batch = collate([rows[i] for i in part], pad)
            logits, _ = _answer_logits(model, batch.ids.to(device), batch.labels.to(device))
            # (N, 2): the likeliest token of each place, and the next.
            two = logits.float().topk(2)
            sure = (two.values[:, 0] - two.values[:, 1] > margin).tolist()
            taken = two.indices[:, 0].tolist()
            for i in part:
                n = len(wanted[i])
                out[i] = _lead(wanted[i], taken[:n], sure[:n])
                taken, sure = taken[n:], sure[n:]
    return out


def _margin(model: PreTrainedModel, device: torch.device) -> float:
    """What a token must lead by. (A GPU may multiply numbers of 32 bits in fewer.)"""
    plain = all(p.dtype == torch.float32 for p in model.parameters() if p.is_floating_point())
    exact = plain and device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return min(MARGIN, MARGIN_FLOAT32) if exact else MARGIN


def _lead(wanted: Sequence[int], taken: Sequence[int], sure: Sequence[bool]) -> Lead | None:
    """One row's, from the token taken at each place and whether that is beyond doubt."""
    for place, token in enumerate(wanted):
        if not sure[place]:
            return None
        if taken[place] != token:
            return Lead(place, taken[place])
    return Lead(len(wanted))


def answer_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Encoded],
    *,
    batch_size: int = 32,
    world: World = ALONE,
) -> float | None:
    """Mean cross-entropy of the answers' tokens, in nats; every token counts the same. None without any.

    The processes of `world` share the batches, which are the same however many they are.
    """
    sums: list[tuple[float, int]] = []
    device = next(model.parameters()).device
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    with evaluating(model):
        starts = range(0, len(order), batch_size)
        for start in world.part(starts):
            batch = collate([examples[i] for i in order[start : start + batch_size]], pad_id(tokenizer))
            loss = answer_loss_sum(model, batch.ids.to(device), batch.labels.to(device))
            sums.append((float(loss), batch.answer_tokens))
    found = world.together(sums, len(starts))
    total, tokens = sum(loss for loss, _ in found), sum(tokens for _, tokens in found)
    return total / tokens if tokens else None


def answer_loss_sum(model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropy over the answers' tokens, in nats, with logits computed only where a label counts.

    Args:
        ids: (B, T) token ids, padded on the right.
        labels: (B, T), IGNORED where no loss is taken; shifted by one inside.
    """
    logits, targets = _answer_logits(model, ids, labels)
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


def _answer_logits(
    model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, V) logits from which the labelled tokens are predicted, row by row, and those tokens, (N).

    The output layer is by far the widest matrix of a small model, and most positions (prompt, padding) have no label.
    A pre-hook hands it the labelled positions alone, so whatever the architecture does to its logits afterwards
    (scaling, soft-capping) still happens, on fewer rows.
    """
    keep = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][keep]
    head = model.get_output_embeddings()

    def labelled_only(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = args[0]
        # (B, T, d) -> (N, d): position t predicts token t + 1, so the last position is dropped first.
        return (hidden[:, :-1][keep.to(hidden.device)], *args[1:])

    handle = head.register_forward_pre_hook(labelled_only)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return logits, targets
