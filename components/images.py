"""The image of each set of stages, by what the stages need installed."""

from med42 import __version__

DATA = f"med42-data:{__version__}"
TRAIN = f"med42-train:{__version__}"
EVALUATE = f"med42-evaluate:{__version__}"
RELEASE = f"med42-release:{__version__}"
