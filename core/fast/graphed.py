"""A whole training step as one CUDA graph: forward, backward, clipping and optimizer, captured once and replayed.

Issuing a step's two thousand launches costs the processor tens of milliseconds; a small model's arithmetic takes less
than one. A captured graph is one launch. What it demands: the same shapes and the same memory each time, no look at a
number on the way. So

- rows are padded to a multiple of LENGTH tokens and the answers to a multiple of ANSWERS: a bucket; each bucket has
  buffers and a graph of its own. Padding behind a row changes nothing under causal attention, and an answer without a
  label (IGNORED) adds nothing to the loss;
- the learning rate and the number of answers are tensors, written before a replay; loss and gradient norm are read from
  buffers after it;
- the optimizer is PyTorch's fused AdamW with `capturable`. bitsandbytes' optimizers count steps in Python: a graph
  would repeat the first bias correction for ever, silently. They are never captured.

A bucket's first step runs as any step does, on a stream of its own: it is the warm-up that capturing asks for. The
second is captured, then replayed. Whatever cannot be captured runs without, and the reason is a note of the run.

What it does not do: several processes, accumulated passes, recomputing (each has Python between its kernels), dropout
(a resumed run could not draw the same numbers).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from core.base import context_tokens
from core.batches import IGNORED, Batch
from core.fast.fused import WithKernels, causal_attention

LENGTH, ANSWERS = 16, 64
MASKLESS = "deltalab_causal"
MOST_BUCKETS = 24  # each keeps its buffers; a run with more shapes takes the rest as they come


@dataclass(frozen=True)
class Bucket:
    """rows, length: of the token ids. answers: places for labels."""

    rows: int
    length: int
    answers: int

    @classmethod
    def of(cls, batch: Batch) -> Bucket:
        """The bucket that a batch is padded to."""
        rows, length = batch.ids.shape
        return cls(rows, -(-length // LENGTH) * LENGTH, -(-max(1, batch.answer_tokens) // ANSWERS) * ANSWERS)


class Buffers:
    """The fixed memory of a bucket: what goes in, and what comes out.

    ids (rows, length). places, targets (answers): where in rows × length a token predicts a label, and which; unused
    places point at token 0 and are IGNORED. count: of answers, 32-bit. out: mean loss and gradient norm.
    """

    def __init__(self, bucket: Bucket, device: torch.device, pad: int) -> None:
        self.pad = pad
        self.ids = torch.full((bucket.rows, bucket.length), pad, dtype=torch.long, device=device)
        self.places = torch.zeros(bucket.answers, dtype=torch.long, device=device)
        self.targets = torch.full((bucket.answers,), IGNORED, dtype=torch.long, device=device)
        self.count = torch.ones((), device=device)
        self.out = torch.zeros(2, device=device)

    def fill(self, batch: Batch) -> None:
        """Copy a batch in; the padding is set anew, for the last batch may have been longer."""
        rows, length = batch.ids.shape
        ids = torch.full((rows, self.ids.shape[1]), self.pad, dtype=torch.long)
        ids[:, :length] = batch.ids.cpu()
        labels = batch.labels.cpu()
        row, column = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        places = torch.zeros(len(self.places), dtype=torch.long)
        targets = torch.full((len(self.targets),), IGNORED, dtype=torch.long)
        places[: len(row)] = row * self.ids.shape[1] + column
        targets[: len(row)] = labels[row, column + 1]
        self.ids.copy_(ids, non_blocking=True)
        self.places.copy_(places, non_blocking=True)
        self.targets.copy_(targets, non_blocking=True)
        self.count.fill_(max(1, batch.answer_tokens))


class Replayed:
    """A graph that is no graph: runs the step again each time. What a machine without CUDA tests the rest with."""

    bytes = 0

    def __init__(self, step: Callable[[], None]) -> None:
        self.replay = step


@functools.cache
def side_stream(device: torch.device) -> Any:
    """The stream on which steps warm up and are captured: one per process and device, because the libraries keep a
    workspace for each stream that they are called on (cuBLAS's is 32 MiB on Hopper), and a workspace that is made
    while a graph is captured would lie in the graph's own memory."""
    return torch.cuda.Stream(device)


class Captured:
    """A CUDA graph of `step`. Capturing does not run it; bytes: what its memory pool has taken."""

    def __init__(self, step: Callable[[], None], pool: Any, stream: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # (The outer context leaves the capturing stream even where ending the capture fails.)
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(self.graph, pool=pool, stream=stream):
            before = torch.cuda.memory_reserved()  # (capturing begins by giving unused memory back)
            step()
        self.bytes = max(0, torch.cuda.memory_reserved() - before)
        self.replay = self.graph.replay


def why_not(
    model: Any, optimizer: torch.optim.Optimizer, *, device: torch.device, processes: int, passes: int,
    recomputing: bool, causal: bool,
) -> str:  # fmt: skip
    """Why steps are not captured, as a phrase; '' if they can be tried.

    Args:
        passes: that are accumulated. recomputing: gradient checkpointing. causal: the objective is the next token.
    """
    if device.type != "cuda":
        return "there is no CUDA device"
    if processes > 1:
        return "several processes train together"
    if passes > 1:
        return "several passes are accumulated"
    if recomputing:
        return "activations are recomputed"
    if not causal:
        return "the model is a classifier"
    if type(optimizer) is not torch.optim.AdamW:
        return f"{type(optimizer).__name__} counts its steps outside of the graph"
    if any(_drops(module) for module in model.modules()):
        return "inputs are dropped at random"
    if any(getattr(m, "IS_PROMPT", False) for m in model.modules()):
        return "trained tokens stand before the text"
    return ""


def _drops(module: torch.nn.Module) -> bool:
    """Whether a module sets something to zero at random. Families name the share as they like: `attention_dropout`,
    `attn_pdrop`, `layerdrop`; what is a number above zero and called so counts."""
    if isinstance(module, torch.nn.Dropout):
        return module.p > 0
    return any(isinstance(value, float) and value > 0 and "drop" in name for name, value in vars(module).items())


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Its learning rates become tensors on the device, which are written to, and its update may be captured."""
    for group in optimizer.param_groups:
        group["capturable"] = True
        if not isinstance(group["lr"], torch.Tensor):
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)


def set_rate(group: dict[str, Any], rate: float) -> None:
    """A group's learning rate, in place where it is a tensor that a graph reads."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


@contextmanager
def without_mask(model: Any) -> Iterator[None]:
    """Within this, a decoder that uses PyTorch's fused attention makes no mask.

    While a graph is captured transformers cannot look whether a mask is needed, so it makes one, and with a mask
    attention takes a slower kernel. Rows here are whole and causal: none is needed. (A name for attention that
    transformers has no mask for is its own way to say so.) Layers that look at a window only do need theirs.
    """
    from transformers import AttentionInterface

    config = model.config
    windows = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    if config._attn_implementation != "sdpa" or windows or getattr(config, "sliding_window", None):
        yield
        return
    AttentionInterface.register(MASKLESS, causal_attention)
    config._attn_implementation = MASKLESS
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


class GraphedStep:
    """Whole steps, by bucket.

    Args:
        model: in training mode. parameters: that train. optimizer: theirs, made capturable.
        clip: largest gradient norm (inf: none). autocast: a context for the forward pass, made anew each time.
        form: the decoder with kernels, if that is to be captured.
        capture: makes the graph of a step (`Captured`; a test passes `Replayed`).

    reason: why it has given up, '' as long as it works. bytes: that all graphs keep.
    """

    def __init__(
        self, model: Any, parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, clip: float,
        autocast: Callable[[], Any], pad: int, device: torch.device,
        capture: Callable[[Callable[[], None]], Any] | None = None, form: WithKernels | None = None,
    ) -> None:  # fmt: skip
        self.form = form
        self.model, self.parameters, self.optimizer, self.clip = model, parameters, optimizer, clip
        self.autocast, self.pad, self.device = autocast, pad, device
        self.capture = capture or self._captured
        self.context = context_tokens(model)
        self.buffers: dict[Bucket, Buffers] = {}
        self.graphs: dict[Bucket, Any] = {}
        self.reason = ""
        self._pool: Any = None
        self._stream = side_stream(device) if device.type == "cuda" else None

    @property
    def bytes(self) -> int:
        """Memory that the graphs keep between steps."""
        return sum(graph.bytes for graph in self.graphs.values())

    def takes(self, batch: Batch) -> bool:
        """Whether a batch will be stepped here: not once it has given up, nor in a bucket too many, nor in one that
        reaches past the model's positions."""
        bucket = Bucket.of(batch)
        if self.reason or (self.context is not None and bucket.length > self.context):
            return False
        return bucket in self.buffers or len(self.buffers) < MOST_BUCKETS

    def step(self, batch: Batch) -> tuple[float, float]:
        """Carry one step out; mean loss and gradient norm before clipping."""
        bucket = Bucket.of(batch)
        first = bucket not in self.buffers
        if first:
            self.buffers[bucket] = Buffers(bucket, self.device, self.pad)
        buffers = self.buffers[bucket]
        buffers.fill(batch)

        def body() -> None:
            self._body(buffers)

        if not first and bucket not in self.graphs and not self.reason:
            try:
                self.graphs[bucket] = self.capture(body)
            except Exception as error:  # whatever a library does that a graph cannot hold: the step runs without
                self.reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:160]
                # What the attempt left are no gradients: nothing was computed. The step must not add to them.
                self.optimizer.zero_grad(set_to_none=True)
        if bucket in self.graphs:
            self.graphs[bucket].replay()
        elif self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._stream):
                body()
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        else:
            body()
        loss, norm = buffers.out.tolist()  # the one moment at which the processor waits
        return loss, norm

    def _captured(self, body: Callable[[], None]) -> Captured:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return Captured(body, self._pool, self._stream)

    def _body(self, buffers: Buffers) -> None:
        """The step itself: nothing in it depends on a number that the processor would have to see."""
        with self.autocast(), without_mask(self.model):
            loss = self._loss_sum(buffers) / buffers.count
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        buffers.out[0].copy_(loss.detach())
        buffers.out[1].copy_(norm)

    def _loss_sum(self, buffers: Buffers) -> torch.Tensor:
        """As `core.evaluate.answer_loss_sum`, with the labelled places given by number instead of by a mask."""
        if self.form is not None:
            return self.form.loss_sum(buffers.ids, buffers.places, buffers.targets)
        head = self.model.get_output_embeddings()

        def labelled_only(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            hidden = args[0]
            return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, buffers.places), *args[1:])

        handle = head.register_forward_pre_hook(labelled_only)
        try:
            logits = self.model(input_ids=buffers.ids, use_cache=False).logits
        finally:
            handle.remove()
        return torch.nn.functional.cross_entropy(logits.float(), buffers.targets, reduction="sum", ignore_index=IGNORED)
