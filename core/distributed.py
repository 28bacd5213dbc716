"""What several processes do together when they train one model: on several GPUs, or on several machines.

Each process has a rank, from 0, and a copy of the model, or of a part of it. Rank 0 is the one that a person sees: it
writes the files and its events are the run's; it decides when to stop and when to save. The others follow. `joined()`
is where they meet; alone, in one process, everything here passes its argument on.

    batch       every process makes the same batch and computes on its own rows of it
    gradient    summed over the processes, not averaged: each divides its tokens' losses by the tokens of the whole step
    scores      the questions are dealt out and the answers collected
    files       rank 0 writes whole tensors, so a run resumes in any number of processes

Two ways to divide the work (`TrainConfig.parallel`):

    ddp     the whole model in each process; torch's DistributedDataParallel sums the gradients while the backward pass
            still computes (Li et al. 2020, arXiv:2006.15704)
    fsdp    weights, gradients and optimizer states cut into parts, one for each process, and each layer's weights
            fetched when it computes: torch's fully_shard (Zhao et al. 2023, arXiv:2304.11277; ZeRO-3 of Rajbhandari et
            al. 2020, arXiv:1910.02054). Less memory, more traffic. Every process takes part in every pass.

What goes between processes beside tensors is JSON. A process that cannot go on leaves its reason in the store that the
others were joined by; they notice because the connection breaks.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from core.errors import BadInput
from core.events import Event, Failed, from_dict, to_dict

T = TypeVar("T")
LossSum = Callable[[Any], torch.Tensor]  # of a batch

STRATEGIES = ("ddp", "fsdp")
# How long one waits for another: rank 0 may load, or write a large file, while the others have nothing to do.
PATIENCE = timedelta(minutes=30)
REASON_SECONDS = 5.0  # from a broken connection to its reason: the failed process, or who started it, writes it down
_FAILURE = "failure"
_BROKEN = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out", "socket")


class World:
    """The processes of a run, as one of them sees it.

    rank, size: which of how many. local_rank, local_size: the same among those on this machine.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1, store: Any = None
    ) -> None:
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = local_rank, local_size
        self._store = store
        self._model: Any = None
        self._passes: Any = None  # around it, with ddp
        self._sharded = False

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes and decides."""
        return self.rank == 0

    def notes(self, strategy: str, batch_size: int) -> tuple[str, ...]:
        """What a person should know about the processes, as sentences."""
        if self.size == 1:
            return ()
        out = [f"{self.size} processes share each batch ({strategy}); losses and gradients are those of all of it."]
        if batch_size < self.size:
            idle = self.size - batch_size
            out.append(f"A batch of {batch_size} leaves {idle} of them without a row; raise batch_size.")
        return tuple(out)

    # --- to agree on something ------------------------------------------------------------------------------------

    def told(self, value: Any) -> Any:
        """What rank 0 has for `value` (JSON-ready), in every process."""
        if self.size == 1:
            return value
        content = json.dumps(value).encode() if self.is_main else b""
        length = torch.tensor([len(content)])
        dist.broadcast(length, 0)
        data = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_main:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(data, 0)
        return json.loads(bytes(data.tolist()))

    def agreed(self, decision: bool) -> bool:
        """What rank 0 has decided, in every process."""
        if self.size == 1:
            return decision
        flag = torch.tensor([decision], dtype=torch.uint8)
        dist.broadcast(flag, 0)
        return bool(flag)

    def everyones(self, value: Any) -> list[Any]:
        """What each process has for `value` (JSON-ready), by rank, in every process."""
        if self.size == 1:
            return [value]
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(content)]))
        longest = int(max(lengths))
        padded = torch.nn.functional.pad(content, (0, longest - len(content)))
        found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(found, padded)
        return [json.loads(bytes(data[: int(n)].tolist())) for data, n in zip(found, lengths, strict=True)]

    def check_same(self, value: Any, sentence: str, advice: str) -> None:
        """Raise BadInput, in every process, unless all have the same `value`."""
        every = self.everyones(value)
        if any(other != every[0] for other in every):
            raise BadInput(sentence, advice)

    def sum(self, number: float) -> float:
        """The sum of every process's number."""
        if self.size == 1:
            return number
        total = torch.tensor([number], dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)

    def wait(self) -> None:
        """Until everybody has come here."""
        self.sum(0.0)

    # --- the passes -----------------------------------------------------------------------------------------------

    def wrap(self, model: Any, loss_sum: Callable[..., torch.Tensor], strategy: str) -> LossSum:
        """Prepare `model`, with its method attached, to be trained together; its trained values become those of rank 0.

        Args:
            loss_sum: (model, batch) -> summed loss: the objective's.
            strategy: one of STRATEGIES. "fsdp" puts other parameters (DTensors) in the place of the model's own, so an
                optimizer is made afterwards.

        Returns:
            batch -> summed loss of these rows; the gradients that it leaves behind are summed over the processes.
        """
        if self.size == 1:
            return partial(loss_sum, model)
        self._model, self._passes, self._sharded = model, None, False  # there may have been another run before
        for parameter in model.parameters():
            if parameter.requires_grad:
                dist.broadcast(parameter.data, 0)
        if strategy == "fsdp":
            _shard(model, self.size)
            self._sharded = True
            return partial(loss_sum, model)
        from torch.nn.parallel import DistributedDataParallel

        # What was read from files or made from the seed need not be sent once more; what trains was, above.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the new name of broadcast_buffers came with torch 2.13
            passes: Any = DistributedDataParallel(_Pass(model, loss_sum), broadcast_buffers=False, init_sync=False)
        passes.register_comm_hook(None, _summed)
        self._passes = passes
        return cast(LossSum, passes)

    def share(self, batch: Any) -> Any:
        """This process's rows of a batch (an objective's)."""
        return batch if self.size == 1 else batch.part(self.rank, self.size)

    def passing(self, *, last: bool) -> Any:
        """Context for one forward and backward pass. Gradients are summed over the processes in the step's last one;
        those before it only add to this process's own."""
        if self._sharded:
            self._model.set_requires_gradient_sync(last)
        elif self._passes is not None and not last:
            return self._passes.no_sync()
        return nullcontext()

    def buffer_bytes(self) -> int:
        """What stays allocated beside model and optimizer: DistributedDataParallel's copy of all gradients."""
        if self._passes is None:
            return 0
        return sum(p.numel() * p.element_size() for p in self._passes.parameters() if p.requires_grad)

    # --- scores ---------------------------------------------------------------------------------------------------

    def part(self, things: Sequence[T]) -> Sequence[T]:
        """This process's share of things to be scored. With fsdp everybody scores everything: a pass needs all of them
        anyway, and its time is that of fetching the weights, whatever the number of rows."""
        return things if self._sharded else things[self.rank :: self.size]

    def together(self, found: Sequence[T], count: int) -> list[T]:
        """What all found for their parts (JSON-ready), in the order of the `count` things."""
        if self.size == 1 or self._sharded:
            return list(found)
        out: list[Any] = [None] * count
        for rank, part in enumerate(self.everyones(list(found))):
            out[rank :: self.size] = part
        return out

    # --- files ----------------------------------------------------------------------------------------------------

    def collected(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors whole, on the CPU, in rank 0; nothing elsewhere. One at a time: a copy of everything on the
        device could be what does not fit there."""
        out = {}
        for name, tensor in tensors.items():
            whole = whole_tensor(tensor)
            if self.is_main:
                out[name] = whole.detach().contiguous().cpu()
        return out

    @contextmanager
    def whole(self, model: Any) -> Iterator[None]:
        """Within this, rank 0 has all parameters of `model` whole, in the CPU's memory, to save them. (Only where they
        are cut into parts; else nothing needs doing.)"""
        if not self._sharded:
            yield
            return
        places = [(m, name, p) for m in model.modules() for name, p in m.named_parameters(recurse=False)]
        found: dict[int, torch.nn.Parameter] = {}  # by the part's identity: tied weights stay one
        for part in {id(p): p for _, _, p in places}.values():
            tensor = whole_tensor(part.detach())
            if self.is_main:
                found[id(part)] = torch.nn.Parameter(tensor.cpu(), requires_grad=part.requires_grad)
        if not self.is_main:
            yield
            return
        try:
            for module, name, part in places:
                module.register_parameter(name, found[id(part)])
            yield
        finally:
            for module, name, part in places:
                module.register_parameter(name, part)

    # --- chance ---------------------------------------------------------------------------------------------------

    def seed(self, seed: int, step: int = 0) -> None:
        """Let each process drop out other numbers. Rank 0 goes on with what it has: as it would alone."""
        if self.rank:
            torch.manual_seed(seed + 1_000_003 * self.rank + 7_919 * step)

    def random_states(self, device: torch.device) -> dict[str, torch.Tensor]:
        """The state of every process's generators, by name: what `restore_random` takes."""
        own = {"random.cpu": torch.get_rng_state()}
        if device.type == "cuda":
            own["random.cuda"] = torch.cuda.get_rng_state(device)
        if self.size == 1:
            return own
        out: dict[str, torch.Tensor] = {}
        for name, state in own.items():
            every = [torch.empty_like(state) for _ in range(self.size)]
            dist.all_gather(every, state)
            out |= {_of_rank(name, rank): each for rank, each in enumerate(every)}
        return out

    def restore_random(self, states: Mapping[str, torch.Tensor], device: torch.device, *, seed: int, step: int) -> None:
        """Put this process's generators into the state that was saved; one that did not exist then is seeded."""
        self.seed(seed, step)
        own = states.get(_of_rank("random.cpu", self.rank))
        if own is not None:
            torch.set_rng_state(own)
        own = states.get(_of_rank("random.cuda", self.rank))
        if own is not None and device.type == "cuda":
            torch.cuda.set_rng_state(own, device)

    # --- failures -------------------------------------------------------------------------------------------------

    def relay(self, events: Iterator[Event]) -> Iterator[Event]:
        """Pass a run's events on, and see to it that all processes end for the reason that ended one of them."""
        if self.size == 1:
            yield from events
            return
        step = 0
        try:
            with closing(cast(Any, events)):
                for event in events:
                    step = event.step if hasattr(event, "step") else step
                    if isinstance(event, Failed):
                        self.leave_reason(event)
                    yield event
        except RuntimeError as error:
            if not _connection_broke(error):
                self.leave_reason(_defect(step, error))
                raise
            yield self._reason(step)
        except Exception as error:
            self.leave_reason(_defect(step, error))
            raise

    def leave_reason(self, failed: Failed) -> None:
        """Say why this process goes, unless another has gone before it."""
        with suppress(RuntimeError):  # whoever kept the store has gone
            who = dataclasses.replace(failed, sentence=f"{failed.sentence} (Process {self.rank + 1} of {self.size}.)")
            self._store.compare_set(_FAILURE, "", json.dumps(to_dict(who)))

    def _reason(self, step: int) -> Failed:
        with suppress(RuntimeError):
            self._store.wait([_FAILURE], timedelta(seconds=REASON_SECONDS))
            reason = from_dict(json.loads(self._store.get(_FAILURE)))
            assert isinstance(reason, Failed)
            return reason
        return Failed(
            step,
            "process_lost",
            f"One of the {self.size} processes ended, or could not be reached any more, in step {step + 1}.",
            "See whether its machine has run out of memory, then resume the run.",
        )


ALONE = World()
_here: World | None = None


@contextmanager
def joined() -> Iterator[World]:
    """The world of this process: that in which it is already, the one that torchrun's environment describes, or itself.

    Raises:
        BadInput: there are fewer GPUs here than processes.
    """
    if _here is not None:
        yield _here
    elif int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
    else:
        store, rank, size = next(dist.rendezvous("env://"))
        local_rank, local_size = (int(os.environ[n]) for n in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        with meeting(store, rank, size, local_rank, local_size) as world:
            yield world


@contextmanager
def meeting(store: Any, rank: int, size: int, local_rank: int, local_size: int) -> Iterator[World]:
    """Join those who hold the same `store`, and leave them at the end.

    Raises:
        BadInput: there are fewer GPUs here than processes.
    """
    global _here
    backend = "gloo"
    if torch.cuda.is_available():
        check_devices(local_size)
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    group = dist.PrefixStore("group", store)
    dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=PATIENCE)
    _here = World(rank, size, local_rank, local_size, dist.PrefixStore("deltalab", store))
    try:
        yield _here
    finally:
        _here = None
        dist.destroy_process_group()


def check_devices(processes: int) -> None:
    """Raise BadInput when this machine has GPUs, but fewer than processes."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else processes
    if processes > cards:
        raise BadInput(f"{processes} processes need as many GPUs, and this machine has {cards}.", "Start fewer.")


# --- tensors of which a process has a part ----------------------------------------------------------------------------


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` with everybody's parts, in every process; itself where it is whole."""
    whole = getattr(tensor, "full_tensor", None)
    return tensor if whole is None else whole()


def part_like(whole: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor that all have whole, cut as `parameter` is; itself where that is whole, or of
    another shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or whole.shape != parameter.shape:
        return whole
    whole = whole.to(parameter.device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _shard(model: Any, size: int) -> None:
    """Cut the parameters of `model` into parts, layer by layer, and move this process's to its device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (size,))
    # transformers' own list of what belongs on one device: the layers.
    layers = set(getattr(model, "_no_split_modules", None) or ())
    for module in [m for m in model.modules() if type(m).__name__ in layers] + [model]:
        # True for the model itself too: what scoring leaves whole there would not see the next update.
        one: Any = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        one.set_gradient_divide_factor(1.0)
        one.set_force_sum_reduction_for_comms(True)  # gloo knows no other


class _Pass(torch.nn.Module):
    """A model's summed loss as a module, for DistributedDataParallel to wrap; everybody else keeps the model itself."""

    def __init__(self, model: Any, loss_sum: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self.loss_sum = loss_sum

    def forward(self, batch: Any) -> torch.Tensor:
        return self.loss_sum(self.model, batch)


def _summed(_state, bucket):  # torch compares annotations, and refuses their text
    """A hook for DistributedDataParallel, which would divide by the number of processes: gradients are summed."""
    sent = dist.all_reduce(bucket.buffer(), async_op=True)
    assert sent is not None
    return sent.get_future().then(lambda future: future.value()[0])


def _of_rank(name: str, rank: int) -> str:
    return f"{name}.{rank}" if rank else name


def _connection_broke(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _BROKEN)


def _defect(step: int, error: Exception) -> Failed:
    said = (str(error).strip().splitlines() or [""])[0][:200]
    return Failed(
        step, "defect", f"A process broke off with {type(error).__name__}: {said}.", "Its log has the details."
    )
