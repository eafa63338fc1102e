"""Damaged front and run folders: each loads with what is intact named, or raises a `ParetoAlignError`.

There are well over a thousand of them, and four times as many with PARETO_ALIGN_ALL_TESTS set.

The folder that is damaged is the committed fixture of format 1, written again by this release, so that it carries a
checksum. Two kinds of damage are told apart:

- *Accidents* (bits, cuts, holes, files that went missing or were mixed up) do not know the format. What loads after one
  must be exactly what was written: a member is whole or it is left out and named.
- *Forgeries* change what front.json or the journal says and take away the checksum. What loads after one must be what
  the file says, and everything a front is asked must work on it or raise a `ParetoAlignError`.

The examples are drawn without chance, so a failure in one place is a failure everywhere.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amount import ALL
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pareto_align.errors import ParetoAlignError, ParetoAlignWarning
from pareto_align.front.reading import content_digest
from pareto_align.front.storage import read_front, write_front
from pareto_align.report.history_plot import history_info
from pareto_align.report.weights_plot import weights_info
from pareto_align.result import ParetoFront

FIXTURE = Path(__file__).parents[1] / "fixtures" / "front-v1"
FRONT = "front/front.json"
JOURNAL = "journal.jsonl"


def examples(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count if ALL else count // 4,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


class Run:
    """One run folder that is damaged, looked at and mended again and again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        record, problems = read_front(FIXTURE)
        assert problems == []
        adapters = {member.id: FIXTURE / "front" / member.adapter for member in record.members}
        write_front(
            root / "front", record, lambda id, to: shutil.copytree(adapters[id], to, dirs_exist_ok=True) and None
        )
        for name in ("run.json", JOURNAL):
            shutil.copyfile(FIXTURE / name, root / name)
        self.files = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        self.names = sorted(self.files)
        self.front = ParetoFront.load(root)
        assert self.front.problems == []
        assert len(self.front) == 4
        self.content = json.loads(self.files[FRONT])

    def write(self, name: str, content: bytes) -> None:
        (self.root / name).write_bytes(content)

    def mend(self, *names: str) -> None:
        """Bring files back to what they were; without names, the whole folder."""
        if not names:
            shutil.rmtree(self.root)
            for folder in {(self.root / name).parent for name in self.names}:
                folder.mkdir(parents=True, exist_ok=True)
        for name in names or self.names:
            self.write(name, self.files[name])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("fuzz") / "run")


def load(root: Path, *, verify: bool = True) -> ParetoFront | None:
    """The front, or None where it was refused as it should be. Whatever is left out is warned about, and only that."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            front = ParetoFront.load(root, verify=verify)
        except ParetoAlignError:
            return None
    said = [str(w.message) for w in caught if issubclass(w.category, ParetoAlignWarning)]
    assert said == front.problems
    return front


def assert_nothing_wrong(front: ParetoFront | None, run: Run) -> None:
    """What loaded after an accident is what was written, and what is missing is named."""
    if front is None:
        return
    intact = run.front
    assert front.record.objectives == intact.record.objectives
    for key in ("base", "split", "reference", "fallen", "cost", "config", "created"):
        assert getattr(front.record, key) == getattr(intact.record, key)
    for name in ("mean", "covariance", "samples"):
        np.testing.assert_array_equal(
            getattr(front.record.reference_policy, name), getattr(intact.record.reference_policy, name)
        )
    left = [member.id for member in front]
    for member in intact:
        if member.id not in left:
            assert sum(repr(member.id) in problem for problem in front.problems) == 1
            continue
        found = front[member.id]
        np.testing.assert_array_equal(found.values, member.values)
        np.testing.assert_array_equal(found.stderr, member.stderr)
        np.testing.assert_array_equal(found.preference, member.preference)
        assert (found.provenance, found.samples) == (member.provenance, member.samples)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            expected = run.files[f"front/members/{member.adapter_path.name}/{name}"]
            assert (found.adapter_path / name).read_bytes() == expected
    assert left == [member.id for member in intact if member.id in left]


def attempt(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except ParetoAlignError:
        return None


def use(front: ParetoFront) -> None:
    """Ask a front whatever needs no base model; a `ParetoAlignError` is an answer, anything else is not."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        attempt(front.card)
        attempt(front._repr_html_)
        for rule in ("linear", "chebyshev", "knee"):
            attempt(lambda rule=rule: repr(front.select(rule=rule)))
        for member in front:
            json.dumps(member.to_dict())
            repr(member)
        look_at_history(front)


def look_at_history(front: ParetoFront) -> None:
    with np.errstate(all="ignore"):
        attempt(lambda: history_info(front.record, front.history))
        attempt(lambda: weights_info(front.record, front.history))


# ---- accidents -------------------------------------------------------------------------------------------------------


def flip(content: bytes, r: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(r.choice((1, 1, 1, 2, 8, 64))):
        damaged[r.randrange(len(damaged))] ^= 1 << r.randrange(8)
    return bytes(damaged)


def cut(content: bytes, r: random.Random) -> bytes:
    return content[: r.randrange(len(content))]


def hole(content: bytes, r: random.Random) -> bytes:
    start = r.randrange(len(content))
    return content[:start] + content[start + r.choice((1, 2, 16, 512)) :]


def repeat(content: bytes, r: random.Random) -> bytes:
    start = r.randrange(len(content))
    end = start + r.choice((1, 2, 16, 512))
    return content[:end] + content[start:]


def zeros(content: bytes, r: random.Random) -> bytes:
    start, length = r.randrange(len(content)), r.choice((1, 16, 512))
    return content[:start] + bytes(length) + content[start + length :]


def noise(content: bytes, r: random.Random) -> bytes:
    start, length = r.randrange(len(content)), r.choice((1, 4, 64))
    return content[:start] + r.randbytes(length) + content[start + r.choice((0, length)) :]


def shuffle(content: bytes, r: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    i, j = r.randrange(len(lines)), r.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return b"".join(lines)


def another_number(content: bytes, r: random.Random) -> bytes:
    places = [k for k, byte in enumerate(content) if 48 <= byte <= 57]
    k = r.choice(places) if places else 0
    return content[:k] + r.choice(b"0123456789").to_bytes() + content[k + 1 :]


ACCIDENTS = (flip, cut, hole, repeat, zeros, noise, shuffle, another_number)


@examples(2600)
@given(
    st.sampled_from(ACCIDENTS),
    st.sampled_from((FRONT, FRONT, FRONT, "run.json", "config", "weights")),
    st.integers(0, 2**32),
)
def test_accidents_to_one_file_never_change_a_value(run: Run, accident: Any, where: str, seed: int) -> None:
    r = random.Random(seed)
    kinds = {"config": "adapter_config.json", "weights": "adapter_model.safetensors"}
    name = r.choice([n for n in run.names if n.endswith(kinds.get(where, where))])
    damaged = accident(run.files[name], r)
    run.write(name, damaged)
    try:
        front = load(run.root)
        assert_nothing_wrong(front, run)
        if where in kinds and damaged != run.files[name]:
            assert front is not None
            assert len(front.problems) == 1
        if where == "run.json":  # a front says all that is needed to use it
            assert front is not None
            assert len(front) == 4
    finally:
        run.mend(name)


@examples(500)
@given(st.sampled_from(ACCIDENTS), st.integers(0, 2**32))
def test_accidents_to_the_journal_leave_the_front_and_the_other_lines(run: Run, accident: Any, seed: int) -> None:
    before = run.files[JOURNAL]
    damaged = accident(before, random.Random(seed))
    run.write(JOURNAL, damaged)
    try:
        front = load(run.root)
        assert front is not None
        assert_nothing_wrong(front, run)
        look_at_history(front)
        *lines, _torn = damaged.split(b"\n")
        known = set(before.splitlines())
        for line in lines:
            assert line not in known or json.loads(line) in front.history
        assert len(front.problems) == (len(front.history) < len(lines))
    finally:
        run.mend(JOURNAL)


def is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def lose(path: Path, r: random.Random, run: Run) -> None:
    path.unlink()


def lose_folder(path: Path, r: random.Random, run: Run) -> None:
    if path.parent != run.root:
        shutil.rmtree(path.parent)


def become_folder(path: Path, r: random.Random, run: Run) -> None:
    path.unlink()
    path.mkdir()


def become_pipe(path: Path, r: random.Random, run: Run) -> None:
    path.unlink()
    os.mkfifo(path)


def become_link(path: Path, r: random.Random, run: Run) -> None:
    path.unlink()
    other = run.root / r.choice(run.names)
    path.symlink_to(r.choice([path, other, Path("/etc/hostname"), Path("/dev/zero"), Path("nowhere"), Path("../..")]))


def be_mixed_up(path: Path, r: random.Random, run: Run) -> None:
    other = run.root / r.choice(run.names)
    if not is_plain(other):
        return
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def be_emptied(path: Path, r: random.Random, run: Run) -> None:
    path.write_bytes(b"")


def be_joined(path: Path, r: random.Random, run: Run) -> None:
    """Something else turns up beside it."""
    name = r.choice(["adapter_model.bin", ".DS_Store", "adapter_model.safetensors.tmp", "front.json.orig", "x" * 200])
    (path.parent / name).write_bytes(r.randbytes(8))


def be_renamed(path: Path, r: random.Random, run: Run) -> None:
    path.rename(path.with_name(r.choice([path.name.upper(), path.name + "~", "front.json", "adapter_config.json"])))


MISHAPS = (
    lose, lose_folder, become_folder, become_pipe, become_link, be_mixed_up, be_emptied, be_joined, be_renamed,
)  # fmt: skip


@examples(600)
@given(st.lists(st.sampled_from(MISHAPS), min_size=1, max_size=3), st.integers(0, 2**32))
def test_files_that_go_missing_or_turn_into_something_else(run: Run, mishaps: list[Any], seed: int) -> None:
    r = random.Random(seed)
    try:
        for mishap in mishaps:
            path = run.root / r.choice(run.names)
            if is_plain(path):
                mishap(path, r, run)
        assert_nothing_wrong(load(run.root), run)
        attempt(lambda: load(run.root / "front"))
    finally:
        run.mend()


# ---- forgeries -------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    *(None, True, False, [], {}, "", " ", "0.5", "NaN", "a", "\x00", "\ud800", "x" * 5000, "é\u202e", "$x_{"),
    *(0, 1, -1, 2, 1 << 31, 1 << 53, 1 << 63, -(1 << 63), 1 << 65, 10**400),
    *(0.5, -0.0, 1e-320, 1e29, -1e29, 1e30, 1e31, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *("/etc/passwd", "../..", ".", "members", "members/../members/m0000", "members/m0001", "C:\\x"),
    *("members/m0000/adapter_config.json", "</table><script>alert(1)</script>", "{}"),
    *([None], [[]], [0.5, 0.5], [1, 0], [0.1] * 3, [[1.0] * 3] * 3, [[0.0] * 3] * 3, [0.0] * 2000, ["a"], [[[[[1]]]]]),
    *({"a": 1}, {"role": "user"}),
]


NUMBERS = [0, 1, -1, 2, 0.5, 1e-320, 1e-9, 1e29, -1e29, 1e31, 1e154, 1e308, -1e308, 1 << 63, None]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value: every key and index, from the top."""
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*path, key))
    return found


def some_place(value: Any, r: random.Random) -> tuple[Any, ...]:
    """A place found by walking down from the top, so that a long list of samples counts no more than a name."""
    path: tuple[Any, ...] = ()
    while isinstance(value, dict | list) and value and (not path or r.random() < 0.8):
        key = r.choice(list(value)) if isinstance(value, dict) else r.randrange(len(value))
        path, value = (*path, key), value[key]
    return path


def parent_of(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        content = content[key]
    return content


def forge(content: Any, r: random.Random) -> Any:
    """Change one thing that a JSON value says."""
    content = copy.deepcopy(content)
    path = some_place(content, r)
    if not path:
        return content
    holder, key = parent_of(content, path), path[-1]
    what = r.randrange(11)
    if what <= 2:
        holder[key] = copy.deepcopy(r.choice(VALUES))
    elif what <= 4 or what >= 9:  # a number for a number, for this alone gets past the types
        numbers = [p for p in places(content) if type(parent_of(content, p)[p[-1]]) in (int, float)]
        if numbers:
            path = r.choice(numbers)
            parent_of(content, path)[path[-1]] = r.choice(NUMBERS)
    elif what == 5:
        del holder[key]
    elif what == 6:
        if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[r.choice(["extra", "../x", "adapter_model.bin", "", "\ud800"])] = copy.deepcopy(holder[key])
    elif what == 7:
        holder[key] = [holder[key]] if r.random() < 0.5 else str(holder[key])
    else:
        other = some_place(content, r)
        holder[key] = copy.deepcopy(parent_of(content, other)[other[-1]])
    return content


def written(content: Any, r: random.Random) -> bytes:
    """JSON with the literals that Python adds to it, and now and then nested without end."""
    text = json.dumps(content)
    if r.random() < 0.02:
        text = text.replace("null", "[" * 5000 + "]" * 5000, 1)
    return text.encode()


@examples(1600)
@given(st.integers(1, 2), st.sampled_from(["kept", "dropped", "dropped", "dropped", "renewed"]), st.integers(0, 2**32))
def test_forged_fronts_load_as_what_they_say_or_not_at_all(run: Run, changes: int, checksum: str, seed: int) -> None:
    r = random.Random(seed)
    content = {key: value for key, value in run.content.items() if key != "sha256"}
    for _ in range(changes):
        content = forge(content, r)
    changed = json.dumps(content) != json.dumps({k: v for k, v in run.content.items() if k != "sha256"})
    if checksum == "kept":
        content["sha256"] = run.content["sha256"]
    elif checksum == "renewed":
        try:
            content["sha256"] = content_digest(content)
        except ValueError:  # NaN
            content["sha256"] = "0" * 64
    run.write(FRONT, written(content, r))
    try:
        front = load(run.root)
        if front is None:
            return
        assert checksum != "kept" or not changed
        said = {member["id"]: member for member in content["members"]}
        assert len(front.problems) == len(said) - len(front)
        for member in front:
            mean = [np.nan if v is None else v for v in said[member.id]["estimate"]["mean"]]
            np.testing.assert_array_equal(member.values, np.array(mean, dtype=float))
            assert member.adapter_path.resolve().parent == (run.root / "front" / "members").resolve()
        assert list(front.names) == [objective["name"] for objective in content["objectives"]]
        use(front)
    finally:
        run.mend(FRONT)


@examples(500)
@given(st.integers(1, 4), st.integers(0, 2**32))
def test_forged_journals_never_keep_a_front_from_loading(run: Run, changes: int, seed: int) -> None:
    r = random.Random(seed)
    events = [json.loads(line) for line in run.files[JOURNAL].splitlines()]
    for _ in range(changes):
        events = forge(events, r)
    run.write(JOURNAL, b"".join(written(event, r) + b"\n" for event in events))
    try:
        front = load(run.root)
        assert front is not None
        assert_nothing_wrong(front, run)
        assert len(front.history) == len(events) or len(front.problems) == 1
        look_at_history(front)
    finally:
        run.mend(JOURNAL)
