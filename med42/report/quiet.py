"""Keeping libraries quiet and off the network while a stage works."""

import os
import warnings


def work_offline_and_quietly() -> None:
    """Turn off the libraries' progress bars and notices, and any look-up at a hub.

    What a stage needs lies in its inputs; a library that reaches for the network then fails at once instead of
    fetching something that no record names. Call it before the libraries are imported: they read these once.
    """
    for name, value in {
        "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error", "LMEVAL_LOG_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false",
        # Waiting threads spin for some 50 microseconds, about the gap between two operators, then sleep. Sleeping at once
        # costs `tiny` a third of its training time; spinning on makes two trainings on the same cores slow each other tenfold.
        "GOMP_SPINCOUNT": "20000",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
