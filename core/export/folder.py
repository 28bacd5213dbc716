"""An adapter's folder as it lies on the disk: its settings and the names, types and shapes of its tensors.

Only headers are read, so a server may do it: no torch, no weights in memory, and never a pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.base import PICKLES
from core.errors import BadInput
from core.methods import METHODS, saved

LORA_PARTS = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class Adapter:
    """name: the folder's. config: PEFT's `adapter_config.json` (None: there is none). record: our `deltalab.json` ({}:
    somebody else's folder). tensors: name -> (type as safetensors spells it, shape). size_bytes: of all its files."""

    name: str
    config: Mapping[str, Any] | None
    record: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    size_bytes: int

    @property
    def peft_type(self) -> str:
        """PEFT's name of the method, '' where PEFT does not have it."""
        return str((self.config or {}).get("peft_type") or "")

    @property
    def method(self) -> str:
        """Our name of the method: by our record, else by PEFT's file; '' for one that Deltalab does not have."""
        if self.record:
            return str(self.record.get("method") or "")
        there = self.config or {}
        return next((name for name, module in METHODS.items() if module.reads(there)), "")

    @property
    def base(self) -> str:
        """What PEFT's file calls the base, which may be a hub id, or a folder of the machine where it was trained."""
        return str((self.config or {}).get("base_model_name_or_path") or "").strip()

    @property
    def is_lora(self) -> bool:
        """Whether PEFT takes it for LoRA, or one of LoRA's variants."""
        return self.peft_type == "LORA"

    def setting(self, name: str) -> Any:
        """A field of PEFT's file; None for what means "not used": false, empty or absent."""
        value = (self.config or {}).get(name)
        return None if value in (None, False, "", [], {}) else value

    def extra(self) -> list[str]:
        """Tensors that are no half of a low-rank pair, and no copy of the base beside one."""
        return [
            n for n in self.tensors
            if not n.endswith(LORA_PARTS) and ".lora_embedding_" not in n and ".base_layer." not in n
        ]  # fmt: skip

    def modules(self) -> list[str]:
        """Paths of the modules that have a pair, as the base calls them."""
        found = []
        for name in self.tensors:
            end = next((part for part in (*LORA_PARTS, ".lora_embedding_A", ".lora_embedding_B") if part in name), None)
            if end is not None:
                found.append(name.removeprefix(saved.PEFT_PREFIX).partition(end)[0])
        return list(dict.fromkeys(found))

    def ranks(self) -> dict[str, int]:
        """The rank of each pair, from the shape of its A."""
        return {
            n.removeprefix(saved.PEFT_PREFIX).removesuffix(LORA_PARTS[0]): shape[0]
            for n, (_, shape) in self.tensors.items()
            if n.endswith(LORA_PARTS[0]) and shape
        }


def read(folder: Path) -> Adapter:
    """Read an adapter's folder.

    Raises:
        BadInput: no folder; neither PEFT's file nor ours; pickled weights only, none at all, or damaged ones.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}.", "Name the folder that holds adapter_config.json.")
    record = saved.read_record(folder)
    has_config = (folder / saved.ADAPTER_CONFIG).exists()
    if not record and not has_config:
        if (folder / "config.json").exists():
            raise BadInput(
                f"{folder.name} holds a whole model, not an adapter.", "Load it as a model; nothing has to be attached."
            )
        raise BadInput(
            f"{folder.name} has no {saved.ADAPTER_CONFIG}, so nobody can tell what kind of adapter it is.",
            "Save it again with save_pretrained, which writes both files.",
        )
    config = saved.read_json(folder / saved.ADAPTER_CONFIG) if has_config else None
    files = sorted(folder.glob("*.safetensors"))
    if config is not None:
        # PEFT and the engines read this one file; others in the folder are ours.
        files = [f for f in files if f.name == saved.ADAPTER_WEIGHTS]
    if not files:
        pickles = sorted(p.name for p in folder.iterdir() if p.name.endswith(PICKLES))
        if pickles:
            raise BadInput(
                f"{folder.name} has pickled weights only ({pickles[0]}); loading a pickle runs code hidden in it.",
                "Save it again as safetensors: model.save_pretrained(folder, safe_serialization=True).",
            )
        raise BadInput(f"{folder.name} has no {saved.ADAPTER_WEIGHTS}.", "Complete the download, or save it again.")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        tensors |= _header(file)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return Adapter(folder.resolve().name, config, record, tensors, size)


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor; the library checks the header against the file's length.

    Raises:
        BadInput: damaged, incomplete, or a Git LFS pointer.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        if file.read(8).startswith(b"version"):
            raise BadInput(f"{path.name} is a Git LFS pointer, not the weights.", "Run `git lfs pull` in the folder.")
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return {name: (str(s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()}
    except (SafetensorError, OSError) as why:
        first = (str(why).strip().splitlines() or [type(why).__name__])[0].rstrip(".")
        raise BadInput(
            f"{path.name} in {path.parent.name} is damaged or incomplete: {first}.", "Fetch it again."
        ) from why
