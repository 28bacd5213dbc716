"""Results of the probes of the page Ship, in the form in which they are kept: for tests of what draws them."""

from __future__ import annotations

from typing import Any


def _scores(share: float | None, loss: float = 0.1, same: float | None = 1.0) -> dict[str, Any]:
    skills = {"reversal": 0.9, "addition": 0.5}
    return {"exact_match": share, "loss": loss, "skills": skills, "skills_mean": 0.7, "same": same}


def merge(nf4: float = 0.8, kept: str | None = None) -> dict[str, Any]:
    forms = {
        "trained": ("as it was trained", 0.9), "float32": ("merged, in float32", 0.9),
        "bfloat16": ("merged, in bfloat16", 0.89), "nf4": ("merged, then stored in NF4", nf4),
    }  # fmt: skip
    rows = [{"form": form, "label": label, **_scores(share), "items": 100} for form, (label, share) in forms.items()]
    where = {"where": f"merge-{'a' * 16}", "folder": "merged", "format": kept, "bytes": 15_000_000}
    return {
        "method": "lora", "rows": rows, "adapter_bytes": 800_000, "kept": where if kept else None,
        "change": {"learnt": 2.0, "rounded": 3.0, "modules": []},
    }  # fmt: skip


def convert(kept: int = 0) -> dict[str, Any]:
    rows = [
        {"rank": rank, "error": error, **_scores(share)}
        for rank, error, share in ((1, 0.7, 0.2), (2, 0.4, 0.85), (4, 0.0, 0.9))
    ]
    where = {"where": f"convert-{'b' * 16}", "folder": "lora", "rank": kept, "error": 0.4, "bytes": 90_000}
    module = {"module": "model.layers.0.mlp.up_proj", "shape": [512, 256], "rank": 4, "norm": 1.5}
    return {
        "method": "full", "rank": 4, "uniform": 2, "ranks": [1, 2, 4], "trained": _scores(0.9), "items": 100,
        "rows": rows, "modules": [{**module, "errors": [0.7, 0.4, 0.0], "rank_limit": 256}],
        "left_out": {"model.norm.weight": 0.2}, "adapter_bytes": 800_000, "kept": where if kept else None,
    }  # fmt: skip


def latency(*, labels: bool = False) -> dict[str, Any]:
    """labels: of a classifier, which generates nothing."""

    def row(label: str, form: str, ratio: list[float] | None) -> dict[str, Any]:
        times = {"decode_ms": 3.0, "prefill_ms": 6.0, "tokens_per_second": 333.3, "bytes": 15_000_000}
        found = {"label": label, "form": form, **times, "decode_ratio": ratio, "prefill_ratio": ratio}
        return found | dict.fromkeys(("decode_ms", "decode_ratio", "tokens_per_second")) if labels else found

    rows = [
        row("base", "base", None), row("LoRA, unmerged", "unmerged", [1.2, 1.4, 1.7]),
        row("LoRA, merged", "merged", [0.9, 1.0, 1.1]),
    ]  # fmt: skip
    return {"rows": rows, "device": "A CPU", "precision": "float32", "rounds": 7, "batch": 1}


def swap(models: int = 30_000_000) -> dict[str, Any]:
    runs = [{"id": i, "title": i, "method": "lora", "adapter_bytes": 800_000, "folder_bytes": 1} for i in "ab"]
    return {
        "runs": runs, "switch_seconds": [1e-4, 2e-4, 5e-4], "load_seconds": [2e-3, 3e-3, 4e-3],
        "base_bytes": 15_000_000, "one_base_bytes": 16_600_000, "models_bytes": models, "equal": 1.0, "differ": 0.0,
        "questions": 12,
    }  # fmt: skip
