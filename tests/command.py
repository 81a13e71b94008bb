"""The installed `med42` command, run as people run it."""

import os
import subprocess
import sys
from pathlib import Path

MED42 = Path(sys.executable).with_name("med42")
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "GITHUB_ACTIONS", "PYTHONPATH")}

# What the base package does without; kfp is added where the command needs none.
HEAVY = ("accelerate", "datasets", "lm_eval", "torch", "transformers", "trl",
         "huggingface_hub", "matplotlib", "numpy", "pandas", "pyarrow", "tokenizers")
BLOCKER = '''
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked by this test", name=name)

sys.meta_path.insert(0, Blocker())
'''


def med42(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The installed command, in a folder of its own and on a wide screen."""
    return subprocess.run([MED42, *map(str, arguments)], cwd=cwd, env={**ENVIRONMENT, "COLUMNS": "250", "NO_COLOR": "1", **environment},
                          capture_output=True, text=True, timeout=60)


def refusal(*arguments: object, cwd: Path, **environment: str) -> str:
    """The one readable error that a command ends in."""
    told = med42(*arguments, cwd=cwd, **environment)
    assert told.returncode == 1, told
    assert told.stderr.startswith("error ")
    assert told.stderr.count("\n") == 1, told.stderr
    assert "Traceback" not in told.stdout + told.stderr
    return told.stderr


def answer(*arguments: object, cwd: Path, **environment: str) -> str:
    """What a command prints that ends well."""
    told = med42(*arguments, cwd=cwd, **environment)
    assert (told.returncode, told.stderr) == (0, ""), told
    return told.stdout
