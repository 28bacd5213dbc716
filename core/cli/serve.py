"""`deltalab serve`: the app in the browser."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from core.cli.arguments import DONE, FAILED, command
from core.errors import BadInput, Refused
from core.notebook.permission import CHOICES, VARIABLE, Permission, permission

HOST, PORT = "127.0.0.1", 8501
SHORTEST_KEY = 8  # of a teacher, as in app/classroom.py


def add(commands: Any) -> None:
    """The command's flags."""
    serve = command(commands, "serve", _serve, "open the app in the browser")
    serve.add_argument("--host", default=HOST, help=f"address to listen on (default: {HOST}, this machine only)")
    serve.add_argument("--port", type=int, default=PORT, help=f"port; 0 takes a free one (default: {PORT})")
    serve.add_argument(
        "--code", choices=CHOICES, default=None,
        help="whether learners may run code in lessons (default: auto, that is only while no other machine can reach "
        f"the server; or {VARIABLE})",
    )  # fmt: skip
    serve.add_argument("--no-browser", action="store_true", help="do not open a browser")
    serve.add_argument(
        "--teacher-key-file", metavar="FILE", default="",
        help="a file with the key that makes its reader a teacher, who sees how everyone is doing",
    )  # fmt: skip
    serve.add_argument("--json", action="store_true", help="say where the app is with one JSON object, once it answers")


def _serve(asked: argparse.Namespace) -> int:
    import signal
    import socket
    import subprocess
    import time

    if not 0 <= asked.port <= 65535:
        raise BadInput(f"--port must be from 0 to 65535, not {asked.port}.")
    script = _app_script()
    variables = {**os.environ, **_teacher_key(asked.teacher_key_file)}
    if asked.code:
        variables[VARIABLE] = asked.code
    try:
        family, _, _, _, address = socket.getaddrinfo(asked.host, asked.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            port = probe.getsockname()[1]
    except socket.gaierror as why:
        raise BadInput(
            f"There is no address {asked.host!r}.", "Use 127.0.0.1, 0.0.0.0 or this machine's name."
        ) from why
    except OSError as why:
        raise BadInput(
            f"Port {asked.port} on {asked.host} cannot be used: {why.strerror}.",
            "Something listens there already (perhaps Deltalab); try --port 0.",
        ) from why
    shown = asked.host if asked.host not in ("0.0.0.0", "::", "") else socket.gethostname()
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    command = [sys.executable, "-m", "streamlit", "run", str(script), f"--server.address={asked.host}",
               f"--server.port={port}", "--server.headless=true", "--browser.gatherUsageStats=false"]  # fmt: skip
    alone = asked.host in ("127.0.0.1", "localhost", "::1")
    if not alone:
        # Nobody here knows by which names others call this machine. And without an address to print, Streamlit would
        # ask a service on the internet for one.
        command += ["--server.allowedHosts=*", f"--browser.serverAddress={shown}"]
    code = permission(reachable=not alone, environment=variables)
    # Streamlit reads .streamlit/config.toml from the working folder. The server is in a session of its own, so that a
    # Ctrl-C reaches it once, through us, and not a second time from the terminal.
    server = subprocess.Popen(
        command, cwd=script.parents[1], env=variables, start_new_session=True, stdout=subprocess.DEVNULL
    )
    stopped = False

    def stop(_number: int, _frame: Any) -> None:
        nonlocal stopped
        stopped = True
        server.terminate()

    before = {number: signal.signal(number, stop) for number in _stop_signals()}
    try:
        local = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(asked.host, asked.host)
        while server.poll() is None and not _is_up(local, port):
            time.sleep(0.1)
        if server.poll() is None:
            if asked.json:
                print(json.dumps({"url": url, "host": asked.host, "port": port, "pid": server.pid}), flush=True)
            else:
                print(f"Deltalab: {url}\nCtrl-C ends the server; runs go on without it.", flush=True)
            if not alone:
                print("Everyone who can reach this address can use this machine for training.", file=sys.stderr)
                print(_code_words(code), file=sys.stderr)
            if not asked.no_browser and has_display():
                import webbrowser

                webbrowser.open(url)
        status = server.wait()
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if status == 0 or stopped:
        return DONE
    print(f"The server ended with status {status}; what it said is above.", file=sys.stderr)
    return FAILED


def _code_words(code: Permission) -> str:
    """What an operator should know of code in lessons, on a server that others reach."""
    if not code.on:
        return "Code cells of lessons are off, because others can reach this server; --code on turns them on."
    from core.notebook.sandbox import sandbox

    return f"Everyone who can reach this address can run code here, {sandbox().words}."


def _teacher_key(file: str) -> dict[str, str]:
    """The environment by which the app knows its teacher's key: where it stands, not what it is.

    Raises:
        BadInput: the file is not there, cannot be read, or holds too little to be a key.
    """
    if not file:
        return {}
    path = Path(file).expanduser().resolve()
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as why:
        raise BadInput(
            f"The teacher key's file {file} cannot be read.", "Give a text file with the key in it."
        ) from why
    if len(key) < SHORTEST_KEY:
        raise BadInput(f"The key in {file} is too short.", f"It needs at least {SHORTEST_KEY} characters.")
    return {"DELTALAB_TEACHER_KEY_FILE": str(path)}


def _stop_signals() -> list[Any]:
    import signal

    return [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _app_script() -> Path:
    from importlib.util import find_spec

    spec = find_spec("app")
    places = list(spec.submodule_search_locations or []) if spec else []
    script = Path(places[0]) / "main.py" if places else None
    if script is None or not script.is_file():
        raise Refused("The app is not part of this installation.", "Install Deltalab from its repository.")
    return script


def _is_up(host: str, port: int) -> bool:
    """Whether the server is up: its health route says so."""
    import http.client

    line = http.client.HTTPConnection(host, port, timeout=2)
    try:
        line.request("GET", "/_stcore/health")
        return line.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        line.close()


def has_display() -> bool:
    """Whether a browser that is opened here would be seen by somebody."""
    if os.environ.get("CI"):
        return False
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return not os.environ.get("SSH_CONNECTION")
