"""The process of a learner's kernel: ipykernel, held to its limits, and gone when the server is gone.

    python -m core.notebook.process CONNECTION_FILE MOST_BYTES

Started by core/notebook/kernel.py only. It ends when its standard input does: that is a pipe from the server, which
closes however the server ends. What the learner's code reads from standard input is empty.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from typing import Any

from core.notebook import inside
from core.notebook.outputs import ERROR

NICENESS = 10
SLACK_BYTES = 1 << 30
"""Of private memory beyond the limit: what torch and its threads reserve without using it."""
FILE_BYTES = 1 << 30


def ends_with_the_server() -> None:
    """Leave when the pipe on standard input closes, and give standard input to nobody."""
    pipe = os.dup(0)
    os.set_inheritable(pipe, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        while os.read(pipe, 64):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="server-watch").start()


def limit(most_bytes: int) -> None:
    """Be modest: behind everything else, no more memory than allowed, and the first to go when memory runs out."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    try:
        import resource
    except ImportError:  # Windows: the server watches the memory
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    if sys.platform.startswith("linux"):
        # Not RLIMIT_AS: torch maps much more than it uses. This one counts private memory that can be written, so that
        # what is too large fails with MemoryError instead of ending the process. (The server watches, too.)
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes + SLACK_BYTES, most_bytes + SLACK_BYTES))
        try:
            with open("/proc/self/oom_score_adj", "w") as f:
                f.write("800")
        except OSError:
            pass


def main() -> None:
    """Serve the connection that the file describes."""
    connection, most_bytes = sys.argv[1], int(sys.argv[2])
    ends_with_the_server()
    limit(most_bytes)
    # IPython's advice after sys.exit(): to call exit(), which would end the kernel.
    warnings.filterwarnings("ignore", message="To exit: use")
    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelapp import IPKernelApp
    from ipykernel.zmqshell import ZMQInteractiveShell
    from traitlets import Type

    class Shell(ZMQInteractiveShell):
        """Reports an error as plain data with the learner's own lines, and not as the usual coloured text, which takes
        half a second to make: an interrupt that is answered so late is taken for none."""

        def showtraceback(self, exc_tuple: Any = None, *_: Any, **__: Any) -> None:
            etype, evalue, _trace = self._get_exc_info(exc_tuple)
            self._showtraceback(etype, evalue, [])

        def showsyntaxerror(self, *_: Any, **__: Any) -> None:
            self.showtraceback()

        def ask_exit(self) -> None:
            """Leave at once, as part of the cell that asks for it: the kernel's own way answers first that all went
            well, and is gone a moment later, under whatever is run next."""
            sys.stdout.flush()
            sys.stderr.flush()
            time.sleep(0.1)  # what was printed is on its way
            os._exit(0)

        def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
            told = inside.error_of(etype, evalue, getattr(evalue, "__traceback__", None))
            self.display_pub.publish({ERROR: told})
            super()._showtraceback(etype, evalue, stb)

    class Kernel(IPythonKernel):
        shell_class = Type(Shell)

    app = IPKernelApp.instance(kernel_class=Kernel, connection_file=connection)
    app.initialize(["--HistoryManager.enabled=False", "--InteractiveShell.colors=NoColor"])
    inside.install(app.shell)
    app.start()


if __name__ == "__main__":
    main()
