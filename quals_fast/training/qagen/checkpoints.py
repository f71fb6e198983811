"""Checkpoints on disk: which ones are complete, and the error if one cannot be written."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from quals_fast.training.qagen.settings import TrainingError

_TORCH_FILES = ("optimizer.pt", "scheduler.pt")
_FILES = ("config.json", "tokenizer.json", "model.safetensors", *_TORCH_FILES)


def last_whole(output: Path, report: Callable[[str], None]) -> Path | None:
    """Return the last complete checkpoint; report what is wrong with later ones."""
    for folder in checkpoints(output):
        problem = problem_of(folder)
        if problem is None:
            return folder
        report(f"skipping {folder}, which is incomplete: {problem}")
    return None


def checkpoints(output: Path) -> list[Path]:
    """Return the folders of checkpoints, the latest first."""
    folders = [
        p for p in output.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal()
    ]
    return sorted(folders, key=lambda path: -int(path.name.removeprefix("checkpoint-")))


def problem_of(folder: Path) -> str | None:
    """Return what a checkpoint lacks, or None."""
    # The state is written last.
    state = folder / "trainer_state.json"
    for name in (*_FILES, state.name):
        if not (folder / name).is_file():
            return f"it has no {name}"
    try:
        json.loads(state.read_text("utf-8"))
    except ValueError:
        return f"{state.name} is truncated"
    try:
        with safe_open(folder / "model.safetensors", framework="pt"):
            pass
    except (SafetensorError, OSError):
        return "model.safetensors is truncated"
    draws = [path.name for path in folder.glob("rng_state*.pth")]
    if not draws:
        return "it has no rng_state.pth"
    # torch writes zip files, whose directory is at the end.
    broken = (name for name in (*_TORCH_FILES, *draws) if not zipfile.is_zipfile(folder / name))
    return next((f"{name} is truncated" for name in broken), None)


@contextmanager
def writing(folder: Path, *, removes: bool) -> Iterator[None]:
    """Turn a failure to write a folder into a message that says what is left and what to do.

    Args:
        folder: the folder that is written.
        removes: whether to remove the folder after a failure, so that no part of it stays.

    Raises:
        TrainingError: it could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # For a full disk, torch only reports that its writer failed.
        words = ("PytorchStreamWriter", "inline_container", "unexpected pos")
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in words):
            raise
        if removes:
            shutil.rmtree(folder, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free / 2**20
        whole = [path for path in checkpoints(folder.parent) if problem_of(path) is None]
        left = f"the last complete one is {whole[0]}" if whole else "there is no earlier one"
        raise TrainingError(
            f"cannot write {folder}: {str(error).splitlines()[0]} ({free:.0f} MiB are free there); "
            f"{left}: free some space, and run the same command again to resume"
        ) from error
