"""Texts to vectors of length 1, behind one small interface.

    words                  the default: trained word vectors that come inside the package `wordllama` (256 dimensions;
                           a mean over tokens, so it knows that "stop paying" is near "cancel", and nothing of word
                           order). No download, no torch.
    spelling               hashed words and their letter groups: finds endings and typing errors, knows no meaning.
    a folder, a hub id     any sentence-transformers model (the optional package `sentence-transformers`), from
                           safetensors only and without code of its repository.

How good each is is measured (`core.rag.quality`), not assumed. An index remembers what it was made with: vectors of two
embedders cannot be compared.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from core.errors import BadInput, BaseUnavailable
from core.units import MIB

if TYPE_CHECKING:
    import numpy as np

WORDS, SPELLING = "words", "spelling"
DEFAULT = WORDS
OFFLINE = {
    WORDS: "Word vectors (offline)",
    SPELLING: "Letter groups (offline)",
}
_BATCH = 256
_COMPUTES = (".safetensors", ".json", ".txt", ".model")  # files that settle what a model computes


class Embedder(Protocol):
    """name: by which `embedder` finds it again. dimensions: of its vectors. version: changes with what it computes."""

    name: str
    dimensions: int
    version: str

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dimensions) float32, each of length 1 (or 0, of a text without a word)."""

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """As `documents`; some models embed questions otherwise than texts."""


@lru_cache(maxsize=4)
def embedder(name: str = DEFAULT) -> Embedder:
    """The embedder of that name.

    Raises:
        BaseUnavailable: its package or its model is not here, or is not safe to load.
        BadInput: no name.
    """
    name = name.strip()
    if not name:
        raise BadInput("No embedder is named.", f"Use {', '.join(OFFLINE)}, a folder or a hub id.")
    if name == WORDS:
        return Words()
    if name == SPELLING:
        return Spelling()
    return SentenceModel(name)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row divided by its length; a row of zeros stays one."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)


class Words:
    """Static vectors of subword tokens, averaged (the package's `l2_supercat`, 256 dimensions)."""

    name = WORDS
    dimensions = 256

    def __init__(self) -> None:
        from importlib.metadata import version

        import wordllama

        self.version = f"wordllama {version('wordllama')}"
        # The package looks for its own tokenizer under a wrong name, and would fetch it; as a cache it finds itself.
        here = Path(wordllama.__file__).parent
        self._model: Any = wordllama.WordLlama.load(dim=self.dimensions, cache_dir=here, disable_download=True)

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        # Its tokenizer fails on a text without a token.
        given = [text if text.strip() else "." for text in texts]
        found = unit(np.asarray(self._model.embed(given, norm=False), dtype=np.float32))
        found[[not text.strip() for text in texts]] = 0
        return found

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.documents(texts)


class Spelling:
    """v(text) = Σ_w (1 + log n_w) · (h(w) + ½ · mean of h(g) over the letter groups g of w), h a random sign vector

    A word counts whole and by its groups of three to five letters (as in Bojanowski et al. 2017, Enriching Word Vectors
    with Subword Information, arXiv:1607.04606, section 3.2), hashed into a few dimensions with random signs (Weinberger
    et al. 2009, Feature Hashing, arXiv:0902.2206). Nothing is learnt.
    """

    name = SPELLING
    dimensions = 256
    version = "1"
    _HASHES = 4  # places of a feature: fewer clash badly, more fill a short text's vector

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        out = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            counts: dict[str, int] = {}
            for word in re.findall(r"\w+", text.casefold()):
                counts[word] = counts.get(word, 0) + 1
            for word, count in counts.items():
                out[row] += (1 + np.log(count)) * _word_vector(word, self.dimensions, self._HASHES)
        return unit(out)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.documents(texts)


@lru_cache(maxsize=100_000)
def _word_vector(word: str, dimensions: int, hashes: int) -> np.ndarray:
    import numpy as np

    marked = f"<{word}>"
    groups = [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)]
    vector = np.zeros(dimensions, dtype=np.float32)
    for feature, weight in [(word, 1.0), *((g, 0.5 / len(groups)) for g in groups)]:
        for salt in range(hashes):
            code = zlib.crc32(f"{salt}{feature}".encode())
            vector[code % dimensions] += weight if code & 0x80000000 else -weight
    return vector


class SentenceModel:
    """A sentence-transformers model, by folder or hub id.

    Raises:
        BaseUnavailable: the package is missing, the model cannot be found, or has weights that only a pickle holds.
    """

    def __init__(self, source: str) -> None:
        _check_name(source)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise BaseUnavailable(
                f"The embedder {source!r} needs the package sentence-transformers, which is not installed.",
                f"Install it (pip install 'deltalab[rag]'), or use one of {', '.join(OFFLINE)}.",
            ) from None
        folder = _folder(source)
        try:
            self._model: Any = SentenceTransformer(
                str(folder), device="cpu", trust_remote_code=False, local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )  # fmt: skip
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as why:
            first = str(why).strip().splitlines()[0][:200] if str(why).strip() else type(why).__name__
            raise BaseUnavailable(
                f"The embedder {source!r} cannot be loaded: {first.rstrip('.')}.", "Choose another model."
            ) from why
        self.name = source
        self.dimensions = int(self._model.get_embedding_dimension() or 0)
        self.version = _print_of(folder)

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        return unit(self._model.encode_document(list(texts), batch_size=_BATCH, show_progress_bar=False))

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return unit(self._model.encode_query(list(texts), batch_size=_BATCH, show_progress_bar=False))


def _folder(source: str) -> Path:
    """The model's folder, fetched from the hub when it is not here; safe to load."""
    from core.base import PICKLES

    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _fetched(source)
    names = [f for f in folder.rglob("*") if f.is_file()]
    if not any(f.name == "modules.json" for f in names):
        raise BaseUnavailable(
            f"{source} is no sentence-transformers model: modules.json is missing.",
            "Choose a model from the hub's sentence-transformers collection, or a folder saved by that package.",
        )
    for pickle in (f for f in names if f.suffix in PICKLES):
        if not any(f.suffix == ".safetensors" and f.parent == pickle.parent for f in names):
            raise BaseUnavailable(
                f"{source} keeps weights in a pickle ({pickle.relative_to(folder)}), and loading one runs code.",
                "Choose a model with safetensors.",
            )
    if any(f.suffix == ".py" for f in names):
        raise BaseUnavailable(f"{source} brings code of its own, which is not run here.", "Choose another model.")
    return folder


def _check_name(source: str) -> None:
    """Neither a folder nor spelt like a hub id: said before anything heavy is imported."""
    from core.base import HUB_ID

    if not Path(source).expanduser().is_dir() and not HUB_ID.fullmatch(source):
        raise BaseUnavailable(
            f"There is no embedder {source!r}.", f"Use {', '.join(OFFLINE)}, an existing folder, or a hub id."
        )


def _fetched(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    kinds = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(source, allow_patterns=kinds))
    except LocalEntryNotFoundError:
        raise BaseUnavailable(
            f"The embedder {source!r} is not on this machine, and the hub cannot be reached.",
            f"Use one of {', '.join(OFFLINE)}, or fetch it where there is a network.",
        ) from None
    except (HfHubHTTPError, OSError) as why:
        first = str(why).strip().splitlines()[0][:200]
        raise BaseUnavailable(
            f"The embedder {source!r} cannot be fetched: {first.rstrip('.')}.", "Check its name and your access to it."
        ) from why


def _print_of(folder: Path) -> str:
    """Tells what a model computes from what others do: a digest of its weights and settings, by content."""
    digest = hashlib.sha256()
    for path in sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix in _COMPUTES):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(MIB):
                digest.update(piece)
    return digest.hexdigest()[:16]
