"""A front folder that cannot be written, or whose writer is killed in the middle: the front before it still loads."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from pareto_align.errors import FrontFileError, ParetoAlignError
from pareto_align.front import Estimate, FrontRecord, MemberRecord, ObjectiveRecord, read_front, write_front


def front(*ids: str, step: int = 0) -> FrontRecord:
    objectives = [ObjectiveRecord(name, "optimize", True, 0.0, 1.0) for name in ("tone", "brevity")]
    members = [
        MemberRecord(id, Estimate(np.array([0.5, 0.1 * k]), np.eye(2) / 100, 8), provenance={"step": step})
        for k, id in enumerate(ids)
    ]
    return FrontRecord(objectives, members, reference=[0.0, 0.0], config={"seed": 0})


class Adapter:
    """Writes adapters that say which writer they are from."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __call__(self, id: str, folder: Path) -> None:
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1}))
        (folder / "adapter_model.safetensors").write_bytes(
            (2).to_bytes(8, "little") + b"{}" + f"{id} {self.mark}".encode()
        )


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def marks(root: Path) -> dict[str, str]:
    """Whose adapter each member of a front has; nothing may be missing."""
    record, problems = read_front(root)
    assert problems == []
    found = {m.id: (root / m.adapter / "adapter_model.safetensors").read_bytes()[10:].decode() for m in record.members}
    assert {text.split()[0] for text in found.values()} == set(found)
    return {id: text.split()[1] for id, text in found.items()}


class Refusing:
    """The disk says no to one call, or to that one and all after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, k: int, code: int, *, ever_after: bool) -> None:
        self.refused = 0
        original, count = getattr(os, call), [0]

        def wrapped(*args, **kwargs):
            count[0] += 1
            if count[0] > k if ever_after else count[0] == k + 1:
                self.refused += 1
                raise OSError(code, os.strerror(code), str(args[0]))
            return original(*args, **kwargs)

        monkeypatch.setattr(os, call, wrapped)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["fsync", "replace", "rename", "mkdir"])
@pytest.mark.parametrize("ever_after", [True, False], ids=["and stays", "once"])
def test_wherever_the_disk_refuses_the_front_before_it_loads(tmp_path, monkeypatch, call, code, ever_after):
    template = tmp_path / "template"
    write_front(template, front("a", "b"), Adapter("old"))
    before = tree(template)
    places = 0
    for k in range(100):
        root = tmp_path / str(k)
        shutil.copytree(template, root)
        with monkeypatch.context() as patch:
            refusing = Refusing(patch, call, k, code, ever_after=ever_after)
            raised = True
            with contextlib.suppress(FrontFileError):
                write_front(root, front("b", "a", step=1), Adapter("new"))
                raised = False
        if not refusing.refused:
            break
        places += 1
        found = marks(root)
        if raised and list(found) == ["a", "b"]:
            assert found == {"a": "old", "b": "old"}
            assert tree(root) == before  # what was half written is gone, so a full disk has its space back
        else:  # the last sync was refused, when the new front was in place; or it was a folder that is there already
            assert found == {"b": "new", "a": "new"}
            assert call == ("fsync" if raised else "mkdir")
        write_front(root, front("b", "a", step=1), Adapter("new"))  # and with space again it goes on
        assert marks(root) == {"b": "new", "a": "new"}
        assert len(list((root / "members").iterdir())) == 2
    assert places > (1 if call in ("fsync", "rename", "mkdir") else 0)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_an_adapter_that_does_not_fit_on_the_disk_is_taken_back(tmp_path, code):
    write_front(tmp_path, front("a"), Adapter("old"))
    before = tree(tmp_path)

    def full(id: str, folder: Path) -> None:
        Adapter("new")(id, folder)
        if id == "c":
            (folder / "adapter_model.safetensors").write_bytes(b"half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(FrontFileError, match=r"Cannot write the front folder .* What was there before still loads"):
        write_front(tmp_path, front("a", "b", "c"), full)
    assert tree(tmp_path) == before


def test_front_json_that_does_not_fit_on_the_disk_leaves_the_one_before(tmp_path, monkeypatch):
    write_front(tmp_path, front("a"), Adapter("old"))
    before = tree(tmp_path)
    real = open

    class Full:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.stream.close()

        def write(self, text):
            self.stream.write(text[: len(text) // 2])
            self.stream.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def limited(path, mode="r", *args, **kwargs):
        stream = real(path, mode, *args, **kwargs)
        return Full(stream) if "w" in mode and str(path).endswith("front.json") else stream

    monkeypatch.setattr("builtins.open", limited)
    with pytest.raises(FrontFileError, match="No space left"):
        write_front(tmp_path, front("a", "b"), Adapter("new"))
    monkeypatch.undo()
    assert tree(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_is_refused_and_stays(tmp_path):
    write_front(tmp_path / "front", front("a"), Adapter("old"))
    before = tree(tmp_path)
    for folder in (tmp_path / "front" / "members", tmp_path / "front"):
        folder.chmod(0o500)
    try:
        with pytest.raises(FrontFileError, match="Permission denied"):
            write_front(tmp_path / "front", front("a", "b"), Adapter("new"))
    finally:
        for folder in (tmp_path / "front", tmp_path / "front" / "members"):
            folder.chmod(0o700)
    assert tree(tmp_path) == before


def test_a_place_where_nothing_can_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ParetoAlignError, match="Cannot write the front folder"):
        write_front(tmp_path / "file" / "front", front("a"), Adapter("new"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_before_any_sync_or_rename_a_front_loads(tmp_path):
    """A real SIGKILL before each call that makes something last; forked, so that nothing has to be imported again."""
    template = tmp_path / "template"
    write_front(template, front("a", "b"), Adapter("old"))
    outcomes = []
    for k in range(200):
        root = tmp_path / str(k)
        shutil.copytree(template, root)
        child = os.fork()
        if child == 0:
            try:
                kill_at(k)
                write_front(root, front("b", "a", step=1), Adapter("new"))
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        found = marks(root)
        assert found in ({"a": "old", "b": "old"}, {"b": "new", "a": "new"})
        outcomes.append(found["a"])
        write_front(root, front("b", "a", step=1), Adapter("new"))
        assert marks(root) == {"b": "new", "a": "new"}
        assert len(list((root / "members").iterdir())) == 2
        assert sorted(p.name for p in root.iterdir()) == ["front.json", "members"]
        if not os.WIFSIGNALED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert os.waitstatus_to_exitcode(status) == 0
    assert outcomes == sorted(outcomes, reverse=True)  # old until the one moment at which it is new
    assert len(outcomes) > 15


def kill_at(k: int) -> None:
    """Make the k-th call of these the last thing this process does."""
    left = [k]

    def wrap(name: str) -> None:
        original = getattr(os, name)

        def wrapped(*args, **kwargs):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return original(*args, **kwargs)

        setattr(os, name, wrapped)

    for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir"):
        wrap(name)
