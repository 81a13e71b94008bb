"""Starting processes that hear when this one is told to end, and never outlive it."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def run_python(arguments: list[str]) -> int:
    """Run this interpreter with some arguments to its end, and let it hear when this process is told to end; its exit status."""
    process = subprocess.Popen([sys.executable, *arguments], preexec_fn=die_with_parent)
    passed_on = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate()) if passed_on else None
    try:
        return process.wait()
    finally:
        if passed_on:
            signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.kill()


def die_with_parent() -> None:
    """Let the kernel end this process when the one that started it is killed.

    torchrun gives its processes sessions of their own; left behind, they would work on, into the next attempt's files.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
