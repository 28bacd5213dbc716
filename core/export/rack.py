"""Many adapters on one base: each run's change is held beside the base, and one at a time is in place.

    rack = Rack(base.model)
    rack.add("a", folder_a); rack.add("b", folder_b)
    rack.use("b")              # nothing is copied or computed: modules and pointers change places
    rack.use(None)             # the base

The base's weights are in memory once. A wrapper (LoRA's family, IA3, bottleneck adapters) is put in or taken out of its
place in the model, trained tokens are switched, and weights that were trained in place (BitFit, norms) change places
with the base's own. Ranks, targets and even methods may differ from adapter to adapter.

Two methods are held in another form than they were trained in. A PiSSA run's folder is an ordinary LoRA of twice the
rank for the unchanged base, and is taken as that. QLoRA needs its base in few bits, so such adapters share a rack only
with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import BadInput, NotFound, Refused
from core.few_bits import STORED
from core.methods import METHODS, attach, lora, saved, saved_as
from core.methods.modules import replace_module
from core.methods.virtual import MODULE as TOKENS
from core.methods.wrapped import Wrapped

if TYPE_CHECKING:
    import torch


class Rack:
    """Adapters on one model.

    Args:
        model: the plain base, loaded as `core.methods.loading` says for the adapters' method. For QLoRA the first
            adapter quantizes it.
        device: where it is to run, if it is not there yet: a base that is going to be quantized is loaded beside a
            GPU.
    """

    def __init__(self, model: Any, device: str | None = None) -> None:
        self.model = model
        self.device = device
        self._held: dict[str, _Held] = {}
        self._quant: tuple[Any, ...] | None = None
        self.current: str | None = None

    def add(self, name: str, folder: Path) -> None:
        """Load an adapter; it is not switched on.

        Raises:
            BadInput: the name is taken, the folder is not usable, or it was trained on other weights.
            Refused: it needs a quantized base and this one is not, or the other way round.
        """
        if name in self._held:
            raise BadInput(f"There is an adapter called {name!r} already.")
        self.use(None)
        method, config = saved_as(folder)
        saved.check_base(self.model, folder)
        # (On a base that is stored in few bits from the start, all methods share that one form.)
        few = method == "qlora" and getattr(self.model, STORED, None) is None
        quant = (config.quant_type, config.double_quantization) if few else None
        if self._held and quant != self._quant:
            raise Refused(
                "A quantized base and one in full precision are two bases, and this rack has one.",
                "Choose runs that were all trained with qlora in the same format, or none of them.",
            )
        attached = self._attach(method, config, folder)
        self._quant = quant
        self._held[name] = _Held(self.model, attached)
        self._held[name].take_out()

    def _attach(self, method: str, config: Any, folder: Path) -> Any:
        attached: Any
        if method == "qlora" and self._quant is not None:
            attached = lora.attach(self.model, config, method, lora.plain_pair)
        elif method == "qlora":
            attached = attach(self.model, method, config, device=self.device)
        elif method == "pissa":
            attached = lora.apply(self.model, lora.read_config(folder))
        else:
            attached = METHODS[method].apply(self.model, config)
        attached.load(folder)
        self.model.eval()
        return attached

    def use(self, name: str | None) -> None:
        """Switch to an adapter, or to the bare base.

        Raises:
            NotFound: there is none of that name.
        """
        if name is not None and name not in self._held:
            raise NotFound(f"There is no adapter called {name!r}.", f"There are: {', '.join(self._held)}.")
        if name == self.current:
            return
        if self.current is not None:
            self._held[self.current].take_out()
        self.current = None
        if name is not None:
            self._held[name].put_in()
        self.current = name

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """What this adapter adds in memory: parameters and constants of its own, by name."""
        return self._held[name].tensors


class _Held:
    """One adapter, in place when made."""

    def __init__(self, model: Any, attached: Any) -> None:
        self.model = model
        self.attached = attached
        self.layers: Mapping[str, Any] = dict(attached.layers) if isinstance(attached, Wrapped) else {}
        # Beside the wrappers a method may have put modules of its own into the model: VeRA's shared pair, tokens.
        names = ("vera_projection", TOKENS)
        self.beside = {n: model._modules[n] for n in names if n in model._modules}
        own = {n: model.get_parameter(n) for n in attached.trainable_names()}
        constants = {f"{n}.{b}": t for n, m in self.beside.items() for b, t in m.named_buffers()}
        self.tensors: dict[str, torch.Tensor] = {**own, **constants}

    def take_out(self) -> None:
        self.attached.disable()
        for path, layer in self.layers.items():
            replace_module(self.model, path, layer.base_layer)
        for name in self.beside:
            del self.model._modules[name]

    def put_in(self) -> None:
        for name, module in self.beside.items():
            self.model._modules[name] = module
        for path, layer in self.layers.items():
            replace_module(self.model, path, layer)
        self.attached.enable()
