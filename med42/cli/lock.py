"""What `med42 lock` does: ask the hub, the buckets and the data root what each origin is now, and write it beside the recipe."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from med42.data.buckets import pin_bucket
from med42.data.hub import pin_hub
from med42.data.readers import local_files
from med42.errors import Med42Error
from med42.lineage.digest import file_digest
from med42.recipe import Recipe
from med42.recipe.lock import described, lockable, read_lock, write_lock
from med42.recipe.schema import BucketOrigin, FileOrigin, HubOrigin, Pin

Changes = list[tuple[str, str, str]]


def lock_recipe(recipe: Recipe, path: Path, data_root: Path | None, check: bool, console: Console) -> bool:
    """Resolve every origin of a recipe, print what changed since the lock file was written, and write it anew.

    Args:
        recipe: the recipe, without its lock file.
        path: the lock file.
        data_root: where the recipe's files are; without it, files keep the pins that they have.
        check: only look; write nothing.
        console: where to print.

    Returns:
        Whether the lock file said all this already.

    Raises:
        Med42Error: an origin cannot be found or read; then nothing is written.
    """
    old = _readable(path, check)
    new = resolve_pins(recipe, old, data_root, console)
    changes = changes_between(old, new)
    if changes:
        table = Table("key", "locked", "now" if check else "locked now", box=None, header_style="dim", pad_edge=False)
        for row in changes:
            table.add_row(*row)
        console.print(table)
    left = [key for key in lockable(recipe) if key not in new]
    if left:
        console.print(f"not locked, as they are files: {', '.join(left)} (give --data-root DIR)", soft_wrap=True)
    if not check and (changes or not path.exists()):
        write_lock(path, recipe.name, new)
    files = sum(len(pin.files) for pin in new.values())
    state = "unchanged" if not changes else "differs" if check else "written"
    console.print(f"{path} {state}; origins: {len(new)}, files: {files:,}, changes: {len(changes)}", soft_wrap=True)
    return not changes


def resolve_pins(recipe: Recipe, old: dict[str, Pin], data_root: Path | None, console: Console) -> dict[str, Pin]:
    """The pin of every origin of a recipe, as it is now.

    Raises:
        Med42Error: an origin cannot be found or read.
    """
    pins: dict[str, Pin] = {}
    # Sources that share an origin share what was found, so that they cannot be told different things.
    found: dict[str, Pin] = {}
    origins = lockable(recipe)
    with console.status("asking") as status:
        for number, (key, origin) in enumerate(origins.items(), 1):
            status.update(f"{number} of {len(origins)}  {key}  {described(origin)}")
            if isinstance(origin, FileOrigin) and data_root is None:
                if key in old and old[key].of == origin:
                    pins[key] = old[key]
                continue
            name = origin.model_dump_json()
            try:
                found[name] = found.get(name) or _pin(origin, key, data_root)
            except ModuleNotFoundError as error:
                raise Med42Error(error.name, "not installed", "the clients of hubs and buckets",
                                 "Install this package with its extra 'data'.") from error
            pins[key] = found[name]
    return pins


def changes_between(old: dict[str, Pin], new: dict[str, Pin]) -> Changes:
    """What differs between two locks, as key, what it was, what it is."""
    changes: Changes = []
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if was == now:
            continue
        if was is None or now is None:
            changes.append((key, _told(was), _told(now)))
            continue
        if was.of != now.of or was.revision != now.revision:
            changes.append((key, _told(was), _told(now)))
        for name in sorted(was.files.keys() | now.files.keys()):
            before, after = (f"{pin.files[name][:12]} {pin.generations.get(name, '')}".strip() if name in pin.files else "-"
                             for pin in (was, now))
            if before != after:
                changes.append((f"  {key}: {name}", before, after))
    return changes


def _pin(origin: HubOrigin | FileOrigin | BucketOrigin, key: str, data_root: Path | None) -> Pin:
    match origin:
        case HubOrigin():
            return pin_hub(origin, key, "model" if key == "base" else "dataset")
        case BucketOrigin():
            return pin_bucket(origin, key)
    return Pin(of=origin, files={name: file_digest(path) for name, path in local_files(origin, data_root, key).items()})


def _told(pin: Pin | None) -> str:
    if pin is None:
        return "-"
    place = pin.of.repo if isinstance(pin.of, HubOrigin) else pin.of.url if isinstance(pin.of, BucketOrigin) else "file"
    at = f"@{pin.of.revision} {pin.revision[:12]}" if isinstance(pin.of, HubOrigin) and pin.revision else ""
    return f"{place}{at}, {len(pin.files)} files"


def _readable(path: Path, check: bool) -> dict[str, Pin]:
    """The old lock; one that cannot be read counts as none where it will be replaced."""
    try:
        return read_lock(path)
    except Med42Error:
        if check:
            raise
        return {}
