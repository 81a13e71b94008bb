"""Memory that is freed is given back to the system; else half the peak of a long mix is what allocators hold for later."""

from __future__ import annotations

import contextlib
import ctypes
import os

# glibc's names and numbers; another C library goes on as it does.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def hold_little() -> None:
    """Let this process hold little that it does not use; to be called before Arrow is first imported, which reads the variable then."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        # Arrays of less come from the heap: a mapping for each makes sketches four times as slow.
        mallopt(M_MMAP_THRESHOLD, 1 << 23)
        mallopt(M_TRIM_THRESHOLD, 1 << 24)


def give_back() -> None:
    """Give back what was freed in the middle of the heap too; takes a few milliseconds."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
