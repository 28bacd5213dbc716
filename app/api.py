"""What the app answers beside its pages: a run's events, its adapter as a file, and the components' modules.

Every answer about a run is for the owner in the signed cookie; what is foreign and what does not exist get the same
404. The handlers are plain functions, which Starlette runs in its thread pool: the store may block for a millisecond.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.background import BackgroundTask
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from app import clock, components, identity, index, state
from app.story import slim
from core.errors import DeltalabError, NotFound

if TYPE_CHECKING:
    from starlette.requests import Request

    from core.runs.store import Run

NOT_FOUND = "There is no such run."
SENT = ("preparing", "started", "step", "evaluated", "sampled", "finished", "stopped", "failed")
NO_STORE = {"cache-control": "no-store"}


def _missing() -> JSONResponse:
    return JSONResponse({"detail": NOT_FOUND}, 404, headers=NO_STORE)


def _run(request: Request) -> tuple[Run, str] | None:
    """The run that is asked for and its owner; None unless the cookie's owner has it."""
    owner = identity.owner_of(request.headers.get("cookie", ""), identity.secret(state.home()))
    if owner is None:
        return None
    try:
        return state.store().get(request.path_params["run_id"], owner), owner
    except NotFound:
        return None


def status_of(run: Run) -> dict[str, Any]:
    """What the live curve shows of a run beside its events."""
    step, steps = run.progress
    return {
        "id": run.id,
        "status": run.status,
        "step": step,
        "steps": steps,
        "queue_position": run.queue_position,
        "sentence": run.sentence,
        "advice": run.advice,
    }


def events(request: Request) -> Response:
    """GET /api/runs/{run_id}/events?after=N → {"run": {…}, "events": […], "next": N}."""
    found = _run(request)
    if found is None:
        return _missing()
    run, owner = found
    try:
        after = max(0, int(request.query_params.get("after", "0")))
    except ValueError:
        return JSONResponse({"detail": "after is a whole number."}, 400, headers=NO_STORE)
    # The run is read before its events: a run seen as finished has all its events in the answer.
    rows = state.store().events(run.id, owner, after=after, kinds=SENT)
    return JSONResponse(
        {"run": status_of(run), "events": slim(e for _, e in rows), "next": rows[-1][0] if rows else after},
        headers=NO_STORE,
    )


def adapter_folder(run: Run) -> Path | None:
    """Where a run's adapter lies, or None while it has none."""
    folder = Path(run.folder) / "adapter"
    return folder if folder.is_dir() and any(folder.iterdir()) else None


def file_name(run: Run) -> str:
    """A download's name: letters, digits, dots and hyphens of the run's title, and its id."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", run.title or "adapter").strip("-.").lower() or "adapter"
    return f"{words[:60]}-{run.id}.zip"


def adapter(request: Request) -> Response:
    """GET /api/runs/{run_id}/adapter.zip → the adapter's folder (safetensors and JSON), zipped."""
    found = _run(request)
    if found is None:
        return _missing()
    run, _ = found
    folder = adapter_folder(run)
    if folder is None:
        return JSONResponse({"detail": "This run has no adapter yet."}, 404, headers=NO_STORE)
    return _zipped(folder, "adapter", file_name(run))


def export(request: Request) -> Response:
    """GET /api/runs/{run_id}/export/{part}.zip?trainer=…&data=1 → a part of `core.export.bundle`, made now."""
    found = _run(request)
    if found is None:
        return _missing()
    from core.export.bundle import export_of, root_of, write_zip

    run, owner = found
    asked = request.query_params
    handle, draft = tempfile.mkstemp(suffix=".zip")
    os.close(handle)
    try:
        made = export_of(
            state.store(), run.id, owner, part=request.path_params["part"],
            trainer=asked.get("trainer", "transformers"), with_data=asked.get("data") == "1",
        )  # fmt: skip
        write_zip(made, Path(draft), root=root_of(run.id, request.path_params["part"]))
    except DeltalabError as error:
        os.unlink(draft)
        return JSONResponse({"detail": f"{error.sentence} {error.advice}".strip()}, 409, headers=NO_STORE)
    except BaseException:
        os.unlink(draft)
        raise
    return _file(draft, export_name(run, request.path_params["part"]))


def export_name(run: Run, part: str) -> str:
    """A download's name: what `core.export.bundle.commands` unpacks."""
    return f"deltalab-{run.id[:8]}-{part}.zip"


def made(request: Request) -> Response:
    """GET /api/runs/{run_id}/made/{where}/{name}.zip → a folder that a measurement of this run has left, zipped."""
    found = _run(request)
    if found is None:
        return _missing()
    run, owner = found
    where, name = request.path_params["where"], request.path_params["name"]
    folder = run.folder / "probes" / where / name
    if not re.fullmatch(r"[a-z_]+-[0-9a-f]{16}", where) or not re.fullmatch(r"[a-z_]+", name) or not folder.is_dir():
        return JSONResponse({"detail": "There is no such folder; measure again to make it."}, 404, headers=NO_STORE)
    return _zipped(folder, name, f"{name}-{file_name(run)}", card=_card(run, owner, folder))


def _card(run: Run, owner: str, folder: Path) -> str:
    """The run's model card for the folder that goes out; '' where its record is too short for one."""
    from core.export.card import card, record_of
    from core.export.merged import stored_in

    try:
        stored = stored_in(folder) if folder.name == "merged" else None
        return card(record_of(state.store(), run.id, owner), merged=stored)
    except DeltalabError:
        return ""


def _zipped(folder: Path, inside: str, called: str, card: str = "") -> Response:
    """A folder as a file to be downloaded.

    Args:
        inside: the folder's name in the archive. called: the file's. card: its README.md, where it has none.
    """
    handle, draft = tempfile.mkstemp(suffix=".zip")
    try:
        # Weights do not compress: stored, the file is written as fast as it is read.
        with os.fdopen(handle, "wb") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                archive.write(path, Path(inside) / path.relative_to(folder))
            if card and not (folder / "README.md").exists():
                archive.writestr(f"{inside}/README.md", card)
    except BaseException:
        os.unlink(draft)
        raise
    return _file(draft, called)


def _file(draft: str, called: str) -> FileResponse:
    """A zip that is removed once it is sent."""
    return FileResponse(
        draft,
        media_type="application/zip",
        filename=called,
        headers=NO_STORE,
        background=BackgroundTask(os.unlink, draft),
    )


def asset(request: Request) -> Response:
    """GET /assets/{folder}/{version}/{file} → a component's file; an old version's address gets today's file."""
    folder, name = request.path_params["folder"], request.path_params["file"]
    if name not in components.FILES.get(folder, ()):
        return JSONResponse({"detail": "not found"}, 404, headers=NO_STORE)
    current = request.path_params["version"] == components.version(folder)
    kind = "text/javascript" if name.endswith(".js") else "text/css"
    return FileResponse(
        components.FOLDER / folder / name,
        media_type=kind,
        headers={"cache-control": "public, max-age=31536000, immutable" if current else "no-store"},
    )


def seen(request: Request) -> Response:
    """POST /api/seen/{page} → 204: somebody works in that lesson (see app/clock.py). A page without a clock is 404."""
    owner = identity.owner_of(request.headers.get("cookie", ""), identity.secret(state.home()))
    page = request.path_params["page"]
    if owner is None or page not in {lesson.url_path for lesson in index.lessons()}:
        return JSONResponse({"detail": "not found"}, 404, headers=NO_STORE)
    kept = state.store().progress_of(owner, clock.KEPT)
    state.store().set_progress(owner, clock.KEPT, clock.beat(kept, page, time.time()))
    return Response(status_code=204, headers=NO_STORE)


ROUTES = [
    Route("/api/seen/{page}", seen, methods=["POST"]),
    Route("/api/runs/{run_id}/events", events, methods=["GET"]),
    Route("/api/runs/{run_id}/adapter.zip", adapter, methods=["GET"]),
    Route("/api/runs/{run_id}/export/{part}.zip", export, methods=["GET"]),
    Route("/api/runs/{run_id}/made/{where}/{name}.zip", made, methods=["GET"]),
    Route("/assets/{folder}/{version}/{file}", asset, methods=["GET"]),
]
