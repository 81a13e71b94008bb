"""The rows of lm-eval's tasks, by the same converters that `prepare_benchmarks` uses; for `lm_eval --include_path`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from med42.data.row import Row
from med42.evaluation.answers import FORMS, all_answers
from med42.evaluation.benchmarks import medmcqa as medmcqa_rows
from med42.evaluation.benchmarks import medqa as medqa_rows
from med42.evaluation.benchmarks import mmlu as mmlu_rows
from med42.evaluation.benchmarks import mmlu_pro as mmlu_pro_rows
from med42.evaluation.benchmarks import pubmedqa as pubmedqa_rows
from med42.evaluation.benchmarks import toxigen as toxigen_rows
from med42.evaluation.benchmarks import usmle as usmle_rows
from med42.evaluation.item import Item


def _rows(convert: Callable[[Row], Item | str], published: Any) -> Any:
    """A dataset of prompt, answers and the place of the right one; rows that cannot be asked are left out."""
    import datasets

    items = (convert(row) for row in published)
    return datasets.Dataset.from_list([
        {"prompt": item.prompt, "options": list(item.options), "lettered": item.lettered, "right": item.right,
         "answers": all_answers(item.options, item.lettered, FORMS)}
        for item in items if isinstance(item, Item)
    ])


# A task's configuration is copied by lm-eval: functions can be, modules cannot.
mmlu_pro = partial(_rows, mmlu_pro_rows.item)
mmlu = partial(_rows, mmlu_rows.item)
medmcqa = partial(_rows, medmcqa_rows.item)
medqa = partial(_rows, medqa_rows.item)
usmle = partial(_rows, usmle_rows.item)
pubmedqa = partial(_rows, pubmedqa_rows.item)
toxigen = partial(_rows, toxigen_rows.item)
