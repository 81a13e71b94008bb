"""The rows of lm-eval's tasks, by the same converters that `prepare_benchmarks` uses; for `lm_eval --include_path`."""

from __future__ import annotations

from functools import partial
from typing import Any

from med42.evaluation.answers import FORMS, all_answers
from med42.evaluation.benchmarks import medmcqa as medmcqa_rows
from med42.evaluation.benchmarks import medqa as medqa_rows
from med42.evaluation.benchmarks import mmlu as mmlu_rows
from med42.evaluation.benchmarks import mmlu_pro as mmlu_pro_rows
from med42.evaluation.benchmarks import pubmedqa as pubmedqa_rows
from med42.evaluation.benchmarks import toxigen as toxigen_rows
from med42.evaluation.benchmarks import usmle as usmle_rows
from med42.evaluation.item import Item


def _rows(converter: Any, published: Any) -> Any:
    """A dataset of prompt, answers and the place of the right one; rows that cannot be asked are left out."""
    import datasets

    items = (converter.item(row) for row in published)
    return datasets.Dataset.from_list([
        {"prompt": item.prompt, "options": list(item.options), "lettered": item.lettered, "right": item.right,
         "answers": all_answers(item.options, item.lettered, FORMS)}
        for item in items if isinstance(item, Item)
    ])


mmlu_pro, mmlu, medmcqa, medqa, usmle, pubmedqa, toxigen = (
    partial(_rows, converter) for converter in (mmlu_pro_rows, mmlu_rows, medmcqa_rows, medqa_rows, usmle_rows, pubmedqa_rows, toxigen_rows)
)
