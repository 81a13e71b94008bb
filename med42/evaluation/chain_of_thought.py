"""The generative variant: the model reasons in its own words, and its answer is read out of what it writes."""

from __future__ import annotations

from typing import Any

from med42.data.options import LETTERS
from med42.evaluation.protocol import TASKS, task_config
from med42.recipe.schema import Evaluation

TASK = TASKS / "chain_of_thought.yaml"
NONE = "none"  # what the pattern gives where it finds no answer


def generative_scores(evaluation: Evaluation, items: list[dict[str, Any]], harness: Any) -> dict[str, dict[str, Any]]:
    """What the benchmarks of `evaluation.generative` score when the model writes, greedily.

    Args:
        evaluation: the recipe's.
        items: the questions of all benchmarks.
        harness: the loaded model.

    Returns:
        By benchmark: the task's version, the share right, and the share without an answer that could be read.
    """
    if not evaluation.generative:
        return {}
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

    config, tasks = task_config(TASK), []
    for name in evaluation.generative:
        table = datasets.Dataset.from_list([{"prompt": item["prompt"], "letter": LETTERS[item["right"]]}
                                            for item in items if item["benchmark"] == name])
        kwargs = {**config["generation_kwargs"], "max_gen_toks": evaluation.generative_tokens}
        tasks.append(ConfigurableTask(config={**config, "task": name, "generation_kwargs": kwargs,
                                              "custom_dataset": lambda table=table, **_: {"test": table}}))
    told = simple_evaluate(harness, tasks=tasks, apply_chat_template=True, bootstrap_iters=0, log_samples=True,
                           task_manager=TaskManager(include_defaults=False))
    found = {}
    for name in evaluation.generative:
        read = [sample["filtered_resps"] for sample in told["samples"][name]]
        answers = [answer if isinstance(answer, str) else answer[0] for answer in read]
        right = [answer == sample["doc"]["letter"] for answer, sample in zip(answers, told["samples"][name], strict=True)]
        found[name] = {"version": config["metadata"]["version"], "right": sum(right) / len(right),
                       "no_answer": answers.count(NONE) / len(answers)}
    return found
