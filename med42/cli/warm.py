"""A warm interpreter for local runs: the stages that need the heavy libraries are forked from one process that has them.

Importing torch, transformers, trl and lm-eval takes eight to ten seconds on two cores, and a run of `tiny` starts nine
processes that do: half of its time. The local engine starts each stage by the interpreter that `sys.executable` names, so for
the length of a run that name is a small launcher: it asks the warm process to fork the stage with the launcher's own input,
output and environment, waits, and exits with the stage's status. Where the warm process is not ready, or does not answer,
the launcher becomes the ordinary interpreter. What a stage computes is the same either way; a test compares the digests.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from med42.report.quiet import work_offline_and_quietly

# These never ask a hub for anything; the others must not inherit libraries that were told to stay offline.
STAGES = ("train_sft", "train_dpo", "sample_answers", "score_answers", "evaluate_model")
LIBRARIES = ("datasets", "matplotlib.figure", "trl.trainer.sft_trainer", "trl.trainer.dpo_trainer", "lm_eval.evaluator",
             "lm_eval.models.huggingface", "transformers.models.llama.modeling_llama")

LAUNCHER = """#!{python} -IS
import json, os, socket, sys

def forked():
    if not set(sys.argv) & set({stages!r}):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect({address!r})
            request = json.dumps({{"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}})
            socket.send_fds(connection, [request.encode()], [0, 1, 2])
        except OSError:
            return None
        return int(connection.recv(64) or 1)

status = forked()
if status is None:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
sys.exit(status if status >= 0 else 128 - status)
"""


@contextlib.contextmanager
def warm_interpreter() -> Iterator[None]:
    """Let stages be forked from a warm process until the block ends; does nothing where that is not possible."""
    python = sys.executable
    if " " in python or len(python) > 200 or not hasattr(socket, "send_fds") or sys.platform != "linux":
        yield
        return
    with tempfile.TemporaryDirectory(prefix="med42-") as folder:
        launcher, address = Path(folder) / "interpreter", str(Path(folder) / "socket")
        launcher.write_text(LAUNCHER.format(python=python, stages=STAGES, address=address))
        launcher.chmod(0o700)
        with subprocess.Popen([python, "-m", "med42.cli.warm", address], stdin=subprocess.DEVNULL) as server:
            sys.executable = str(launcher)
            try:
                yield
            finally:
                sys.executable = python
                server.kill()


def serve(address: str) -> None:
    """Import the libraries, then fork a stage for every request, until the run that started this process is gone."""
    run = os.getppid()
    work_offline_and_quietly()
    for name in LIBRARIES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # attendants are waited for by nobody
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen()
        listening.settimeout(1.0)
        while os.getppid() == run:
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                listening.close()
                _attend(connection)
            connection.close()


def _attend(connection: socket.socket) -> NoReturn:
    """Fork the stage that was asked for, wait for it, and send its exit status (negative: the signal that ended it)."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.settimeout(None)
    request, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    stage = os.fork()
    if stage == 0:
        connection.close()
        _become(json.loads(request), descriptors)
    _, status = os.waitpid(stage, 0)
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(request: dict[str, object], descriptors: list[int]) -> NoReturn:
    """Run `-m MODULE ARGUMENTS` as the process that asked would have."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    status = 1
    try:
        os.chdir(str(request["cwd"]))
        os.environ.clear()
        os.environ.update(dict(request["env"]))  # type: ignore[call-overload]
        _, module, *arguments = list(request["argv"])  # type: ignore[call-overload]
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
