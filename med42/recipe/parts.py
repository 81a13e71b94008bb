"""The parts that a big source is prepared in, each by a task of its own; what becomes of them together does not depend on their number."""

from __future__ import annotations

from med42.recipe.schema import Part, Recipe

WHOLE = Part(index=1, of=1)


def source_parts(recipe: Recipe) -> list[str]:
    """What the tasks that prepare sources are called: a source's name, or `name@2-of-4` for a part of one."""
    return [
        name if source.shards == 1 else f"{name}@{index}-of-{source.shards}"
        for name, source in sorted(recipe.sources.items()) for index in range(1, source.shards + 1)
    ]


def source_of(part: str) -> str:
    """The source that a part belongs to."""
    return part.partition("@")[0]


def which_part(part: str) -> Part:
    """Which part of how many."""
    _, at, numbers = part.partition("@")
    index, _, of = numbers.partition("-of-")
    return Part(index=int(index), of=int(of)) if at else WHOLE
