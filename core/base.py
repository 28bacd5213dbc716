"""Base models: the embedded one, a folder on this machine, or an id on the Hugging Face hub.

How it works: a source becomes a folder (a hub id by way of the hub's own cache, downloaded when it is not there), the
folder is checked by reading its `config.json` and the headers of its safetensors files, and only then handed to
transformers' `from_pretrained`. The checks cost milliseconds and need no torch, so `describe_base` gives a page the
facts about a base without loading it, and what cannot be used is said before gigabytes are fetched.

Two kinds of base are known: causal language models, which continue a text, and encoders of BERT's kind, which get a
classification head and tell labels apart. config.json says which (`is_encoder`). What is refused, each with its own
sentence: pickled weights (loading them runs code), code from a repository, weights that were quantized by anything but
bitsandbytes (`core.few_bits`), models of other kinds, incomplete or damaged files.

The environment variables of huggingface_hub hold: HF_HUB_OFFLINE, HF_ENDPOINT, HF_HOME, HF_TOKEN.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from core.config import EMBEDDED
from core.errors import BadInput, BaseUnavailable, DeltalabError, OutOfMemory
from core.fetch import Tell, fetch_weights, partial_bytes
from core.few_bits import CONSTANTS, STORED, Stored, stored_by
from core.outside import MEND, MOST_QUOTED, check_sizes, named, quoted
from core.units import DTYPE_BYTES, bytes_text, count_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Attributes of a loaded model: who it is (core.methods.saved reads it), and the tokenizer that came with it.
FINGERPRINT = "base_fingerprint"
REVISION = "base_revision"  # of the hub, as it was asked for; None: what the hub has now
TOKENIZER = "base_tokenizer"
# And of an encoder: the modules that its checkpoint lacks and a seed has drawn, that seed (None: it lacks nothing), and
# whether it was trained on pairs of texts.
FRESH = "fresh_modules"
NO_POOLER = "checkpoint_has_no_pooler"  # of a configuration
HEAD_SEED = "head_seed"
READS_PAIRS = "reads_pairs"
EMBEDDED_FOLDER = Path(__file__).parent / "assets" / "embedded"

# The encoders that are known, by transformers' model_type. RoBERTa's relatives count positions from behind the padding
# token's id, so that many fewer are there than config.json says.
ENCODERS = (
    "bert", "roberta", "distilbert", "deberta-v2", "modernbert", "electra", "albert", "xlm-roberta", "camembert",
)  # fmt: skip
_POSITIONS_BEHIND_PADDING = ("roberta", "xlm-roberta", "camembert")
CAUSAL, CLASSIFICATION = "causal_lm", "classification"

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Any one of these makes a tokenizer; tokenizer_config.json alone serves tokenizers without a vocabulary (bytes).
TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tiktoken.model", "tekken.json", "tokenizer_config.json",
)  # fmt: skip
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")

# How safetensors names the types; bytes per number.
_STORED = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2), "I64": ("int64", 8),
    "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1), "U8": ("uint8", 1), "BOOL": ("bool", 1),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1),
}  # fmt: skip
# Stored by some checkpoints although they are constants of the architecture, not parameters.
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.masked_bias|position_ids)$")
_CAUSAL_MASK = re.compile(r"\.attn(\.attention)?\.bias$")  # GPT-2's and GPT-Neo's triangle, shape (1, 1, n, n)

_CONVERT = (
    "Convert it once, in an environment you trust with it: AutoModelForCausalLM.from_pretrained(…)"
    ".save_pretrained(folder, safe_serialization=True), or look for a revision with model.safetensors."
)


@dataclass
class Base:
    """A loaded base model.

    model: in evaluation mode, on its device. tokenizer: its own. name: short, for people. source: as it was asked for.
    facts: see `describe_base`. notes: what a person should know about it before training, as sentences.
    labels: what an encoder's head tells apart, in the order of its outputs; () for a causal language model.
    files: name, size in bytes and time of change (ns) of every file that it was loaded from.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    files: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class Located:
    """Where a base lies on this machine.

    folder: holds config.json. kind: 'embedded', 'folder' or 'hub'. revision: the commit, for a hub id.
    remote_sizes: bytes of the weight files still on the hub only, by name (empty: they are here).
    """

    folder: Path
    name: str
    kind: str
    revision: str | None = None
    remote_sizes: Mapping[str, int] = field(default_factory=dict)


# --- from a source to a folder ----------------------------------------------------------------------------------------


def locate(
    source: str, revision: str | None = None, *, weights: bool = True, tell: Tell = lambda done, total: None
) -> Located:
    """The folder of a base, fetching it from the hub when it is not here.

    Args:
        source: 'embedded', a folder, or a hub id. An existing folder wins over a hub id of the same spelling.
        revision: branch, tag or commit of a hub id.
        weights: also fetch the weights; otherwise the small files only.
        tell: see `core.fetch.fetch_weights`.

    Raises:
        BaseUnavailable: not found, not reachable, not allowed, no room on the disk.
        BadInput: `source` is none of the three, or a revision was given for something that has none.
    """
    source = source.strip()
    if source == EMBEDDED:
        if not (EMBEDDED_FOLDER / "config.json").is_file():
            raise BaseUnavailable(
                "The embedded base is missing from this installation.",
                "Reinstall Deltalab, or train it again with python -m core.pretrain.",
            )
        return Located(EMBEDDED_FOLDER, EMBEDDED, EMBEDDED)
    folder = Path(source).expanduser()
    try:
        here = bool(source) and folder.exists()
    except OSError:  # a name too long for the file system
        here = False
    if here or not HUB_ID.fullmatch(source):
        if here and not folder.is_dir():
            raise BaseUnavailable(f"{source} is a file, not a folder.", "Name the folder that holds config.json.")
        if not here and not (source.startswith((".", "~")) or "/" in source or "\\" in source):
            raise BadInput(
                f"{source!r} is neither a folder nor a hub id.",
                "Name 'embedded', a folder with config.json, or a hub id such as owner/name.",
            )
        if not here:
            raise BaseUnavailable(f"There is no folder {source}.", "Check the path; a hub id looks like owner/name.")
        if revision is not None:
            raise BadInput("A folder has no revisions.", "Leave the revision out, or name a hub id.")
        return Located(folder, folder.resolve().name, "folder")
    if "--" in source or ".." in source or source.endswith((".git", "-", ".")) or len(source) > 96:
        raise BadInput(f"{source!r} is not a valid hub id.", "A hub id looks like owner/name.")
    return _from_hub(source, revision, weights, tell)


def _from_hub(repo: str, revision: str | None, weights: bool, tell: Tell) -> Located:
    """A hub repository as a folder of the hub's cache, with everything checked that can be before the download."""
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    with _quiet(), _hub_errors(repo, revision):
        try:
            info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        except (OfflineModeIsEnabled, HTTPError) as why:
            response = getattr(why, "response", None)
            if response is not None and response.status_code < 500:
                raise  # the hub answered, and its answer was no
            # No network, or switched off: what an earlier download left behind will do, if it is whole.
            wanted = ["*.json", "*.jinja", "tokenizer*", "*.model", "*.txt", *(["*.safetensors"] if weights else [])]
            try:
                folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=wanted))
            except LocalEntryNotFoundError:
                raise why from None
            return Located(folder, repo, "hub", folder.name)
    sizes = {s.rfilename: s.size or 0 for s in info.siblings or []}
    if "config.json" not in sizes:
        _refuse_without_config(set(sizes), repo)
    with _quiet(), _hub_errors(repo, revision, reached=True):
        # By branch, so that the cache remembers what the branch points to; all else by that commit.
        config = Path(hf_hub_download(repo, "config.json", revision=revision))
        commit = config.parent.name
        _check_config(_read_json(config), repo)
        names = _weight_names(set(sizes), repo)
        if names == [INDEX]:
            names = [INDEX, *_shards(_read_json(Path(hf_hub_download(repo, INDEX, revision=commit))), repo)]
        small = [n for n in sizes if "/" not in n and n.endswith((".json", ".jinja", ".model", ".txt")) and n != INDEX]
        if not weights:
            folder = Path(snapshot_download(repo, revision=commit, allow_patterns=small))
            here = all((folder / n).exists() for n in names)
            return Located(folder, repo, "hub", commit, {} if here else {n: sizes.get(n, 0) for n in names})
        missing = [n for n in names if not (config.parent / n).exists()]
        cache = Path(constants.HF_HUB_CACHE)
        if missing:
            _check_disk(repo, sum(sizes.get(n, 0) for n in missing) - partial_bytes(repo, cache), cache)
            # The small ones first: with them the cache knows what a whole snapshot has.
            snapshot_download(repo, revision=commit, allow_patterns=small)
            fetch_weights(repo, commit, {n: sizes.get(n, 0) for n in missing}, cache, tell)
        folder = Path(snapshot_download(repo, revision=commit, allow_patterns=[*small, *names]))
        return Located(folder, repo, "hub", commit)


def _check_disk(repo: str, needed_bytes: int, cache: Path) -> None:
    place = cache
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed_bytes > free:
        raise BaseUnavailable(
            f"{repo} needs {bytes_text(needed_bytes)} on the disk, and {bytes_text(free)} are free.",
            f"Make room below {cache}, or set HF_HOME to another disk.",
        )


@contextmanager
def _hub_errors(repo: str, revision: str | None, *, reached: bool = False) -> Iterator[None]:
    """Say what the hub library raises in one sentence each. reached: the hub has answered before."""
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except DeltalabError:
        raise
    except (EntryNotFoundError, HFValidationError, HTTPError, OfflineModeIsEnabled, OSError) as why:
        raise _explained(why, repo, revision, reached) from why


def _explained(why: BaseException, repo: str, revision: str | None, reached: bool) -> DeltalabError:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        DisabledRepoError,
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(why, GatedRepoError):
        return BaseUnavailable(
            f"{repo} is gated: its owner asks for an agreement before anyone may download it.",
            f"Accept the terms at {page}, then log in with `hf auth login` or set HF_TOKEN.",
        )
    if isinstance(why, RepositoryNotFoundError):
        return BaseUnavailable(
            f"The hub knows no model {repo}, or it is private.",
            "Check the spelling; for a private model log in with `hf auth login` or set HF_TOKEN.",
        )
    if isinstance(why, RevisionNotFoundError):
        return BaseUnavailable(
            f"{repo} has no revision {revision!r}.", f"Its branches and tags stand at {page}/tree/main."
        )
    if isinstance(why, DisabledRepoError):
        return BaseUnavailable(f"{repo} has been disabled on the hub.", "Choose another base.")
    if isinstance(why, HFValidationError):
        return BadInput(f"{repo!r} is not a valid hub id.", "A hub id looks like owner/name.")
    if isinstance(why, HfHubHTTPError) and not isinstance(why, EntryNotFoundError):
        code = why.response.status_code
        said = {
            401: "the hub asks for a login",
            403: "this login is not allowed to",
            429: "the hub asks to wait (too many requests)",
        }.get(code, "the hub has a fault of its own" if code >= 500 else "the hub refused")
        return BaseUnavailable(
            f"{repo} could not be fetched: {said} (HTTP {code}).",
            "Log in with `hf auth login`." if code in (401, 403) else "Try again later, or use a local folder.",
        )
    if isinstance(why, (OfflineModeIsEnabled, EntryNotFoundError)):
        if constants.HF_HUB_OFFLINE:
            return BaseUnavailable(
                f"{repo} is not in the local cache, and HF_HUB_OFFLINE forbids fetching it{_size_text(repo)}.",
                f"Unset HF_HUB_OFFLINE, {_ELSEWHERE.format(repo=repo)}",
            )
        if isinstance(why.__cause__, (HTTPError, OSError)):  # the hub's client wraps what really happened
            return _explained(why.__cause__, repo, revision, reached)
        return BaseUnavailable(
            f"A file of {repo} could not be fetched: {_first_line(why)}.", "Try again, or choose another base."
        )
    if isinstance(why, HTTPError):
        if reached:
            return BaseUnavailable(
                f"The connection to {constants.ENDPOINT} broke off while {repo} was fetched.",
                "Start again: what has arrived is kept.",
            )
        return BaseUnavailable(
            f"{repo} is not in the local cache, and the hub at {constants.ENDPOINT} cannot be "
            f"reached{_size_text(repo)}.",
            f"Check the network, {_ELSEWHERE.format(repo=repo)}",
        )
    number = getattr(why, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return BaseUnavailable(
            f"The disk became full while {repo} was fetched.",
            f"Make room below {constants.HF_HUB_CACHE}, or set HF_HOME to another disk.",
        )
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return BaseUnavailable(
            f"{repo} could not be stored: {constants.HF_HUB_CACHE} is not writable.",
            "Set HF_HOME to a folder that is.",
        )
    return BaseUnavailable(f"{repo} could not be fetched: {_first_line(why)}.", "Try again.")


_ELSEWHERE = (
    "or fetch it where there is one (hf download {repo} --local-dir FOLDER) and name that folder here, or choose the "
    "embedded base: it needs none."
)


def _size_text(repo: str) -> str:
    """What fetching a model of the catalogue would take, to be added to a sentence; '' for others."""
    from core.catalog import known

    row = known(repo)
    if row is None:
        return ""
    return f" (about {bytes_text(row.parameters * DTYPE_BYTES['bfloat16'])} in 16 bits)"


def is_cached(repo: str) -> bool:
    """Whether a hub id's weights lie in the hub's cache, whole as far as its listing there says. Asks no network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(repo, WEIGHTS), str):
            return True
        index = try_to_load_from_cache(repo, INDEX)
        if not isinstance(index, str):
            return False
        return all((Path(index).parent / name).exists() for name in _shards(_read_json(Path(index)), repo))
    except (HFValidationError, BaseUnavailable, OSError):
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and reports of the libraries; their settings are restored."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_was_off, hub_level = are_progress_bars_disabled(), hub_logging.get_verbosity()
    was_active, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    disable_progress_bars()
    hub_logging.set_verbosity(hub_logging.CRITICAL)
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if was_active:
            logging.enable_progress_bar()
        if not hub_was_off:
            enable_progress_bars()


# --- checks of a folder, without torch --------------------------------------------------------------------------------


def _first_line(why: BaseException) -> str:
    lines = [line.strip() for line in str(why).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:300] if lines else type(why).__name__


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BaseUnavailable: unreadable, not JSON, not an object, or a Git LFS pointer in its place.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as why:
        raise BaseUnavailable(f"{path.name} cannot be read: {_first_line(why)}.", "Fetch the model again.") from why
    except json.JSONDecodeError as why:
        raise BaseUnavailable(
            f"{path.name} is not valid JSON (line {why.lineno}: {why.msg}).", "Fetch the model again."
        ) from why
    except (RecursionError, ValueError) as why:  # nested without end, or a number of thousands of digits
        raise BaseUnavailable(
            f"{path.name} is not valid JSON (nested too deeply, or a number without end).", "Fetch the model again."
        ) from why
    if not isinstance(content, dict):
        raise BaseUnavailable(f"{path.name} does not hold a JSON object.", "Fetch the model again.")
    return content


def _refuse_without_config(names: set[str], where: str) -> None:
    if "adapter_config.json" in names:
        raise BaseUnavailable(
            f"{where} holds an adapter, not a base model.",
            "Name the base it was trained on (base_model_name_or_path in its adapter_config.json).",
        )
    if any(n.endswith(".gguf") for n in names):
        raise BaseUnavailable(
            f"{where} holds GGUF files, which are made for inference.", "Name the model they were converted from."
        )
    raise BaseUnavailable(
        f"{where} has no config.json, so it is no model that transformers can load.",
        "Name the folder or repository that save_pretrained wrote.",
    )


def _check_config(config: dict[str, Any], where: str) -> None:
    """What can be told from config.json alone.

    Raises:
        BaseUnavailable: neither a causal language model nor a known encoder, needs code of its own, or is quantized
            in a way that cannot be a base; or its sizes cannot be.
    """
    try:
        check_sizes(config, where)
    except BadInput as why:
        raise BaseUnavailable(why.sentence, why.advice) from None
    if "model_type" not in config and "auto_map" not in config:
        raise BaseUnavailable(
            f"The config.json of {where} names no model_type, so nobody knows its architecture.",
            "Choose a base saved by transformers.",
        )
    stored = stored_by(config, where)
    if is_encoder(config):
        if stored is not None:
            raise BaseUnavailable(
                f"{where} is an encoder whose weights are stored in {stored.title}; of encoders Deltalab takes plain "
                "ones only.",
                "Name the unquantized checkpoint of the same model: qlora stores it in 4 bits itself.",
            )
        return
    names = config.get("architectures") or []
    other = [n for n in names if not _continues_text(n)]
    if config.get("is_encoder_decoder") or (names and len(other) == len(names)):
        raise _neither(where, names[0] if names else config.get("model_type"))


def _neither(where: str, kind: Any) -> BaseUnavailable:
    return BaseUnavailable(
        f"{where} is not a causal language model but a {str(kind)[:MOST_QUOTED]}: it does not continue a text.",
        "Choose a model whose architecture ends in ForCausalLM or LMHeadModel, or, to tell labels apart, an encoder "
        f"({', '.join(ENCODERS)}).",
    )


def is_encoder(config: Any) -> bool:
    """Whether a configuration is that of an encoder, which gets a classification head.

    Args:
        config: the content of a config.json, or a transformers configuration.
    """
    raw = config if isinstance(config, Mapping) else vars(config) | {"model_type": config.model_type}
    names = raw.get("architectures") or []
    return (
        raw.get("model_type") in ENCODERS
        and not raw.get("is_decoder")
        and not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    )


def kind_of_base(source: str, revision: str | None = None) -> str:
    """CLASSIFICATION for an encoder, CAUSAL for everything else, by the config.json that is on this machine.

    What is not here yet (a hub id that nobody has looked at) counts as causal; `describe_base` fetches the file.
    """
    return CLASSIFICATION if is_encoder(_config_here(source, revision)) else CAUSAL


def stored_base(source: str, revision: str | None = None) -> Stored | None:
    """In which few bits a base is stored already, by the config.json that is on this machine; None for everything else,
    as `kind_of_base`."""
    try:
        return stored_by(_config_here(source, revision), source)
    except BaseUnavailable:  # whoever loads it says what is wrong
        return None


def _config_here(source: str, revision: str | None) -> dict[str, Any]:
    """The config.json of a base as far as it is on this machine; {} for the embedded base and what is not here."""
    source = source.strip()
    if source in ("", EMBEDDED):
        return {}
    path = Path(source).expanduser() / "config.json"
    try:
        if not path.is_file() and HUB_ID.fullmatch(source):
            from huggingface_hub import try_to_load_from_cache
            from huggingface_hub.errors import HFValidationError

            try:
                found = try_to_load_from_cache(source, "config.json", revision=revision)
            except HFValidationError:
                return {}
            path = Path(found) if isinstance(found, str) else path
        return _read_json(path)
    except (BaseUnavailable, OSError):  # whoever loads it says what is wrong
        return {}


def _continues_text(architecture: str) -> bool:
    """Whether a class name is that of a causal language model (some multimodal ones hold one)."""
    return architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))


def _weight_names(names: set[str], where: str) -> list[str]:
    """[WEIGHTS] or [INDEX], whichever the listing has.

    Raises:
        BaseUnavailable: there are no safetensors files.
    """
    if WEIGHTS in names:
        return [WEIGHTS]
    if INDEX in names:
        return [INDEX]
    pickles = sorted(n for n in names if n.endswith(PICKLES))
    if pickles:
        raise BaseUnavailable(
            f"{where} has pickled weights only ({pickles[0]}); loading a pickle runs code hidden in it.", _CONVERT
        )
    if any(n.endswith(".gguf") for n in names):
        raise BaseUnavailable(
            f"{where} holds GGUF files, which are made for inference.", "Name the model they were converted from."
        )
    if any(n.startswith(("tf_model", "flax_model")) for n in names):
        raise BaseUnavailable(f"{where} has TensorFlow or Flax weights only.", _CONVERT)
    raise BaseUnavailable(
        f"{where} has no weights: neither {WEIGHTS} nor {INDEX}.", "Complete the download, or save the model again."
    )


def _shards(index: dict[str, Any], where: str) -> list[str]:
    """The weight files that an index names.

    Raises:
        BaseUnavailable: it names none, or paths outside the folder.
    """
    weight_map = index.get("weight_map")
    names = sorted({str(n) for n in weight_map.values()}) if isinstance(weight_map, dict) else []
    if not names or any("/" in n or "\\" in n or not n.endswith(".safetensors") for n in names):
        raise BaseUnavailable(f"The {INDEX} of {where} names no usable weight files.", "Fetch the model again.")
    return names


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor in a safetensors file, from its header; the file's length is checked against it.

    Format: 8 bytes little-endian header length, that much JSON, then the tensors
    (https://huggingface.co/docs/safetensors/index#format).

    Raises:
        BaseUnavailable: truncated, damaged, or a Git LFS pointer instead of the file.
    """
    again = "Fetch it again."
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(b"version"):
            raise BaseUnavailable(
                f"{path.name} is a Git LFS pointer, not the weights.", "Run `git lfs pull` in the folder."
            )
        if len(head) < 8:
            raise BaseUnavailable(f"{path.name} is truncated: it has {size} bytes.", again)
        (length,) = struct.unpack("<Q", head)
        if length > 100_000_000:  # the format's own limit
            raise BaseUnavailable(f"{path.name} is damaged: it does not begin as a safetensors file does.", again)
        text = file.read(length)
    if len(text) < length:
        raise BaseUnavailable(f"{path.name} is truncated: {bytes_text(size)} do not even hold its header.", again)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        out = {n: (str(e["dtype"]), tuple(int(d) for d in e["shape"])) for n, e in entries.items()}
        end = 8 + length + max((int(e["data_offsets"][1]) for e in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as why:
        raise BaseUnavailable(f"{path.name} is damaged: its header is not readable.", again) from why
    if size < end:
        raise BaseUnavailable(
            f"{path.name} is truncated: it has {bytes_text(size)} of {bytes_text(end)} "
            f"({end - size} bytes are missing).",
            again,
        )
    return out


@dataclass(frozen=True)
class _Folder:
    """A base's folder after its checks: config, and every stored tensor's type and shape."""

    config: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    fingerprint: str


def _check_folder(folder: Path, where: str) -> _Folder:
    names = {p.name for p in folder.iterdir() if p.is_file()}
    if "config.json" not in names:
        _refuse_without_config(names, where)
    config = _read_json(folder / "config.json")
    _check_config(config, where)
    files = _weight_names(names, where)
    if files == [INDEX]:
        files = _shards(_read_json(folder / INDEX), where)
        missing = [n for n in files if n not in names]
        if missing:
            raise BaseUnavailable(
                f"{where} lacks {len(missing)} of {len(files)} weight files ({missing[0]}).", "Complete the download."
            )
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in files:
        tensors |= _header(folder / name)
    _check_tokenizer_files(names, where)
    return _Folder(config, tensors, _fingerprint([folder / name for name in files]))


def _fingerprint(files: Sequence[Path]) -> str:
    """Tells these weights from others: a hash of the files' sizes, their headers' beginnings, and samples of their
    content. Training moves every weight, so a sample shows it, and 70 billion parameters take no longer than four
    million."""
    seen = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        seen.update(f"{size};".encode())
        with path.open("rb") as file:
            for part in range(64):
                file.seek(part * size // 64)
                seen.update(file.read(4096))
    return seen.hexdigest()[:16]


def _check_tokenizer_files(names: set[str], where: str) -> None:
    if not names & set(TOKENIZERS):
        raise BaseUnavailable(
            f"{where} has no tokenizer (no tokenizer.json).",
            "Save one beside the weights: AutoTokenizer.from_pretrained(…).save_pretrained(folder).",
        )


def _facts(
    located: Located, source: str, config: dict[str, Any], tensors: Mapping[str, Any], fingerprint: str | None = None
) -> dict[str, Any]:
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(text, dict)

    def first(*keys: str) -> Any:
        return next((text[k] for k in keys if text.get(k) is not None), None)

    tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
    counted = {
        name: (dtype, shape)
        for name, (dtype, shape) in tensors.items()
        if not _BUFFERS.search(name)
        and not (_CAUSAL_MASK.search(name) and len(shape) == 4)
        and not (tied and name == "lm_head.weight" and any("embed" in n or "wte" in n for n in tensors))
    }
    stored = stored_by(config, located.name)
    size = sum(math.prod(shape) * _STORED.get(dtype, ("", 0))[1] for dtype, shape in counted.values())
    few, few_bytes = _in_few_bits(counted) if stored is not None else ({}, 0)
    by_type: dict[str, int] = {}
    for name, (dtype, shape) in counted.items():
        if stored is None or not name.endswith(CONSTANTS):
            kind, each = (stored.quant_type, few[name]) if stored and name in few else (dtype, math.prod(shape))
            by_type[kind] = by_type.get(kind, 0) + each
    main = max(by_type, key=lambda t: by_type[t], default="")
    return {
        "name": located.name,
        "source": source,
        "kind": located.kind,
        "revision": located.revision,
        "model_type": config.get("model_type"),
        "architecture": (config.get("architectures") or [None])[0],
        "parameters": sum(by_type.values()),
        "stored_dtype": _STORED.get(main, (main.lower(), 0))[0] or None,
        "stored_bytes": size,
        "layers": first("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        "width": first("hidden_size", "n_embd", "d_model", "dim"),
        "heads": first("num_attention_heads", "n_head", "num_heads", "n_heads"),
        "vocabulary": first("vocab_size"),
        "context": _positions(text, "max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"),
        "tied_embeddings": tied,
        "biases": any(name.endswith(".bias") and len(shape) == 1 for name, (_, shape) in counted.items()),
        "fingerprint": fingerprint,
        "task": CLASSIFICATION if is_encoder(config) else CAUSAL,
        "few_bits": None if stored is None else {**stored.settings, "title": stored.title,
                                                 "parameters": sum(few.values()), "bytes": few_bytes},
    }  # fmt: skip


def _in_few_bits(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[dict[str, int], int]:
    """Of a checkpoint that bitsandbytes stored: how many numbers each weight in few bits has, by name, and the bytes of
    all of them with their scales."""
    numbers, total = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * _STORED.get(dtype, ("", 0))[1]
        path = name.removesuffix(".weight")
        if path != name and f"{name}.absmax" in tensors:
            numbers[name] = 2 * size  # two to a byte
        elif path != name and f"{path}.SCB" in tensors:
            numbers[name] = size
        elif not name.endswith(CONSTANTS):
            continue
        total += size
    return numbers, total


def _positions(config: Mapping[str, Any], *keys: str) -> Any:
    """How many tokens a model reads: the first of `keys` that its config has, less the positions that no token gets."""
    stored = next((config[k] for k in keys if config.get(k) is not None), None)
    if stored is not None and config.get("model_type") in _POSITIONS_BEHIND_PADDING:
        return int(stored) - int(config.get("pad_token_id", 1)) - 1
    return stored


def describe_base(source: str, revision: str | None = None) -> dict[str, Any]:
    """The facts about a base, from its config.json and the headers of its weights; loads no weights and no torch.

    Returns:
        name, source, kind ('embedded', 'folder', 'hub'), revision (commit, for a hub id), model_type, architecture,
        parameters, stored_dtype, stored_bytes, layers, width, heads, vocabulary, context (tokens), tied_embeddings,
        biases (whether BitFit finds any), fingerprint (tells these weights from others; None while they are on the hub
        only), task (CAUSAL or CLASSIFICATION), few_bits (None: plain numbers; or how they are stored: quant_type,
        double_quantization, title, parameters so stored, bytes of these). What the files do not say is None.

    Raises:
        BaseUnavailable, BadInput: as `load_base`, as far as it can be seen without loading.
    """
    located = locate(source, revision, weights=False)
    if not located.remote_sizes:
        checked = _check_folder(located.folder, located.name)
        return _facts(located, source, checked.config, checked.tensors, checked.fingerprint)
    from huggingface_hub import HfApi

    config = _read_json(located.folder / "config.json")
    with _quiet(), _hub_errors(source, revision, reached=True):
        stored = HfApi().get_safetensors_metadata(source, revision=located.revision)
    tensors = {
        name: (str(info.dtype), tuple(info.shape))
        for part in stored.files_metadata.values()
        for name, info in part.tensors.items()
    }
    return _facts(located, source, config, tensors)


# --- loading ----------------------------------------------------------------------------------------------------------


def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a base, without its weights; needs no torch for a base that has a tokenizer.json.

    Raises:
        BaseUnavailable, BadInput: as `locate`; no tokenizer; a tokenizer that needs code or libraries of its own.
    """
    located = locate(source, revision, weights=False)
    names = {p.name for p in located.folder.iterdir()}
    if "config.json" not in names:
        _refuse_without_config(names, located.name)
    _check_tokenizer_files(names, located.name)
    return _tokenizer(located)


def _tokenizer(located: Located) -> PreTrainedTokenizerBase:
    """From a folder. A tokenizer.json is the whole tokenizer as its author saved it, whatever class is named beside
    it, and loads without torch; other files need the class that transformers knows for the model."""
    folder = located.folder
    with _quiet():
        try:
            if (folder / "tokenizer.json").is_file():
                from transformers import PreTrainedTokenizerFast

                tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
            else:
                from transformers import AutoTokenizer

                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as why:  # the Rust library raises bare Exception for a file it cannot parse
            text = str(why)
            if "trust_remote_code" in text:
                raise BaseUnavailable(
                    f"The tokenizer of {located.name} needs Python code of its own, which Deltalab never runs.",
                    "Choose a base whose tokenizer is a tokenizer.json.",
                ) from why
            raise BaseUnavailable(
                f"The tokenizer of {located.name} cannot be loaded: {_first_line(why)}.",
                "Save a tokenizer.json beside the weights, or fetch the model again.",
            ) from why
    if tokenizer.eos_token is None:
        ends = _read_json(folder / "config.json").get("eos_token_id")
        end = ends[0] if isinstance(ends, list) and ends else ends
        if isinstance(end, int) and 0 <= end < len(tokenizer):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    return tokenizer


def load_base(
    source: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    labels: Sequence[str] = (),
    head_seed: int = 0,
) -> Base:
    """Load a base model and its tokenizer.

    Args:
        source: 'embedded', a folder, or a hub id.
        revision: branch, tag or commit of a hub id.
        dtype: number format of the weights: 'float32', 'bfloat16' or 'float16'. Of a checkpoint in few bits, that of
            the rest; its layers become those of core.layers, with their codes and scales as they are.
        device: as torch names it.
        labels: what an encoder is to tell apart; () for those of its own head. Of no effect on other models.
        head_seed: draws the classification head of an encoder whose checkpoint has none for as many labels.

    Returns:
        Base: with the model in evaluation mode.

    Raises:
        BaseUnavailable: cannot be found, fetched, or loaded safely (each cause has its sentence); or an encoder that
            has no head, without labels.
        BadInput: `source`, `revision` or `dtype` make no sense.
        OutOfMemory: the weights are larger than the free memory.
    """
    if dtype not in ("float32", "bfloat16", "float16"):
        raise BadInput(f"{dtype!r} is no number format for weights.", "Use float32, bfloat16 or float16.")
    located = locate(source, revision)
    checked = _check_folder(located.folder, located.name)
    facts = _facts(located, source, checked.config, checked.tensors, checked.fingerprint)
    files = _files(located.folder)
    _check_memory(facts, dtype, device)
    encoder = is_encoder(checked.config)
    notes: tuple[str, ...] = ()
    if encoder:
        model, notes = _load_classifier(located, checked, dtype, labels, head_seed)
    else:
        model = _load_model(located, checked, dtype, device)
    tokenizer = _tokenizer(located)
    rows = int(cast(Any, model.get_input_embeddings()).weight.shape[0])
    if len(tokenizer) > rows:
        raise BaseUnavailable(
            f"The tokenizer of {located.name} has {len(tokenizer)} tokens, the model only {rows}: they do not belong "
            "together.",
            "Use the tokenizer that was saved with these weights.",
        )
    _check_layers(model, located.name)
    facts |= {"dtype": dtype}
    if encoder:
        facts |= {"labels": list(labels_of(model))}
    else:
        from core.template import template_of

        template = template_of(tokenizer)
        notes = () if template.own else (template.sentence,)
        facts |= {"template": "own" if template.own else "plain"}
    setattr(model, FINGERPRINT, checked.fingerprint)
    setattr(model, TOKENIZER, tokenizer)
    # What is learnt names its base by this, and transformers says where it found the files: of a hub id a folder of the
    # cache, named after the commit.
    model.config._name_or_path = located.name
    setattr(model, REVISION, revision)
    model.to(cast(Any, device)).eval()
    return Base(model, tokenizer, located.name, source, facts, notes, labels_of(model) if encoder else (), files)


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of every file of a base."""
    found = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return tuple((name, seen.st_size, seen.st_mtime_ns) for name, seen in found)


def load_config(source: str, revision: str | None = None) -> Any:
    """The transformers configuration of a base, without its weights (a folder with a config.json alone will do).

    Raises:
        BaseUnavailable, BadInput: as `load_base`, as far as it can be seen in the config.
    """
    located = locate(source, revision, weights=False)
    names = {p.name for p in located.folder.iterdir()}
    if "config.json" not in names:
        _refuse_without_config(names, located.name)
    raw = _read_json(located.folder / "config.json")
    _check_config(raw, located.name)
    config = _described(located, raw)
    if is_encoder(raw) and _lacks_pooler(located.folder):
        setattr(config, NO_POOLER, True)
    return config


def _lacks_pooler(folder: Path) -> bool:
    """Whether the weights of an encoder are here and hold no pooler (a masked language model's hold none): then a run
    draws one and trains it whole, as part of the head."""
    from safetensors import safe_open

    names: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            names |= set(file.keys())
    return bool(names) and not any("pooler" in name for name in names)


def context_tokens(model: PreTrainedModel) -> int | None:
    """How many tokens the model can read and write in all; None when its config does not say.

    Trained tokens before the text (core.layers.prompts) take their share of it.
    """
    config = model.config.get_text_config()
    # (Some families have it under another name, and answer to this one all the same.)
    known = {"model_type": config.model_type, "pad_token_id": getattr(config, "pad_token_id", 1)}
    found = _positions(known | {"max": getattr(config, "max_position_embeddings", None)}, "max")
    taken = sum(cast(Any, module).tokens for module in model.children() if getattr(module, "IS_PROMPT", False))
    return int(found) - taken if found else None


def _check_memory(facts: Mapping[str, Any], dtype: str, device: str) -> None:
    import torch

    few = facts["few_bits"] or {"parameters": 0, "bytes": 0}
    needed = (facts["parameters"] - few["parameters"]) * DTYPE_BYTES[dtype] + few["bytes"]
    if device.startswith("cuda"):
        free, where = torch.cuda.mem_get_info(torch.device(device))[0], "on the GPU"
    else:
        from core.hardware import free_memory_bytes

        free, where = free_memory_bytes(), "in memory"
    form = facts["few_bits"]["title"] if facts["few_bits"] else dtype
    if free and needed > free:
        raise OutOfMemory(
            f"{facts['name']} has {count_text(facts['parameters'])} parameters: {bytes_text(needed)} in {form}, "
            f"and {bytes_text(free)} are free {where}.",
            "Choose a smaller base, or close what else uses the memory.",
        )


def check_described(values: Mapping[str, Any], name: str) -> Any:
    """The transformers configuration of plain values, as `load_config` gives it for a folder.

    Raises:
        BaseUnavailable, BadInput: as `load_config`.
    """
    from tempfile import TemporaryDirectory

    _check_config(dict(values), name)
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(values), encoding="utf-8")
        return _described(Located(Path(folder), name, "folder"), dict(values))


# What a configuration must say: without it transformers fills in the size of some other model of the family.
# With the names that older files have for it.
NEEDED = {
    "vocab_size": ("n_vocab",), "hidden_size": ("n_embed", "n_embd", "d_model", "dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
}  # fmt: skip
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # as families call the number of them


def _described(located: Located, raw: dict[str, Any]) -> Any:
    """The configuration that a calculator reads, from a folder or a text alike.

    Raises:
        BaseUnavailable: as `_config`; BadInput: it leaves out a size, or two of its values contradict each other.
    """
    config = _config(located, raw)
    config._name_or_path = located.name
    _without_storage(config, stored_by(raw, located.name))
    missing = _left_out(config, raw)
    if missing:
        raise BadInput(
            f"{located.name} does not say {' and '.join(missing)}: it is not complete.",
            "Paste the whole content of config.json.",
        )
    text = config.get_text_config()
    experts = [(name, n) for name in EXPERTS if isinstance(n := getattr(text, name, None), int)]
    used = getattr(text, "num_experts_per_tok", None)
    if experts and isinstance(used, int) and used > experts[0][1]:
        name, there = experts[0]
        raise BadInput(
            f"num_experts_per_tok of {located.name} is {used}, and {name} is {there}: a token is given to some of the "
            "experts that are there.",
            MEND,
        )
    return config


def _left_out(config: Any, raw: Mapping[str, Any]) -> list[str]:
    """The sizes that a configuration leaves to the family's defaults. Said is a size under its own name, under one that
    the family's class reads instead (its attribute_map), or under an older one. The part of a multimodal model is not
    asked: transformers itself leaves out of it what is the default."""
    if config.get_text_config() is not config:
        return []
    try:
        usual = type(config)()
    except Exception:  # a class without defaults: it has asked for what it needs
        return []
    return [
        name
        for name, older in NEEDED.items()
        if name not in raw
        and config.attribute_map.get(name) not in raw
        and not any(other in raw for other in older)
        and hasattr(usual, name)
        and getattr(config, name, None) == getattr(usual, name)
    ]


# What torch and transformers say of a value, and the field that it is about.
_FIELDS = (
    ("padding_idx", "pad_token_id"), ("embed_dim must be divisible", "num_attention_heads"),
    ("rope_type", "rope_scaling"), ("rope_parameters", "rope_scaling"),
)  # fmt: skip


PASTED = "The pasted configuration"  # what a text without a name is called


def no_model(name: str, kind: Any, why: BaseException, values: Mapping[str, Any]) -> BaseUnavailable:
    """What transformers raised while it made a configuration, or a model of one, as a sentence with the field it is
    about, as far as that can be known: one that it names, or the one whose value it stumbled over.

    Args:
        name: of the model. kind: its model_type. why: what was raised. values: what the configuration says.
    """
    said = " ".join(str(why.args[0] if isinstance(why, KeyError) and why.args else why).split()).rstrip(".")
    plain = list(named(values))
    if isinstance(why, KeyError):
        field = next((p for p, v in plain if v == said or (isinstance(v, str) and len(v) > 2 and v in said)), None)
        reason = f"{quoted(said)} is not known to transformers" if field else f"it lacks {quoted(said)}"
    else:
        strict = re.match(r"(?:Validation error for field|Class validation error for validator) '(\w+)':\s*(.*)", said)
        if isinstance(why, ZeroDivisionError):
            said = next(
                (f"{p} is 0" for p, v in plain if v == 0 and p.endswith(("heads", "head", "size", "dim"))), said
            )
        mapped = next((field for part, field in _FIELDS if part in said.lower()), None)
        told = next((p for p, _ in plain if re.search(rf"\b{re.escape(p.rpartition('.')[2])}\b", said)), None)
        field = strict[1] if strict and strict[1] in {p.rpartition(".")[2] for p, _ in plain} else told or mapped
        reason = (strict[2] if strict and strict[2] else said) or type(why).__name__
    about = f"{field}: " if field and field not in reason else ""
    reason = reason if len(reason) <= 200 else f"{reason[:199]}…"
    subject = name if name == PASTED or name.endswith(".json") else f"The config.json of {name}"
    return BaseUnavailable(f"{subject} does not describe a {kind} model: {about}{reason}.", MEND)


def _without_storage(config: Any, stored: Stored | None) -> None:
    """Make a configuration describe the plain model, and note beside it in which bits its checkpoint is stored: what is
    built from it or saved with it has weights of its own."""
    if stored is None:
        return
    for part in (config, config.get_text_config()):
        for name in ("quantization_config", "_is_quantized"):
            if name in vars(part):
                delattr(part, name)
    setattr(config, STORED, stored)


def _config(located: Located, raw: dict[str, Any]) -> Any:
    """The transformers configuration of a causal language model or an encoder.

    Raises:
        BaseUnavailable: unknown to this transformers, in need of code of its own, or neither of the two.
    """
    import transformers
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    name, kind = located.name, raw.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        if "auto_map" in raw:
            raise BaseUnavailable(
                f"{name} needs Python code from its repository, which Deltalab never runs.",
                "Choose a base whose architecture is part of transformers.",
            )
        raise BaseUnavailable(
            f"transformers {transformers.__version__} does not know the architecture {quoted(kind)} of {name}.",
            "Update transformers, or choose another base.",
        )
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(located.folder, local_files_only=True, trust_remote_code=False)
        except Exception as why:  # validation errors of many kinds, one per architecture
            raise no_model(name, kind, why, raw) from why
    if is_encoder(raw):
        return config
    named = raw.get("architectures") or []
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False) and not named
    if (
        type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
        or masked
        or (named and not set(named) & set(_flat(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())))
    ):
        raise _neither(name, named[0] if named else kind)
    return config


def _load_model(located: Located, checked: _Folder, dtype: str, device: str) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    stored = stored_by(checked.config, located.name)
    # (transformers would take a quantized one to a GPU if there is any.)
    more: dict[str, Any] = {} if stored is None else {"device_map": {"": device}}
    if stored is not None:
        _check_bitsandbytes(located.name, stored)
    model, info = _from_pretrained(AutoModelForCausalLM, located, _config(located, checked.config), dtype, **more)
    lost = sorted(info["missing_keys"]) + [str(m[0]) for m in info["mismatched_keys"]]
    if lost:
        raise _lost(located.name, lost)
    if stored is not None:
        _take_over(model, stored, dtype, located.name)
    return model


def _check_bitsandbytes(name: str, stored: Stored) -> None:
    try:
        import core.layers.quiet_bitsandbytes  # noqa: F401
    except ImportError as why:
        raise BaseUnavailable(
            f"The weights of {name} are stored in {stored.title} by bitsandbytes, which cannot be loaded here ({why}).",
            "Install bitsandbytes, or name the unquantized checkpoint of the same model.",
        ) from why


def _take_over(model: Any, stored: Stored, dtype: str, name: str) -> None:
    """Make the layers of a quantized checkpoint the project's own, and the model one that nobody takes for quantized by
    transformers: it may be moved, and saved once it is merged."""
    import torch

    from core.layers.adopted import adopt, form_of

    paths = adopt(model, getattr(torch, dtype))
    form = (stored.quant_type, stored.double_quantization)
    other = next((path for path in paths if form_of(model.get_submodule(path)) != form), None)
    if other is not None or not paths:
        raise BaseUnavailable(
            f"The config.json of {name} says that its weights are stored in {stored.title}, and "
            + (f"those of {other} are not." if other else "none are."),
            "Use the config.json that was saved with these weights.",
        )
    # What is not in few bits has the number format that was asked for: transformers (5.23) leaves every tensor called
    # weight of such a checkpoint in the format it has in the file.
    strict = tuple(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    for parameter_name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not any(part in parameter_name.split(".") for part in strict):
            parameter.data = parameter.data.to(getattr(torch, dtype))
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        if attribute in vars(model):
            delattr(model, attribute)
    # How the file was read, kept to be undone when the model is saved: the codes were no conversion.
    told = getattr(model, "_weight_conversions", None) or []
    model._weight_conversions = [
        one for one in told if not any(hasattr(op, "hf_quantizer") for op in getattr(one, "operations", ()))
    ]
    _without_storage(model.config, stored)
    delattr(model.config, STORED)  # (of the model itself, since a configuration is written when it is saved)
    setattr(model, STORED, stored)


def _lost(name: str, lost: Sequence[str]) -> BaseUnavailable:
    return BaseUnavailable(
        f"The weights of {name} do not fit its config.json: {len(lost)} parameters are missing or have another "
        f"shape ({lost[0]}).",
        "Use the config.json that was saved with these weights.",
    )


def _from_pretrained(
    maker: Any, located: Located, config: Any, dtype: str, **more: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and what its checkpoint lacked.

    Raises:
        BaseUnavailable: the weights cannot be loaded.
    """
    import torch

    with _quiet():
        try:
            # Declared without output_loading_info's second result.
            loaded: Any = maker.from_pretrained(
                located.folder, config=config, dtype=getattr(torch, dtype), use_safetensors=True,
                trust_remote_code=False, local_files_only=True, output_loading_info=True, **more,
            )  # fmt: skip
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as why:  # shapes, types, missing libraries: whatever an architecture can stumble over
            raise BaseUnavailable(
                f"The weights of {located.name} cannot be loaded: {_first_line(why)}.",
                "Check that config.json and weights belong together, or fetch the model again.",
            ) from why
    model, info = loaded
    return cast("PreTrainedModel", model), info


def _load_classifier(
    located: Located, checked: _Folder, dtype: str, labels: Sequence[str], head_seed: int
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """An encoder with its classification head, and what there is to say about that head.

    What the checkpoint lacks of it is drawn by the seed, as transformers draws it for this architecture: the head, and
    the pooler where the checkpoint was saved from a masked language model, which has none.

    Raises:
        BaseUnavailable: the weights do not fit; or there are neither labels nor a head of its own.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    name = located.name
    config = _config(located, checked.config)
    own = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    ordered = in_order(labels, own)
    config.problem_type = "single_label_classification"
    if ordered:
        config.id2label = dict(enumerate(ordered))
        config.label2id = {label: i for i, label in enumerate(ordered)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(head_seed)
        model, info = _from_pretrained(
            AutoModelForSequenceClassification, located, config, dtype, ignore_mismatched_sizes=True
        )
    missing, other = sorted(info["missing_keys"]), [str(m[0]) for m in info["mismatched_keys"]]
    inside = f"{model.base_model_prefix}."
    lost = [n for n in missing if n.startswith(inside) and ".pooler." not in n]
    lost += [n for n in other if n.startswith(inside)]
    if lost:
        raise _lost(name, lost)
    fresh = tuple(dict.fromkeys(n.rpartition(".")[0] for n in (*missing, *other)))
    setattr(model, FRESH, fresh)
    setattr(model, HEAD_SEED, head_seed if fresh else None)
    if fresh and not labels:
        raise BaseUnavailable(
            f"{name} is an encoder without a classification head: by itself it has no labels to tell apart.",
            "Train it on a file with text,label first, then talk to the run.",
        )
    told = ", ".join(labels_of(model)[:8]) + (", …" if len(labels_of(model)) > 8 else "")
    if fresh:
        size = count_text(sum(p.numel() for m in fresh for p in model.get_submodule(m).parameters(recurse=False)))
        why = f"the checkpoint's own is for {len(own)} labels" if other else "the checkpoint has none"
        return model, (
            f"The classification head for {told} is new, because {why}: {', '.join(fresh)} ({size} parameters) start "
            f"as seed {head_seed} draws them. Before training, its answers mean nothing.",
        )
    if ordered and {label.casefold() for label in ordered} != {label.casefold() for label in own}:
        return model, (
            f"The checkpoint's own classification head is used. It was for {', '.join(own[:8])}; its outputs now stand "
            f"for {told}, in this order.",
        )
    return model, (f"The checkpoint's own classification head is used, for {told}.",)


def in_order(labels: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """`labels` in the order of a head's outputs: as the head's own names have it, where they are the same but for
    case; else numbers by size and words by the alphabet."""
    places = {label.casefold(): place for place, label in enumerate(own)}
    if {label.casefold() for label in labels} == set(places) and len(labels) == len(own):
        return tuple(sorted(labels, key=lambda label: places[label.casefold()]))
    if all(re.fullmatch(r"-?\d{1,18}", label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def labels_of(model: Any) -> tuple[str, ...]:
    """What a classifier tells apart, in the order of its outputs."""
    return tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))


def is_classifier(model: Any) -> bool:
    """Whether a model gives labels to texts, rather than going on with them."""
    return type(model).__name__.endswith("ForSequenceClassification")


def _flat(values: Any) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        else:
            yield from value


def _check_layers(model: PreTrainedModel, name: str) -> None:
    import torch
    from transformers.pytorch_utils import Conv1D

    if not any(isinstance(m, (torch.nn.Linear, Conv1D)) for m in model.modules()):
        raise BaseUnavailable(
            f"{name} has no Linear or Conv1D layers, so no method here can fine-tune it.", "Choose another base."
        )
