"""Conversations for benchmarks, out of what every installation has: the docstrings of its packages."""

from __future__ import annotations

import importlib.util
import itertools
import random
import re
from pathlib import Path

import numpy as np

DOCUMENTED = ("numpy", "scipy", "pandas", "sklearn", "torch", "transformers", "matplotlib", "networkx", "nltk", "sympy")


def documentation() -> list[str]:
    """Docstrings of installed packages, each once, without those that write control tokens."""
    found: dict[str, None] = {}
    for name in DOCUMENTED:
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(folder).rglob("*.py")):
                found.update(dict.fromkeys(re.findall(r'"""(.*?)"""', path.read_text(errors="replace"), re.DOTALL)))
    return [text.strip() for text in found if len(text) > 200 and "<|" not in text]


def conversations(texts: list[str], count: int, tokens: float = 350, spread: float = 0.9) -> list[list[dict[str, str]]]:
    """Question and answer, some after a system turn, some in several rounds, of log-normal length: `tokens` on average.

    Each is a run of one long text of all documentation, so that its words follow one another as people wrote them.
    """
    draw, running = random.Random(0), "\n\n".join(texts)
    made = []
    for _ in range(count):
        # Some 3.9 characters a token; at most what surely fits into a chunk, so that nobody has to cut.
        size = min(24_000, max(60, round(3.9 * draw.lognormvariate(np.log(tokens) - spread**2 / 2, spread))))
        start = draw.randrange(len(running) - size)
        turns, text = 2 * draw.choice([1, 1, 1, 2, 3]), running[start : start + size]
        cuts = sorted(draw.sample(range(1, size), turns - 1))
        parts = [text[low:high].strip() or "Yes." for low, high in itertools.pairwise([0, *cuts, size])]
        system = [{"role": "system", "content": "You are a helpful assistant."}] if draw.random() < 0.3 else []
        made.append(system + [{"role": role, "content": part} for role, part in zip(("user", "assistant") * turns, parts, strict=False)])
    return made
