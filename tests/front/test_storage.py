from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pareto_align.errors import FrontFileError, ParetoAlignWarning
from pareto_align.front import Estimate, FrontRecord, MemberRecord, ObjectiveRecord, read_front, reading, write_front


def estimate(*mean: float, seed: int = 0) -> Estimate:
    samples = np.array(mean) + np.random.default_rng(seed).normal(size=(6, len(mean))) / 3
    samples[2, 0] = np.nan
    return Estimate.from_samples(samples, range(6))


def record(*ids: str, **changes) -> FrontRecord:
    """A front of accuracy (maximised) and length (minimised, so negative inside)."""
    objectives = [
        ObjectiveRecord("accuracy", "optimize", True, 0.0, 1.0, (0.0, 1.0)),
        ObjectiveRecord("length", "constrain", False, -300.0, 0.0, None, None, 200.0, "tokens"),
    ]
    members = [
        MemberRecord(id, estimate(0.5, -120.0, seed=k), [1.0], {"step": k, "seeds": (1, 2)}, sample=[{"prompt": "é"}])
        for k, id in enumerate(ids)
    ]
    settings = {
        "base": {"name": "tiny", "dtype": "float32"},
        "reference": [0.0],
        "reference_policy": estimate(0.1, -200.0),
        "fallen": [{"id": "gone", "values": [0.2, float("nan")]}],
        "cost": {"tokens": np.int64(12)},
        "config": {"seed": 0, "path": Path("runs")},
        "created": "2026-01-01T00:00:00Z",
    }
    return FrontRecord(objectives, members, **{**settings, **changes})


class Writer:
    """Writes a recognisable adapter and remembers what it was asked for."""

    def __init__(self, salt: str = "") -> None:
        self.salt, self.calls = salt, []

    def __call__(self, id: str, folder: Path) -> None:
        self.calls.append(id)
        (folder / "adapter_config.json").write_text("{}")
        header = (2).to_bytes(8, "little") + b"{}"
        (folder / "adapter_model.safetensors").write_bytes(header + f"{id}{self.salt}".encode() * 100)
        (folder / "sub").mkdir()
        (folder / "sub" / "notes.txt").write_text(id)


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def assert_same(a: Estimate, b: Estimate) -> None:
    for name in ("mean", "covariance", "samples"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.n, a.prompt_ids) == (b.n, b.prompt_ids)


def test_a_front_that_is_published_while_it_is_read_is_read_again(tmp_path, monkeypatch) -> None:
    """The folders that the old front.json names are gone by then."""
    root = tmp_path / "front"
    write_front(root, record("a", "b"), Writer())
    whole, calls = reading.member_damage, []

    def meanwhile(*args, **kw):
        calls.append(None)
        if len(calls) == 1:
            write_front(root, record("c", "d"), Writer("new"))
        return whole(*args, **kw)

    monkeypatch.setattr(reading, "member_damage", meanwhile)
    found, problems = read_front(root)
    assert [member.id for member in found.members] == ["c", "d"]
    assert problems == []


def test_round_trip(tmp_path: Path) -> None:
    original = record("a", "b")
    written = write_front(tmp_path / "front", original, Writer())
    assert original.members[0].adapter == ""  # the input is not changed
    for path in (tmp_path / "front", tmp_path, tmp_path / "front" / "front.json", str(tmp_path)):
        back, problems = read_front(path)
        assert problems == []
        assert back.objectives == original.objectives
        assert [m.adapter for m in back.members] == [m.adapter for m in written.members] == ["members/a", "members/b"]
        assert_same(back.reference_policy, original.reference_policy)
        for new, old in zip(back.members, original.members, strict=True):
            assert_same(new.estimate, old.estimate)
            assert (new.id, new.preference, new.sample) == (old.id, old.preference, old.sample)
            assert new.provenance == {"step": old.provenance["step"], "seeds": [1, 2]}
            assert set(new.files) == {"adapter_config.json", "adapter_model.safetensors", "sub/notes.txt"}
        assert back.fallen == [{"id": "gone", "values": [0.2, None]}]
        assert (back.cost, back.config) == ({"tokens": 12}, {"seed": 0, "path": "runs"})
        assert (back.base, back.split, back.reference) == (original.base, "select", [0.0])
        assert (back.created, back.schema_version) == (original.created, 1)


def test_front_json_is_strict_json_in_the_users_units(tmp_path: Path) -> None:
    write_front(tmp_path, record("a"), Writer())

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    data = json.loads((tmp_path / "front.json").read_text(encoding="utf-8"), parse_constant=refuse)
    length = data["objectives"][1]
    assert (length["worst"], length["best"], length["at_most"]) == (300.0, 0.0, 200.0)
    assert "lower" not in length
    assert data["members"][0]["estimate"]["mean"][1] == pytest.approx(120, abs=1)
    assert data["reference_policy"]["mean"][1] == pytest.approx(200, abs=1)
    covariance = np.array(data["members"][0]["estimate"]["covariance"])
    inside = record("a").members[0].estimate.covariance
    np.testing.assert_array_equal(covariance, inside * [[1, -1], [-1, 1]])


def test_intact_adapters_are_left_alone_and_unused_ones_removed(tmp_path: Path) -> None:
    write_front(tmp_path, record("a", "b"), Writer())
    before = (tmp_path / "members" / "a" / "adapter_config.json").stat()
    writer = Writer("!")
    update = record("a", "c")
    update.members[0].estimate = estimate(0.9, -50.0)  # measured again: the same adapter
    written = write_front(tmp_path, update, writer)
    assert writer.calls == ["c"]
    after = (tmp_path / "members" / "a" / "adapter_config.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(p.name for p in (tmp_path / "members").iterdir()) == ["a", "c"]
    assert_same(read_front(tmp_path)[0].members[0].estimate, update.members[0].estimate)
    assert written.members[0].files


@pytest.mark.parametrize("what", ["altered", "missing", "other config", "other provenance"])
def test_an_adapter_that_cannot_be_trusted_is_written_again(tmp_path: Path, what: str) -> None:
    write_front(tmp_path, record("a"), Writer())
    update = record("a")
    if what == "altered":
        (tmp_path / "members" / "a" / "adapter_config.json").write_text("{ }")
    elif what == "missing":
        shutil.rmtree(tmp_path / "members" / "a")
    elif what == "other config":
        update.config = {"seed": 1}
    else:
        update.members[0].provenance["step"] = 99
    writer = Writer("new")
    write_front(tmp_path, update, writer)
    assert writer.calls == ["a"]
    back, problems = read_front(tmp_path)
    assert problems == []
    weights = tmp_path / back.members[0].adapter / "adapter_model.safetensors"
    assert b"anewanew" in weights.read_bytes()
    assert len(list((tmp_path / "members").iterdir())) == 1


def test_ids_become_safe_and_distinct_folder_names(tmp_path: Path) -> None:
    ids = ["../../etc/passwd", "a b", "a_b", "A b", "...", "é", "x" * 300, "C:\\x", "policy-3@120"]
    written = write_front(tmp_path / "front", record(*ids), Writer())
    names = [m.adapter.removeprefix("members/") for m in written.members]
    assert names == ["etc_passwd", "a_b", "a_b-2", "A_b-3", "member", "member-2", "x" * 80, "C_x", "policy-3_120"]
    assert [p.name for p in tmp_path.iterdir()] == ["front"]
    assert [m.id for m in read_front(tmp_path / "front")[0].members] == ids


@pytest.mark.parametrize("what", ["altered", "missing file", "missing folder"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_damaged_member_is_named_and_left_out(tmp_path: Path, what: str, verify: bool) -> None:
    write_front(tmp_path, record("a", "b"), Writer())
    target = tmp_path / "members" / "a" / "adapter_model.safetensors"
    if what == "altered":
        target.write_bytes(target.read_bytes()[:-1] + b"?")
        if not verify:
            assert read_front(tmp_path, verify=False)[1] == []
            return
    elif what == "missing file":
        target.unlink()
    else:
        shutil.rmtree(tmp_path / "members" / "a")
    with pytest.warns(ParetoAlignWarning, match="Member 'a' was left out"):
        back, problems = read_front(tmp_path, verify=verify)
    assert [m.id for m in back.members] == ["b"]
    assert len(problems) == 1
    assert "altered" in problems[0] if what == "altered" else "missing" in problems[0]


def edit(root: Path, change) -> None:
    """Change front.json as somebody would who knows the format: without the checksum it is not missed."""
    data = json.loads((root / "front.json").read_text())
    del data["sha256"]
    change(data)
    (root / "front.json").write_text(json.dumps(data))


ESCAPES = ["/etc", "../outside", "members/../../outside", "", "C:/x", "members\\..\\..\\x", "\\\\host\\share"]


@pytest.mark.parametrize("adapter", ESCAPES)
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, adapter: str) -> None:
    root = tmp_path / "front"
    write_front(root, record("a"), Writer())
    shutil.copytree(root / "members" / "a", tmp_path / "outside")
    edit(root, lambda d: d["members"][0].update(adapter=adapter))
    with pytest.raises(FrontFileError, match="leaves the front folder"):
        read_front(root)


@pytest.mark.parametrize("name", ["../b/adapter_config.json", "/etc/hostname", "../../../outside", ""])
def test_file_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    write_front(tmp_path, record("a", "b"), Writer())
    edit(tmp_path, lambda d: d["members"][0]["files"].update({name: "0" * 64}))
    with pytest.raises(FrontFileError, match="leaves the front folder"):
        read_front(tmp_path)


@pytest.mark.parametrize("linked", ["members", "members/a", "members/a/sub", "members/a/adapter_config.json"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, linked: str) -> None:
    root = tmp_path / "front"
    write_front(root, record("a"), Writer())
    outside = tmp_path / "outside"
    (root / linked).rename(outside)
    (root / linked).symlink_to(outside)
    with pytest.raises(FrontFileError, match="leaves the front folder"):
        read_front(root)


def test_a_front_behind_a_link_loads(tmp_path: Path) -> None:
    write_front(tmp_path / "real", record("a"), Writer())
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert read_front(tmp_path / "link")[1] == []


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_an_unknown_version_is_refused(tmp_path: Path, version: object) -> None:
    write_front(tmp_path, record("a"), Writer())
    edit(tmp_path, lambda d: d.update(schema_version=version))
    with pytest.raises(FrontFileError, match="reads version 1"):
        read_front(tmp_path)


DAMAGES = [
    lambda d: d.pop("members"),
    lambda d: d.update(members=5),
    lambda d: d.update(extra=1),
    lambda d: d["objectives"][0].pop("worst"),
    lambda d: d["members"][0].update(adapter=7),
    lambda d: d["members"][0].update(files=[1]),
    lambda d: d["members"][0]["estimate"].update(mean="x"),
    lambda d: d["members"][0]["estimate"].update(mean=[1.0]),
    lambda d: d["members"][0]["estimate"].update(mean=[1.0], covariance=[[1.0]], samples=None, prompt_ids=None),
]


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_front_json_is_refused_and_never_overwritten(tmp_path: Path, change) -> None:
    write_front(tmp_path, record("a"), Writer())
    edit(tmp_path, change)
    before = tree(tmp_path)
    with pytest.raises(FrontFileError, match=r"front\.json is damaged"):
        read_front(tmp_path)
    with pytest.raises(FrontFileError, match=r"front\.json is damaged"):
        write_front(tmp_path, record("b"), Writer())
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"null"])
def test_what_is_no_front_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "front.json").write_bytes(content)
    with pytest.raises(FrontFileError):
        read_front(tmp_path)


def test_no_front_at_all(tmp_path: Path) -> None:
    with pytest.raises(FrontFileError, match=r"There is no front\.json"):
        read_front(tmp_path / "nowhere")
    (tmp_path / "runs" / "002").mkdir(parents=True)
    (tmp_path / "runs" / "002" / "run.json").write_text("{}")
    with pytest.raises(FrontFileError, match=r"such as .*002\.$"):
        read_front(tmp_path / "runs")


def test_an_empty_front_is_a_front(tmp_path: Path) -> None:
    write_front(tmp_path, record(), Writer())
    assert read_front(tmp_path)[0].members == []


def failing(folder: Path, error: BaseException) -> None:
    (folder / "half").write_text("x")
    raise error


BAD_WRITERS = [
    (lambda id, folder: None, FrontFileError, "'b' has no adapter_config.json"),
    (lambda id, folder: (folder / "link").symlink_to("/etc/hostname"), FrontFileError, "contains links"),
    (lambda id, folder: failing(folder, OSError(28, "No space left on device")), FrontFileError, "No space left"),
    (lambda id, folder: failing(folder, RuntimeError("boom")), RuntimeError, "boom"),
    (lambda id, folder: failing(folder, KeyboardInterrupt()), KeyboardInterrupt, None),
]


@pytest.mark.parametrize(("writer", "error", "message"), BAD_WRITERS)
def test_a_failing_writer_leaves_the_old_front(tmp_path: Path, writer, error, message: str | None) -> None:
    write_front(tmp_path, record("a"), Writer())
    before = tree(tmp_path)
    with pytest.raises(error, match=message):
        write_front(tmp_path, record("b"), writer)
    assert tree(tmp_path) == before


def test_bad_records_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FrontFileError, match="cannot be written: two members are called 'a'"):
        write_front(tmp_path / "new", record("a", "a"), Writer())
    with pytest.raises(FrontFileError, match="cannot hold"):
        write_front(tmp_path / "new", record("a", config={"x": object()}), Writer())
    with pytest.raises(FrontFileError, match=r"cannot be written: members\[0\].id is empty"):
        write_front(tmp_path / "new", record(" "), Writer())
    unfit = record("a")
    unfit.members[0].preference = [0.5, 0.5]
    with pytest.raises(FrontFileError, match=r"members\[0\].preference is a list of 2, not a list of 1 numbers"):
        write_front(tmp_path / "new", unfit, Writer())
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_anywhere_the_old_or_the_new_front_loads(tmp_path: Path) -> None:
    """End the process at every single system call that changes the disk, without any cleaning up."""
    old, new = record("a", "b"), record("b", "a")
    new.members[1].provenance["step"] = 7  # "a" is another adapter under a name that is in use
    template = tmp_path / "template"
    write_front(template, old, Writer("old"))
    outcomes = []
    for k in range(1000):
        root = tmp_path / f"run{k}"
        shutil.copytree(template, root)
        child = os.fork()
        if child == 0:
            die_at_call(k)
            write_front(root, new, Writer("new"))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        back, problems = read_front(root)
        assert problems == []
        ids = [m.id for m in back.members]
        assert ids in (["a", "b"], ["b", "a"])
        weights = (root / back.members[ids.index("a")].adapter / "adapter_model.safetensors").read_bytes()
        assert (b"aoldaold" if ids[0] == "a" else b"anewanew") in weights
        outcomes.append(ids[0])
        write_front(root, new, Writer("new"))  # the next write finishes the job and leaves nothing lying about
        assert [m.id for m in read_front(root)[0].members] == ["b", "a"]
        assert len(list((root / "members").iterdir())) == 2
        assert sorted(p.name for p in root.iterdir()) == ["front.json", "members"]
        shutil.rmtree(root)
        if code == 0:
            break
    assert code == 0
    assert set(outcomes) == {"a", "b"}
    assert len(outcomes) > 20


def die_at_call(k: int) -> None:
    """Make the k-th call of anything that changes the disk the last thing this process does."""
    left = [k]

    def wrap(module: object, name: str) -> None:
        original = getattr(module, name)

        def wrapped(*args, **kwargs):
            if left[0] == 0:
                os._exit(1)
            left[0] -= 1
            return original(*args, **kwargs)

        setattr(module, name, wrapped)

    for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir"):
        wrap(os, name)
    wrap(Path, "write_bytes")
    wrap(Path, "write_text")


def test_writing_what_was_read_is_the_same_front(tmp_path: Path) -> None:
    write_front(tmp_path / "one", record("a", "b"), Writer())
    first, _ = read_front(tmp_path / "one")

    def copy(id: str, folder: Path) -> None:
        source = next(m.adapter for m in first.members if m.id == id)
        shutil.copytree(tmp_path / "one" / source, folder, dirs_exist_ok=True)

    write_front(tmp_path / "two", first, copy)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    write_front(tmp_path / "two", replace(first, split="report"), copy)
    assert read_front(tmp_path / "two")[0].split == "report"


# ---- what a front.json may say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["mean", "id", "worst"])
def test_a_front_json_that_was_changed_by_hand_is_noticed(tmp_path: Path, field: str) -> None:
    write_front(tmp_path, record("a"), Writer())
    text = (tmp_path / "front.json").read_text()
    before, after = {"mean": ("0.5", "0.6"), "id": ('"id": "a"', '"id": "b"'), "worst": ("300.0", "301.0")}[field]
    assert before in text
    (tmp_path / "front.json").write_text(text.replace(before, after, 1))
    with pytest.raises(FrontFileError, match="not what its own SHA-256 says"):
        read_front(tmp_path)
    read_front(tmp_path, verify=False)
    (tmp_path / "front.json").write_text(json.dumps(json.loads(text), sort_keys=True))  # the same content
    assert read_front(tmp_path)[1] == []


def member(data: dict) -> dict:
    return data["members"][0]


WRONG = {
    "an objective of an unknown role": (lambda d: d["objectives"][0].update(role="admire"), "none of optimize"),
    "nothing to optimize": (lambda d: d["objectives"][0].update(role="audit"), "no objective has the role"),
    "a frame the wrong way round": (lambda d: d["objectives"][1].update(worst=-1.0), "best is not better than worst"),
    "bounds the wrong way round": (lambda d: d["objectives"][0].update(bounds=[1.0, 0.0]), "lowest value is not below"),
    "a direction in words": (lambda d: d["objectives"][0].update(maximize="yes"), "neither true nor false"),
    "two objectives of one name": (lambda d: d["objectives"][1].update(name="accuracy"), "two objectives are called"),
    "two members of one name": (
        lambda d: d["members"].append({**member(d), "adapter": "members/b"}),
        "two members are",
    ),
    "two members, one folder": (lambda d: d["members"].append({**member(d), "id": "b"}), "share the folder"),
    "a number in quotes": (lambda d: member(d)["estimate"]["mean"].__setitem__(0, "0.5"), "not a number"),
    "truth for a number": (lambda d: member(d)["estimate"]["mean"].__setitem__(0, True), "not a number"),
    "a mean too long": (lambda d: member(d)["estimate"]["mean"].append(0.5), "not a list of 2 numbers"),
    "a huge mean": (lambda d: member(d)["estimate"]["mean"].__setitem__(0, 1e200), "not a number of at most"),
    "a negative variance": (lambda d: member(d)["estimate"].update(covariance=[[-1.0, 0], [0, 1.0]]), "cannot be"),
    "a correlation of two": (lambda d: member(d)["estimate"].update(covariance=[[1, 2], [2, 1]]), "semidefinite"),
    "a lopsided covariance": (lambda d: member(d)["estimate"].update(covariance=[[1, 0.5], [0, 1]]), "not symmetric"),
    "noise without variance": (lambda d: member(d)["estimate"].update(covariance=[[0, 0.5], [0.5, 1]]), "cannot be"),
    "no prompts": (lambda d: member(d)["estimate"].update(n=0), "not a whole number from 1"),
    "half a prompt": (lambda d: member(d)["estimate"].update(n=2.5), "not a whole number"),
    "prompt ids for nobody": (lambda d: member(d)["estimate"]["prompt_ids"].pop(), "prompt_ids for 6 samples"),
    "a prompt id of 70 bits": (lambda d: member(d)["estimate"].update(prompt_ids=[1 << 69] * 6), "too large"),
    "a negative preference": (lambda d: member(d).update(preference=[-1.0]), "no preference"),
    "a preference for nothing": (lambda d: member(d).update(preference=[0.0]), "no preference"),
    "no checksum": (lambda d: member(d)["files"].update({"adapter_config.json": "0"}), "is no SHA-256"),
    "an estimate of something else": (lambda d: d["reference_policy"].update(best=1), "unknown key 'best'"),
    "groups of other rows": (lambda d: d["reference_policy"].update(groups=[0]), "1 groups for 6 samples"),
    "groups in words": (lambda d: d["reference_policy"].update(groups=["a"] * 6), "not a whole number"),
    "half a variance": (
        lambda d: d["reference_policy"].update(covariance=[[0.1, None], [0.0, 0.1]]),
        "a variance that cannot be",
    ),
    "a sample of no prompt": (lambda d: member(d).update(sample=[{"prompt_id": 0.5}]), "not a whole number"),
    "an answer with too few rewards": (
        lambda d: d.update(reference_sample=[{"rewards": [0.5]}]),
        r"reference_sample\[0\].rewards is .*, not a list of 2 numbers",
    ),
    "an unknown split": (lambda d: d.update(split="train"), "none of select, report"),
    "fallen without shape": (lambda d: d["fallen"][0].update(values=[0.5]), "not a list of 2 numbers"),
    "a reference of another size": (lambda d: d.update(reference=[0.0, 0.0]), "not a list of 1 numbers"),
    "ceilings for other objectives": (lambda d: d.update(ceilings=[[], []]), "2 curves for"),
    "a ceiling of single numbers": (lambda d: d.update(ceilings=[[0.5]]), "curves for|not a list of 2 numbers"),
    "a base that is no name": (lambda d: d["base"].update(name=["tiny"]), "not a text"),
    "a length in words": (lambda d: d["config"].update(max_new_tokens="many"), "not a whole number"),
    "half a surrogate pair": (lambda d: d["cost"].update(note="\ud800"), "no Unicode"),
    "a list of lists of lists": (lambda d: d["cost"].update(deep=json.loads("[" * 40 + "]" * 40)), "nested too deeply"),
}


def test_a_noise_that_is_not_known_stays_so_in_a_file(tmp_path: Path) -> None:
    once = Estimate.from_samples([[0.5, -120.0]], [0])
    part = Estimate.from_samples([[0.5, -120.0], [0.7, np.nan]], [0, 1])
    grouped = Estimate.from_samples([[0.5, -120.0], [0.7, -90.0], [0.1, -10.0]], range(3), [0, 0, 1])
    found = record("once", "part", "grouped")
    for member, measured in zip(found.members, (once, part, grouped), strict=True):
        member.estimate = measured
    write_front(tmp_path, found, Writer())
    back = [member.estimate for member in read_front(tmp_path)[0].members]
    assert [np.isnan(e.stderr).tolist() for e in back] == [[True, True], [False, True], [False, False]]
    assert (back[2].n, back[2].groups) == (2, (0, 0, 1))
    np.testing.assert_array_equal(back[2].stderr, grouped.stderr)
    assert "groups" not in json.loads((tmp_path / "front.json").read_text())["members"][0]["estimate"]

    def as_written_by_0_1_0(data: dict) -> None:
        data["members"][0]["estimate"]["covariance"] = [[0.0, 0.0], [0.0, 0.0]]

    edit(tmp_path, as_written_by_0_1_0)
    assert np.isnan(read_front(tmp_path)[0].members[0].estimate.stderr).all()


@pytest.mark.parametrize("what", WRONG)
def test_what_front_json_may_not_say_is_named(tmp_path: Path, what: str) -> None:
    write_front(tmp_path, record("a"), Writer())
    change, message = WRONG[what]
    edit(tmp_path, change)
    with pytest.raises(FrontFileError, match=rf"front\.json is damaged .*{message}"):
        read_front(tmp_path)


@pytest.mark.parametrize(
    "content", ['{"a": NaN}', '{"a": -Infinity}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", '"' + "x" * 100]
)
def test_what_python_reads_and_json_is_not_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "front.json").write_text(content)
    with pytest.raises(FrontFileError, match=r"front\.json (is damaged|cannot be read)"):
        read_front(tmp_path)


@pytest.mark.parametrize("content", ['{"a": 1, "a": 2}', '{"members": [{"id": "x", "n": 1, "id": "y"}]}'])
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "front.json").write_text(content)
    with pytest.raises(FrontFileError, match=r"the key '(a|id)' is given twice"):
        read_front(tmp_path)


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'{"":0},', b"[[[]]],", b"0,", b'"",', b"[0],", b"1e5,", b'"ab",'])
def test_what_parsing_costs_is_counted_before_it_is_parsed(
    tmp_path: Path, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"[" + piece * 20_000 + b"0]"
    tracemalloc.start()
    json.loads(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= reading.parsed_size(content) + 10_000
    # as large against its limit as 100 MB are against theirs
    monkeypatch.setattr(reading, "MAX_PARSED_BYTES", reading.MAX_PARSED_BYTES >> 8)
    (tmp_path / "front.json").write_bytes(b"[" + piece * (400_000 // len(piece)) + b"0]")
    tracemalloc.start()
    with pytest.raises(FrontFileError):
        read_front(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < reading.MAX_PARSED_BYTES + 1_000_000


def test_what_15_megabytes_of_brackets_would_cost_is_not_paid(tmp_path: Path) -> None:
    (tmp_path / "front.json").write_bytes(b"[" + b"[]," * 5_000_000 + b"[]]")
    tracemalloc.start()
    with pytest.raises(FrontFileError, match="would take more than 536,870,912 bytes of memory"):
        read_front(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000  # the file itself, and what reads it


def test_the_largest_front_is_small_enough() -> None:
    # 1000 members on 1000 prompts with 5 objectives, as they are written
    row = json.dumps({"samples": [[0.123456789012345] * 5] * 10, "prompt_ids": [1] * 10}, indent=1).encode()
    assert reading.parsed_size(row) * 100_000 < reading.MAX_PARSED_BYTES
    assert reading.parsed_size('"é"'.encode()) == 4 * 4 + 56


def test_sizes_are_bounded_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_front(tmp_path, record("a", "b", "c"), Writer())
    monkeypatch.setattr(reading, "MAX_CONFIG_BYTES", 100)
    (tmp_path / "members" / "a" / "adapter_config.json").write_text(" " * 101)
    weights = tmp_path / "members" / "b" / "adapter_model.safetensors"
    weights.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    for k in range(reading.MAX_ENTRIES):
        (tmp_path / "members" / "c" / f"{k}").touch()
    with pytest.warns(ParetoAlignWarning):
        back, problems = read_front(tmp_path, verify=False)
    assert back.members == []
    assert "has 101 bytes" in problems[0]
    assert "claims a header of 1,099,511,627,776 bytes" in problems[1]
    assert "more than 1000 entries" in problems[2]
    monkeypatch.setattr(reading, "MAX_FRONT_BYTES", (tmp_path / "front.json").stat().st_size - 1)
    with pytest.raises(FrontFileError, match=r"no front\.json is that large"):
        read_front(tmp_path)


def test_only_safetensors_count_as_weights(tmp_path: Path) -> None:
    """PEFT reads a pickle where there are no safetensors; such a member does not get as far as PEFT."""
    write_front(tmp_path, record("a", "b"), Writer())
    (tmp_path / "members" / "a" / "adapter_model.bin").write_bytes(b"pickle")

    def pickled(data: dict) -> None:
        data["members"][0]["files"]["adapter_model.bin"] = data["members"][0]["files"].pop("adapter_model.safetensors")

    edit(tmp_path, pickled)
    with pytest.warns(ParetoAlignWarning, match="lists no adapter_model.safetensors"):
        assert [m.id for m in read_front(tmp_path)[0].members] == ["b"]


def test_an_adapter_folder_is_one_folder_in_members(tmp_path: Path) -> None:
    write_front(tmp_path, record("a", "b"), Writer())
    (tmp_path / "members" / "a").rename(tmp_path / "members" / "b" / "a")
    edit(tmp_path, lambda d: d["members"][0].update(adapter="members/b/a"))
    with pytest.warns(ParetoAlignWarning, match="is no folder in members/"):
        assert [m.id for m in read_front(tmp_path)[0].members] == ["b"]


def test_a_link_that_front_json_does_not_name_is_refused_too(tmp_path: Path) -> None:
    root = tmp_path / "front"
    write_front(root, record("a"), Writer())
    (tmp_path / "secret").write_text("secret")
    (root / "members" / "a" / "sub" / "more").symlink_to(tmp_path / "secret")
    with pytest.raises(FrontFileError, match="'sub/more', which leaves the front folder"):
        read_front(root)
    (root / "members" / "a" / "sub" / "more").unlink()
    (root / "front.json").rename(tmp_path / "front.json")
    (root / "front.json").symlink_to(tmp_path / "front.json")
    with pytest.raises(FrontFileError, match=r"'front\.json', which leaves the front folder"):
        read_front(root)


def test_answers_keep_their_prompt_and_their_rewards(tmp_path: Path) -> None:
    """Also those of the untrained model, of which a front without them says nothing."""
    told = [{"prompt": "Hello?", "completion": "Hi.", "prompt_id": 3, "rewards": [0.25, 12.0]}]
    write_front(tmp_path, replace(record("a"), reference_sample=told), Writer())
    assert read_front(tmp_path)[0].reference_sample == told
    write_front(tmp_path, record("a"), Writer())
    assert read_front(tmp_path)[0].reference_sample == []
    assert "reference_sample" not in json.loads((tmp_path / "front.json").read_text())


def test_text_that_is_no_unicode_is_written_as_text_that_is(tmp_path: Path) -> None:
    broken = record("a")
    broken.members[0].sample = [{"prompt": "a\ud83d", "completion\udc00": "b"}]
    write_front(tmp_path, broken, Writer())
    assert read_front(tmp_path)[0].members[0].sample == [{"prompt": "a\ufffd", "completion\ufffd": "b"}]
