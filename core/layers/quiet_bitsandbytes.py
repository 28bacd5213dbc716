"""bitsandbytes, imported without a warning that does not concern us: `from core.layers.quiet_bitsandbytes import bnb`.

On CPUs with AVX512-BF16, bitsandbytes asks a package called `kernels` for a faster inference routine. Our own folder
of that name has none (see KERNELS: the name), and without it bitsandbytes falls back to its built-in code, which is
the one used here anyway; but it prints a line that tells people to install something. That one record is dropped;
every other record of that logger passes.
"""

from __future__ import annotations

import logging

_LOGGER = "bitsandbytes.backends.cpu.ops"
_LINE = "Failed to load CPU gemm_4bit_forward from kernels-community"


def _passes(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_LINE)


# A filter on the logger itself: it must be there before the import and is kept, because it drops nothing else.
logging.getLogger(_LOGGER).addFilter(_passes)

import bitsandbytes as bnb  # noqa: E402 (after the filter, on purpose)

__all__ = ["bnb"]
