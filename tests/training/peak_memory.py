"""How much memory a training takes beyond an idle process that has its libraries:  peak_memory.py FOLDER CHANGE...

FOLDER holds `base` and `packed`. Prints the bytes measured and the bytes planned.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from med42.lineage.journal import Job
from med42.recipe import load_recipe
from med42.training.planning import plan_training
from med42.training.train_sft import train_sft


def main() -> None:
    folder, changes, job = Path(sys.argv[1]), sys.argv[2:], Job("test")
    # The first training loads every library and fills their caches.
    train_sft(load_recipe("tiny", ["sft.steps=2", "sft.threads=1"]), folder / "tiny/base", folder / "tiny/packed", folder / "first", job)
    process, peak, done = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.002)

    watching = threading.Thread(target=watch)
    watching.start()
    recipe = load_recipe("tiny", changes)
    train_sft(recipe, folder / "base", folder / "packed", Path(tempfile.mkdtemp(dir=folder)) / "out", job)
    done.set()
    watching.join()
    print("RESULT", peak - before, round(plan_training(recipe)[0].memory))


if __name__ == "__main__":
    main()
