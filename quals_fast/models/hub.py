"""Models on the Hugging Face hub, whose files huggingface_hub downloads to its cache.

Tokens, cache and endpoint are those of every program that uses the hub (``HF_TOKEN``, ``HF_HOME``,
``HF_HUB_OFFLINE``, ``HF_ENDPOINT``). Only data is downloaded: no code of a repository is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from quals_fast.models.checkpoint import (
    CHECKPOINT_FILES,
    EXPORT,
    TOKENIZER_SETTINGS,
    WEIGHTS,
    CheckpointError,
    is_plain_name,
    read_json,
    refuse_adapter,
)

# As the hub has it: letters, digits, and single - . _ between them.
_NAME = re.compile(r"(?!.*(--|\.\.))\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)
_SETTINGS = [*CHECKPOINT_FILES, *TOKENIZER_SETTINGS, "adapter_config.json", EXPORT]


def is_hub_name(model: str | Path) -> bool:
    """Return whether a model is named as on the hub, OWNER/NAME, and is no local path."""
    return (
        isinstance(model, str) and _NAME.fullmatch(model) is not None and not Path(model).exists()
    )


def check_revision(model: str | Path, revision: str | None) -> None:
    """Check that a revision is only asked for of a model on the hub.

    Raises:
        ValueError: the model is bundled or local.
    """
    if revision is not None and not is_hub_name(model):
        raise ValueError(
            f"`revision` is for names on the Hugging Face hub, but got {revision!r} for the model "
            f"{str(model)!r}; leave it out"
        )


def fetch(
    name: str,
    revision: str | None = None,
    *,
    show_progress: bool = True,
    before_weights: Callable[[], object] | None = None,
    other_files: Sequence[str] = (),
) -> Path:
    """Download the files of a model that are not in the cache yet.

    Of an exported model, these are the files that its manifest lists. Otherwise, safetensors are
    preferred to ``pytorch_model.bin``; only one of them is downloaded. Without a network, the
    model is taken from the cache.

    Args:
        name: on the hub, OWNER/NAME.
        revision: branch, tag or commit; None takes the main branch.
        show_progress: whether to show huggingface_hub's progress bars; False turns them off for
            the whole process.
        before_weights: called once the model is known not to be an exported one; raises if its
            weights would be of no use.
        other_files: names of further files, which the model may lack.

    Returns:
        The folder in the cache; `name_of` gives its name and commit.

    Raises:
        CheckpointError: the model cannot be downloaded; the message says why.
        ModuleNotFoundError: huggingface_hub is not installed.
    """
    download = partial(_download, name, revision)
    folder = download([*_SETTINGS, *other_files], show_progress=show_progress)
    commit = folder.name  # of all other files, whatever is pushed in the meantime
    if (folder / EXPORT).is_file():
        listed = _listed(folder)
        download(listed, commit=commit)
        _check_complete(name, folder, listed)
        return folder
    if before_weights is not None:
        before_weights()
    for weights in WEIGHTS:
        kind = Path(weights)
        index = f"{weights}.index.json"
        download([weights, index, f"{kind.stem}-*{kind.suffix}"], commit=commit)
        if (folder / weights).is_file() or (folder / index).is_file():
            break
    else:
        refuse_adapter(folder)
        raise CheckpointError(
            f"there are no weights of {name} in {folder}: the repository has neither "
            f"{' nor '.join(WEIGHTS)}, or its download was interrupted; download it again "
            "where there is a network, or choose another model"
        )
    if not (folder / "tokenizer.json").is_file():
        download(["spiece.model"], commit=commit)  # says what to do with it
    return folder


def commit_of(name: str, revision: str | None = None) -> str:
    """Return the commit that a revision stands for, of the main branch by default.

    Without a network, it is the one in the cache. Errors are those of `fetch`.
    """
    return _download(name, revision, ["config.json"]).name


def _download(
    name: str,
    revision: str | None,
    patterns: list[str],
    *,
    commit: str | None = None,
    show_progress: bool = True,
) -> Path:
    """Download some files of a revision, or of the commit that it stood for; as for `fetch`."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"there is no folder {name!r}, and downloading it from the Hugging Face hub needs "
            "huggingface_hub: pip install huggingface_hub, or give a local folder"
        ) from error
    if not show_progress:
        disable_progress_bars()
    transport_error = HfHubHTTPError.__bases__[0]  # of the HTTP library, which depends on versions
    try:
        at = commit or revision
        return Path(snapshot_download(name, revision=at, allow_patterns=patterns))
    except (OSError, transport_error) as error:
        _explain(name, revision, error)


def _listed(folder: Path) -> list[str]:
    """Return the files that an export's manifest lists; `read_manifest` checks it later."""
    files = read_json(folder / EXPORT).get("files")
    return [name for name in files if is_plain_name(name)] if isinstance(files, dict) else []


def _check_complete(name: str, folder: Path, files: list[str]) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{missing[0]} of {name} is not in {folder}: the repository lacks it, or its download "
            "was interrupted; download it again where there is a network, or choose another model"
        )


def name_of(folder: Path) -> str:
    """Return a model's name: a folder's, or OWNER/NAME@COMMIT of one in the hub's cache."""
    return hub_name(folder) or folder.resolve().name


def hub_name(folder: Path) -> str | None:
    """Return OWNER/NAME@COMMIT of a folder in the hub's cache, or None for other folders."""
    folder = folder.resolve()
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        name = repository.removeprefix("models--").replace("--", "/", 1)
        return f"{name}@{folder.name}"
    return None


def _explain(name: str, revision: str | None, error: Exception) -> NoReturn:
    """Raise `CheckpointError` with what went wrong and what to do."""
    from huggingface_hub import constants, errors, try_to_load_from_cache

    there = f"on {constants.ENDPOINT}"
    at = "" if revision is None else f" at revision {revision!r}"
    if isinstance(error, errors.GatedRepoError):
        problem = (
            f"{name} is gated {there}; accept its terms there, and set HF_TOKEN to a token of your "
            "account"
        )
    elif isinstance(error, errors.RepositoryNotFoundError):
        problem = (
            f"there is no folder {name!r} here, and no such model {there} that you may read; check "
            "the name, and for a private model set HF_TOKEN"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        problem = f"{name} has no revision {revision!r} {there}; give a branch, tag or commit"
    elif isinstance(error, errors.LocalEntryNotFoundError):
        is_offline = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if is_offline else f"{constants.ENDPOINT} cannot be reached"
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        what = "only partly" if isinstance(cached, str) else "not"
        problem = (
            f"{name}{at} is {what} in the cache {constants.HF_HUB_CACHE}, and {why}; download "
            "it where there is a network (what is there is kept), or give a local folder"
        )
    else:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        problem = (
            f"{name}{at} cannot be downloaded from {constants.ENDPOINT}: {reason}; try again (what "
            "has been downloaded is kept)"
        )
    raise CheckpointError(problem) from error
