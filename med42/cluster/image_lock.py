"""The images that were pushed to a registry, by digest: `images/digests.lock`, which `make push` writes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from med42.cluster.profile import Kind
from med42.errors import Med42Error
from med42.recipe.schema import Frozen


class ImageLock(Frozen):
    """Pushed images.

    Attributes:
        code: digest of the code that stages run, as the images themselves tell it.
        images: by the kind of stage, as `data`, the image's reference, as `registry/med42-data@sha256:...`.
    """

    code: str = Field(pattern="^[0-9a-f]{64}$")
    images: dict[Kind, str]

    def pinned(self, kind: Kind) -> str:
        """The image of a kind of stages, by digest.

        Raises:
            Med42Error: it is not locked, or by a tag only.
        """
        reference = self.images.get(kind, "")
        if "@sha256:" not in reference:
            raise Med42Error("images/digests.lock", f"'{reference}' for {kind}", "a reference by digest, as registry/name@sha256:...",
                             "Push the images again: make push REGISTRY=...")
        return reference


def load_image_lock(path: Path, code: str) -> ImageLock:
    """Read the lock file of images that hold the given code.

    Raises:
        Med42Error: it is not there, says something else, or its images hold other code.
    """
    if not path.is_file():
        raise Med42Error(path, "no such file", "the digests of pushed images",
                         "Push them (make push REGISTRY=...), give another file with --images, or allow tags.")
    try:
        lock = ImageLock.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise Med42Error(path, " ".join(str(error).split()), "what make push writes", "Push the images again.") from error
    if lock.code != code:
        raise Med42Error(path, f"images of other code ({lock.code[:12]})", f"this code ({code[:12]})",
                         "Build and push them again: make images push REGISTRY=...")
    return lock
