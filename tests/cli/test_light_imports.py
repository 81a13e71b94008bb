"""No light module imports a heavy library when it is imported itself."""

import subprocess
import sys

LIGHT = ("cli", "cluster", "data", "errors", "lineage", "preferences", "preflight", "recipe", "report")
HEAVY = ("accelerate", "datasets", "lm_eval", "torch", "transformers", "trl", "kfp", "kubernetes")

# import-linter cannot tell an import inside a function from one at the top of a module; a look at sys.modules can.
PROGRAM = """
import importlib, pkgutil, sys
for name in {light!r}:
    module = importlib.import_module(f"med42.{{name}}")
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(found.name)
print(sorted(name for name in sys.modules if name.startswith("med42.")))
print(sorted(set({heavy!r}) & set(sys.modules)))
"""


def test_light_modules_leave_heavy_libraries_out():
    told = subprocess.run([sys.executable, "-c", PROGRAM.format(light=LIGHT, heavy=HEAVY)], capture_output=True, text=True, check=True,
                          timeout=60)
    imported, heavy = told.stdout.splitlines()
    assert heavy == "[]"
    # It did look: into every layer, and down to modules that only a family's name leads to.
    for module in ("med42.cli.run", "med42.cluster.profile", "med42.data.sources.medquad", "med42.lineage.bundle", "med42.preflight",
                   "med42.preferences.sources.hh_rlhf", "med42.recipe.derived", "med42.report.plot"):
        assert f"'{module}'" in imported
