"""The state of a run on disk: written beside the old one, renamed when whole, the old one removed after it.

    <run>/checkpoint/state-<n>/state.json           numbers, names, text
    <run>/checkpoint/state-<n>/tensors.safetensors  policies, optimizer, weighting
    <run>/checkpoint/adapters/<sha256>.safetensors  archived adapters; written once, named for what is in them

A process killed anywhere leaves at least one whole state, and the newest whole one is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pareto_align.errors import FrontFileError
from pareto_align.front.files import sync, write_synced, write_whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "CheckpointWriter", "has_checkpoint", "read_checkpoint", "remove_checkpoint"]

SCHEMA_VERSION = 1
_STATE = re.compile(r"state-(\d{6,12})")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What `CheckpointWriter` took down.

    Attributes:
        record: In JSON's own types.
        tensors: By name, on the CPU.
        adapters: Archived adapters `[P]` by entry id, on the CPU.
    """

    record: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    adapters: Mapping[str, Tensor]


class CheckpointWriter:
    """Takes down the states of one run, each whole before the one before it goes.

    Hashing and writing cost seconds where adapters are large, so a thread does them while the run goes on. Leaving the
    context waits for it. An archived adapter never changes, so each is saved and hashed once.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._digests: dict[str, tuple[Tensor, str]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._underway: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:  # else what stopped the run is to be seen, not what stopped its checkpoint
            self.finish()

    def write(self, checkpoint: Checkpoint) -> None:
        """Take down a state as it is now; the state before stays until this one is whole.

        Raises:
            FrontFileError: As `finish`, of the state before.
        """
        self.finish()
        # the run goes on to change what the state is made of, except for archived adapters
        state, tensors = json.dumps(checkpoint.record), _serialized(checkpoint.tensors)
        adapters = dict(checkpoint.adapters)
        self._underway = self._thread.submit(self._write, self.run / "checkpoint", state, tensors, adapters)

    def finish(self) -> None:
        """Wait until the last state is whole.

        Raises:
            FrontFileError: The disk is full, or the folder cannot be written.
        """
        underway, self._underway = self._underway, None
        try:
            if underway is not None:
                underway.result()
        except OSError as error:
            raise FrontFileError(
                f"The checkpoint in {self.run} cannot be written: {error}. The one before is intact."
            ) from error

    def _write(self, root: Path, state: str, tensors: bytes, adapters: Mapping[str, Tensor]) -> None:
        (root / "adapters").mkdir(parents=True, exist_ok=True)
        for left in root.glob("*.new"):  # what a kill left half written
            shutil.rmtree(left, ignore_errors=True)
        digests = self._write_adapters(root / "adapters", adapters)
        rest = {"tensors": hashlib.sha256(tensors).hexdigest(), "adapters": digests}
        text = f'{{"state": {state}, {json.dumps(rest)[1:]}'  # JSON's NaN comes back as NaN
        sealed = {"schema_version": SCHEMA_VERSION, "sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
        states = _states(root)
        folder = root / f"state-{1 + max(states, default=0):06d}"
        new = folder.with_suffix(".new")
        new.mkdir()
        write_synced(new / "tensors.safetensors", tensors)
        write_synced(new / "state.json", json.dumps(sealed).encode())
        sync(root / "adapters")
        new.rename(folder)
        sync(root)
        for old in states.values():
            shutil.rmtree(old, ignore_errors=True)
        needed = {f"{digest}.safetensors" for digest in digests.values()}
        for path in (root / "adapters").iterdir():
            if path.name not in needed:
                path.unlink()

    def _write_adapters(self, folder: Path, adapters: Mapping[str, Tensor]) -> dict[str, str]:
        """Write the adapters that are not there yet; returns the SHA-256 of each, which is its file's name."""
        known: dict[str, tuple[Tensor, str]] = {}
        for name, adapter in adapters.items():
            held, digest = self._digests.get(name, (None, ""))
            if held is not adapter or not (folder / f"{digest}.safetensors").exists():
                data = _serialized({"adapter": adapter})
                digest = hashlib.sha256(data).hexdigest()
                if not (path := folder / f"{digest}.safetensors").exists():
                    write_whole(path, data)
            known[name] = adapter, digest
        self._digests = known  # what the archive gave up is forgotten here too
        return {name: digest for name, (_, digest) in known.items()}


def _serialized(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def has_checkpoint(run: Path) -> bool:
    """Whether a run can be continued."""
    return bool(_states(run / "checkpoint"))


def read_checkpoint(run: Path) -> Checkpoint:
    """The newest whole state of a run.

    Raises:
        FrontFileError: There is none; it says what is wrong with the newest.
    """
    root = run / "checkpoint"
    states = _states(root)
    if not states:
        raise FrontFileError(f"{run} holds no checkpoint to resume from.")
    newest: FrontFileError | None = None
    for number in sorted(states, reverse=True):
        try:
            return _read(root, states[number])
        except FrontFileError as error:
            newest = newest or error
    assert newest is not None
    raise newest


def remove_checkpoint(run: Path) -> None:
    """Remove the state of a run that has ended; of a folder that holds no run, nothing."""
    if (run / "run.json").is_file():
        shutil.rmtree(run / "checkpoint", ignore_errors=True)


def _read(root: Path, folder: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        sealed = json.loads((folder / "state.json").read_bytes())
        if sealed["schema_version"] != SCHEMA_VERSION:
            raise FrontFileError(
                f"{folder} has checkpoint version {sealed['schema_version']!r}; this release reads {SCHEMA_VERSION}."
            )
        text = sealed["text"]
        if hashlib.sha256(text.encode()).hexdigest() != sealed["sha256"]:
            raise FrontFileError(f"{folder / 'state.json'} was altered: its checksum does not hold.")
        record = json.loads(text)
        tensors = load(_checked(folder / "tensors.safetensors", record["tensors"]))
        adapters = {
            name: load(_checked(root / "adapters" / f"{digest}.safetensors", digest))["adapter"]
            for name, digest in record["adapters"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise FrontFileError(f"The checkpoint {folder} cannot be read: {type(error).__name__}: {error}") from error
    return Checkpoint(record["state"], tensors, adapters)


def _checked(path: Path, digest: str) -> bytes:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise FrontFileError(f"{path} was altered or cut off: its checksum does not hold.")
    return data


def _states(root: Path) -> dict[int, Path]:
    """Whole states by number: a folder gets this name only when everything in it is on disk."""
    if not root.is_dir():
        return {}
    found = ((_STATE.fullmatch(path.name), path) for path in root.iterdir())
    return {int(match[1]): path for match, path in found if match}
