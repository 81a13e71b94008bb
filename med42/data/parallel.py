"""Work on blocks of rows spread over the machine's cores, the results in the order of the blocks."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import pyarrow

from med42.data.memory import give_back
from med42.errors import Med42Error
from med42.lineage.provenance import processors

Block = TypeVar("Block")
Result = TypeVar("Result")

# Starting processes takes about half a second, so what takes little longer is done where it is.
ALONE_SECONDS = 0.3

_work: Callable[[Any], Any]


def ordered_map(make: Callable[[], Callable[[Block], Result]], blocks: Iterable[Block], workers: int | None = None,
                here: bool = True) -> Iterator[Result]:
    """Results of some work on each block, in order; the number of workers changes nothing but the time.

    At most two blocks a worker are under way, so memory does not grow with the number of blocks.

    Args:
        make: called once in each worker; returns the function that works on a block. Must pickle, as a `functools.partial`
            of a module's function does.
        blocks: what to work on; read as it is needed. Each must pickle, and is not None.
        workers: processes; the machine's cores by default. With one, everything happens in this process.
        here: whether the first blocks may be done in this process, which holds some memory of the work ever after.

    Raises:
        Med42Error: a worker was killed. Errors of the work itself come through as they are.
    """
    workers, blocks, clock = workers or processors(), iter(blocks), time.monotonic()
    if here or workers == 1:
        work = make()
        for block in blocks:
            yield work(block)
            if workers > 1 and time.monotonic() - clock > ALONE_SECONDS:
                break
        del work
        give_back()
    if (following := next(blocks, None)) is None:
        return
    # Not by fork: this process may hold threads of Arrow or of a client, which a fork would leave half there.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", _module_of(make)])  # imported once, and shared by all workers
    with ProcessPoolExecutor(workers, context, _start, (make,)) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for block in itertools.chain([following], blocks):
                waiting.append(pool.submit(_call, block))
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise Med42Error("a worker process", "its sudden end", "work that ends", "It was killed, or ran out of memory: "
                             "see the system's log, or give the stage more memory.") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _module_of(make: Callable[..., Any]) -> str:
    while isinstance(make, functools.partial):
        make = make.args[0] if make.func is functools.partial else make.func
    return make.__module__


def _start(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    pyarrow.set_cpu_count(1)  # the cores are busy with the other workers, and each thread would hold memory of its own
    _work = make()


def _call(block: Any) -> Any:
    return _work(block)
