"""Checkpoints kept in a Google Cloud Storage bucket, for machines whose disks do not outlive them.

    gs://BUCKET/FOLDER/<identity>/checkpoint-<step>/     as on disk; COMPLETE is uploaded last, so a torn upload is never taken for one

The training writes them to its disk and goes on while a thread uploads them. Before it starts, the newest one is fetched where the
disk has none as new. Nodes that train together share the disk, so the first process alone speaks to the bucket.
"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

from med42.data.buckets import asked_again, client, told_plainly
from med42.errors import Med42Error
from med42.training.checkpoints import ATTEMPTS, COMPLETE, newest

PATIENCE = 600  # seconds for one object, with all its repetitions
PIECE = 32 << 20  # bytes; what a lost connection costs at most


class CheckpointBucket:
    """The checkpoints of one training in a bucket.

    Args:
        url: `gs://bucket/folder`.
        folder: where the training keeps its checkpoints on disk; its name tells this training from others.
    """

    def __init__(self, url: str, folder: Path) -> None:
        bucket, _, prefix = url.removeprefix("gs://").partition("/")
        self.folder, self._what = folder, f"checkpoints in {url}"
        self._prefix = "/".join(part for part in (prefix.strip("/"), folder.name) if part) + "/"
        with told_plainly(self._what):
            self._bucket = client().bucket(bucket)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def fetch(self) -> None:
        """Bring the newest checkpoint to the disk, where that has none as new; see, before any training, that one can be written.

        Raises:
            Med42Error: no such bucket, no right to read or write it, or an object that came damaged.
        """
        with told_plainly(self._what):
            self._bucket.blob(f"{self._prefix}STARTED").upload_from_string(b"", retry=asked_again(PATIENCE), timeout=PATIENCE)
        steps, here = self.steps(), newest(self.folder)
        if not steps or (here and here.step >= steps[-1]):
            return
        source, target = self._name(steps[-1]), self.folder / f"checkpoint-{steps[-1]}"
        draft = self.folder / f".fetched-{steps[-1]}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        print(f"{self._what}: fetching step {steps[-1]}", flush=True)
        with told_plainly(f"{self._what}, step {steps[-1]}"):
            mark = self._bucket.blob(f"{source}{COMPLETE}").download_as_bytes(retry=asked_again(PATIENCE), timeout=PATIENCE)
            for name, size in json.loads(mark)["files"].items():
                path = draft / name
                path.parent.mkdir(parents=True, exist_ok=True)
                # The client compares the checksum that the service tells.
                self._bucket.blob(f"{source}{name}").download_to_filename(str(path), retry=asked_again(PATIENCE), timeout=PATIENCE)
                if path.stat().st_size != size:
                    raise Med42Error(f"{self._what}, step {steps[-1]}", f"{name} with {path.stat().st_size:,} bytes", f"{size:,}",
                                     "Delete that checkpoint in the bucket; the one before is then taken.")
        (draft / COMPLETE).write_bytes(mark)
        if not (self.folder / ATTEMPTS).exists():
            with told_plainly(self._what):
                attempts = self._bucket.blob(f"{self._prefix}{ATTEMPTS}").download_as_bytes(retry=asked_again(PATIENCE), timeout=PATIENCE)
            (self.folder / ATTEMPTS).write_bytes(attempts)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints in the bucket, ascending."""
        with told_plainly(self._what):
            names = [blob.name for blob in self._bucket.list_blobs(prefix=self._prefix, retry=asked_again(PATIENCE), timeout=PATIENCE)]
        return sorted(int(name.split("/")[-2].rpartition("-")[2]) for name in names if name.endswith(f"/{COMPLETE}"))

    def upload(self, step: int, kept: int) -> None:
        """Upload a checkpoint in a thread, once the one before is there; then delete all but the newest `kept` ones.

        The disk keeps two checkpoints at least, so the one that is being uploaded is not removed meanwhile.

        Raises:
            Med42Error: the upload before this one failed.
        """
        self.wait()
        self._thread = threading.Thread(target=self._upload, args=(step, kept), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being uploaded.

        Raises:
            Med42Error: the upload failed; the checkpoint on the disk is whole.
        """
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure

    def discard(self) -> None:
        """Remove this training's checkpoints, the marks that make them complete first."""
        self._remove([self._prefix])

    def _upload(self, step: int, kept: int) -> None:
        try:
            here, place = self.folder / f"checkpoint-{step}", self._name(step)
            names = [*json.loads((here / COMPLETE).read_text())["files"], COMPLETE]
            if step in self.steps():
                self._remove([f"{place}{COMPLETE}"])  # of an earlier attempt; its files are replaced one by one
            self._send(self.folder / ATTEMPTS, f"{self._prefix}{ATTEMPTS}")
            for name in names:
                self._send(here / name, f"{place}{name}")
            self._remove([self._name(old) for old in self.steps()[:-kept]])
        except BaseException as error:
            self._failure = error

    def _send(self, path: Path, name: str) -> None:
        with told_plainly(f"{self._what}: {name}"):
            self._bucket.blob(name, chunk_size=PIECE).upload_from_filename(str(path), retry=asked_again(PATIENCE), timeout=PATIENCE)

    def _remove(self, places: list[str]) -> None:
        with told_plainly(self._what):
            for place in places:
                blobs = list(self._bucket.list_blobs(prefix=place, retry=asked_again(PATIENCE), timeout=PATIENCE))
                for blob in sorted(blobs, key=lambda blob: not blob.name.endswith(f"/{COMPLETE}")):
                    blob.delete(retry=asked_again(PATIENCE), timeout=PATIENCE)

    def _name(self, step: int) -> str:
        return f"{self._prefix}checkpoint-{step}/"


def bucket_of(url: str, folder: Path | None) -> CheckpointBucket | None:
    """The bucket that a training keeps its checkpoints in as well, if the recipe names one."""
    return CheckpointBucket(url, folder) if url and folder else None


def discard(url: str, folder: Path | None) -> None:
    """Remove a training's checkpoints from disk and bucket, once its model is made; a bucket that refuses keeps them."""
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            if bucket := bucket_of(url, folder):
                bucket.discard()
        except Med42Error as error:
            print(f"the checkpoints stay in the bucket: {error}", flush=True)


def uploading_callback(bucket: CheckpointBucket, kept: int) -> Any:
    """A trainer callback by which the first process uploads each checkpoint; to be added after the one that marks them complete."""
    from transformers import TrainerCallback

    class Uploader(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                bucket.upload(state.global_step, kept)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            bucket.wait()

    return Uploader()
