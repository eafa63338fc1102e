"""The Hugging Face Hub: the header of a model card in its words, a front put there, and one fetched from there.

A front is one repository, its front folder as it is on disk, with a member in each folder of `members/`: stock PEFT
loads one by `subfolder=`. Only files that a front may have are sent or fetched; nothing of either is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pareto_align.distributions import hub_id
from pareto_align.errors import ConfigError, FrontFileError
from pareto_align.report.units import axes_of, measured, shown_record

if TYPE_CHECKING:
    from pareto_align.front.storage import FrontRecord

__all__ = ["card_header", "check_repo", "fetch_front", "send_folder"]

FILES = (
    "front.json", "README.md", "journal.jsonl", "members/*/*.safetensors", "members/*/*.json", "members/*/README.md",
    "family/*/*.safetensors", "family/*/*.json",
)  # fmt: skip
"""What a front folder holds; anything else in a repository stays there."""

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def card_header(
    record: FrontRecord, *, merged: bool = False, results: str = "", license: str | None = None,
    datasets: list[str] | None = None,
) -> str:  # fmt: skip
    """The YAML header of a card, with its lines of dashes.

    Args:
        record: The front.
        merged: Whether the card is that of a whole model, into which an adapter was merged.
        results: The model's name under which the members' means are given as evaluation results, one for each member
            and objective; "" leaves them out.
        license: A license, as the Hub calls it.
        datasets: Data sets on the Hub that it was trained on.
    """
    from huggingface_hub import ModelCardData

    base = hub_id(record.base.get("name"))
    more: dict[str, Any] = {"eval_results": _results(record), "model_name": results} if results else {}
    if base:
        more["base_model"] = base
        more["base_model_relation"] = "merge" if merged else "adapter"
    data = ModelCardData(
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        license=license,
        datasets=datasets,
        tags=["pareto-align", "merge" if merged else "lora", "multi-objective", "reinforcement-learning"],
        **more,
    )
    return f"---\n{data.to_yaml()}\n---"


def _results(record: FrontRecord) -> list[Any]:
    """One `EvalResult` for each member and objective, in the user's units; without those that were not measured."""
    from huggingface_hub import EvalResult

    record = shown_record(record)
    axes, table = axes_of(record), measured(record)
    found = []
    for row, member in enumerate(table.ids):
        for j, axis in enumerate(axes):
            value, ends = table.values[row, j], (table.low[row, j], table.high[row, j])
            if not np.isfinite(value):
                continue
            told: dict[str, Any] = {"n": table.n[row], "direction": "more" if axis.maximize else "less"}
            told |= {"interval_95": [float(end) for end in ends]} if np.isfinite(ends).all() else {}
            found.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type="held-out-prompts",
                    dataset_name="held-out prompts of the run",
                    dataset_split=record.split,
                    metric_type=axis.name,
                    metric_name=f"{axis.name} of {member}",
                    metric_value=float(value),
                    metric_config=member,
                    metric_args=told,
                )
            )
    return found


def check_repo(repo: object) -> str:
    """A repository's name.

    Raises:
        ConfigError: It can be none.
    """
    if not isinstance(repo, str) or not _REPO.fullmatch(repo):
        raise ConfigError(f"`repo` must be a repository on the Hub, owner/name. Found {repo!r:.80}.")
    return repo


@contextmanager
def _told(what: str, repo: str) -> Iterator[None]:
    """What the Hub, or the way there, refuses is said in one sentence."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
    )

    # a name that is not found, a line that is down: not the library's own error, but of the HTTP client that it uses
    client = [kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"]
    refused: tuple[type[BaseException], ...] = (HfHubHTTPError, LocalEntryNotFoundError, OSError, *client)
    try:
        yield
    except (HFValidationError, LocalTokenNotFoundError) as error:
        raise ConfigError(f"Cannot {what} {repo!r}: {error}") from error
    except refused as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise FrontFileError(f"Cannot {what} {repo!r}: {lines[0]}") from error


def send_folder(
    folder: Path, repo: str, *, private: bool | None = None, token: str | None = None, revision: str | None = None,
    message: str | None = None, create_pr: bool = False,
) -> str:  # fmt: skip
    """Put a front folder into a repository, which is made if need be; members that are there and not here are removed.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ConfigError: The name is none, or there is no token.
        FrontFileError: The Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    with _told("push to", repo):
        api = HfApi(token=token, library_name="pareto-align")
        made = api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            allow_patterns=list(FILES),
            delete_patterns=["members/*", "family/*"],
            revision=revision,
            commit_message=message or "A Pareto front of LoRA adapters",
            create_pr=create_pr,
        )
    return str(done.pr_url or done.commit_url)


def fetch_front(
    repo: str, into: Path, *, revision: str | None = None, token: str | None = None, keep: Path | None = None
) -> Path:
    """Fetch the front of a repository.

    Args:
        repo: Its name.
        into: Where fetched fronts are kept, one folder a commit.
        revision: A branch, tag or commit; by default the main branch.
        token: For a private one; by default the one that the machine is logged in with.
        keep: A new or empty folder for the front, instead of one in `into`.

    Returns:
        The front folder.

    Raises:
        ConfigError: The name is none, or there is no token.
        FrontFileError: There is no such repository, no front in it, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    with _told("fetch the front of", repo):
        api = HfApi(token=token, library_name="pareto-align")
        found = api.repo_info(repo, revision=revision)
        names = {file.rfilename for file in getattr(found, "siblings", None) or []}
        if "front.json" not in names:
            raise FrontFileError(f"The repository {repo!r} has no front.json, so no front was pushed to it.")
        target = keep or into / f"{repo.replace('/', '--')}@{str(found.sha)[:12]}"
        # real files, and not links into a cache: a front with a path that leaves its folder is refused
        api.snapshot_download(repo, revision=found.sha, local_dir=target, allow_patterns=list(FILES))
    return target
