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
        # Waiting threads sleep instead of spinning: two trainings at once on two cores else slow each other tenfold.
        "OMP_WAIT_POLICY": "PASSIVE",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
