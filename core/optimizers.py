"""The optimizers on offer, and their state as plain tensors and JSON.

AdamW (Loshchilov and Hutter 2019) keeps two running means per trained number: 8 bytes in 32 bits, 2 bytes in 8 bits
(Dettmers et al. 2022, arXiv:2110.02861: blocks of 256 values share a scale). Paged states can be moved out to the CPU's
memory when the GPU's is short (QLoRA, section 3).

`optimizer_state` and `load_optimizer_state` are what a checkpoint needs: after loading, the next step is bit for bit
what it would have been. Nothing is pickled, so a checkpoint is safe to open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from core.errors import BadInput

if TYPE_CHECKING:
    import torch

OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit")
# bitsandbytes keeps 32-bit states for smaller tensors: their scales would cost more than they save.
SMALLEST_8BIT = 4096
# The code books of 8-bit states: the same constants for every tensor, made anew rather than saved.
_CODE_BOOKS = ("qmap1", "qmap2")


def make_optimizer(
    name: str,
    params: Iterable[torch.nn.Parameter],
    lr: float,
    weight_decay: float,
    rate_factors: Iterable[float] | None = None,
    *,
    fused: bool = True,
) -> tuple[torch.optim.Optimizer, tuple[str, ...]]:
    """The optimizer called `name` over `params`, and sentences about anything it does other than its name says.

    Args:
        name: one of OPTIMIZERS.
        lr: learning rate. weight_decay: decoupled, per unit of learning rate.
        rate_factors: for each parameter, how many times `lr` its own rate is (default: once). There is one group for
            each factor, which keeps it under "rate_factor".
        fused: whether AdamW may take PyTorch's fused form: one pass over all tensors instead of a dozen.

    Raises:
        BadInput: an unknown name, no parameters, or an 8-bit optimizer without bitsandbytes.
    """
    import torch

    trained = list(params)
    factors = [1.0] * len(trained) if rate_factors is None else list(rate_factors)
    groups = [
        {
            "params": [p for p, own in zip(trained, factors, strict=True) if own == factor],
            "lr": lr * factor,
            "rate_factor": factor,
        }
        for factor in dict.fromkeys(factors)
    ]
    if not trained:
        raise BadInput("There are no parameters to train.")
    if name not in OPTIMIZERS:
        raise BadInput(f"There is no optimizer {name!r}.", f"The optimizers are {', '.join(OPTIMIZERS)}.")
    if name == "adamw":
        # It needs floating-point tensors on a device that has it (on the meta device a trace stands in for one).
        fused = fused and all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "meta") for p in trained)
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused), ()
    try:
        from core.layers.quiet_bitsandbytes import bnb
    except ImportError as why:
        raise BadInput(
            f"8-bit optimizer states need bitsandbytes, which cannot be loaded here ({why}).", "Use adamw."
        ) from why
    notes = []
    small = sum(p.numel() < SMALLEST_8BIT for p in trained)
    if small:
        which = "All" if small == len(trained) else f"{small} of {len(trained)}"
        notes.append(
            f"{which} trained tensors have fewer than {SMALLEST_8BIT:,} numbers; bitsandbytes keeps their optimizer "
            "states in 32 bits."
        )
    paged = name == "paged_adamw_8bit"
    if paged and any(p.device.type != "cuda" for p in trained):
        notes.append(
            "Optimizer states are not paged here: paging moves them between a GPU and the CPU, and there is no GPU."
        )
        paged = False
    kind = bnb.optim.PagedAdamW8bit if paged else bnb.optim.AdamW8bit
    return kind(groups, lr=lr, weight_decay=weight_decay, min_8bit_size=SMALLEST_8BIT), tuple(notes)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return list(chain.from_iterable(group["params"] for group in optimizer.param_groups))


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Everything an optimizer remembers, as tensors and JSON.

    Returns:
        tensors: "3.exp_avg" -> the state of the fourth parameter; the live tensors, not copies.
        described: {"kind", "shapes", "groups": [settings], "states": [[names of tensors], {numbers}]}, JSON-ready.
    """
    tensors: dict[str, torch.Tensor] = {}
    states = []
    parameters = _parameters(optimizer)
    for index, parameter in enumerate(parameters):
        names, numbers = [], {}
        for key, value in optimizer.state.get(parameter, {}).items():
            if key in _CODE_BOOKS:
                continue
            if _is_tensor(value):
                tensors[f"{index}.{key}"] = value
                names.append(key)
            else:
                numbers[key] = value
        states.append([names, numbers])
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        settings = {}
        for key, value in group.items():
            if key == "params":
                continue
            if _is_tensor(value):  # a learning rate on the device, for captured steps
                tensors[f"group{index}.{key}"] = value
            else:
                settings[key] = list(value) if isinstance(value, tuple) else value
        groups.append(settings)
    described = {
        "kind": type(optimizer).__name__,
        "shapes": [list(p.shape) for p in parameters],
        "groups": groups,
        "states": states,
    }
    return tensors, described


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], described: Mapping[str, Any]
) -> None:
    """Put back what `optimizer_state` gave, into an optimizer of the same kind over parameters of the same shapes.

    Raises:
        BadInput: another kind of optimizer, other parameters, or a state that is incomplete.
    """
    from core.distributed import part_like

    parameters = _parameters(optimizer)
    kind = type(optimizer).__name__
    if described.get("kind") != kind:
        raise BadInput(
            f"The saved state is that of {described.get('kind')}; this run uses {kind}.",
            "Resume with the optimizer and the device the run was started with.",
        )
    if described.get("shapes") != [list(p.shape) for p in parameters]:
        raise BadInput(
            "The saved optimizer state belongs to other trained parameters than this run's.",
            "Resume with the settings the run was started with.",
        )
    missing = [k for k in _expected(described) if k not in tensors]
    if missing:
        raise BadInput(f"The saved optimizer state is incomplete: {missing[0]} is missing.", "Start a new run.")
    for index, (group, settings) in enumerate(zip(optimizer.param_groups, described["groups"], strict=True)):
        for key, value in settings.items():
            group[key] = tuple(value) if isinstance(group.get(key), tuple) else value
        for key in group:
            saved = tensors.get(f"group{index}.{key}")
            if saved is not None:
                group[key] = saved.to(getattr(group[key], "device", saved.device), copy=True)
    places = [(g, i) for g, group in enumerate(optimizer.param_groups) for i in range(len(group["params"]))]
    for index, (parameter, place) in enumerate(zip(parameters, places, strict=True)):
        names, numbers = described["states"][index]
        if not names and not numbers:
            optimizer.state.pop(parameter, None)
            continue
        state = _empty_state(optimizer, parameter, place)
        here = {key: part_like(tensors[f"{index}.{key}"], parameter) for key in names}
        for key in names:
            saved = here[key]
            if _is_tensor(state.get(key)):
                # In place: a paged tensor must stay the paged one.
                state[key].copy_(saved)
            else:
                state[key] = saved.to(_device_of(key, saved, parameter, optimizer), copy=True)
        state.update(numbers)
        optimizer.state[parameter] = state


def _empty_state(
    optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, place: tuple[int, int]
) -> dict[str, Any]:
    """What the optimizer itself would start with for this parameter: filled for bitsandbytes, empty for torch's."""
    init_state = getattr(optimizer, "init_state", None)
    if init_state is None:
        return {}
    optimizer.state[parameter] = {}
    init_state(optimizer.param_groups[place[0]], parameter, *place)
    return optimizer.state[parameter]


def _device_of(key: str, saved: torch.Tensor, parameter: torch.Tensor, optimizer: torch.optim.Optimizer) -> Any:
    """Where torch's own optimizer keeps this part of its state: the step count stays on the CPU unless fused."""
    if key == "step" and not (optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")):
        return "cpu"
    return parameter.device


def _expected(described: Mapping[str, Any]) -> Iterator[str]:
    return (f"{index}.{name}" for index, (names, _) in enumerate(described["states"]) for name in names)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
