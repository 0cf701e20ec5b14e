"""Records of finished runs in one file and out of it again, compared with what tarfile and sha256 say of them."""

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mocalib import archive, paths
from mocalib.__main__ import main
from mocalib.archive import pack, unpack
from mocalib.runs import Run, open_run

LAPTOP = paths.RECORDS / "laptop"
NAMES = sorted(path.parent.name for path in LAPTOP.glob("*/samples-epoch-0001.png"))[:1]  # one with kept epochs,
NAMES = sorted([*NAMES, *sorted(path.name for path in LAPTOP.glob("digits-a2-vae-*"))[:2]])  # and two without
ONE = NAMES[0]


UNSEALED = ("manifest.json", "timing.jsonl")


def committed(name: str) -> dict[str, bytes]:
    """A committed run's records; weights may lie beside them where someone trained it."""
    sealed = json.loads((LAPTOP / name / "manifest.json").read_text())["files"]
    return {record: (LAPTOP / name / record).read_bytes() for record in (*sealed, *UNSEALED)}


def copied(name: str, folder: Path) -> Path:
    """A fresh clone's copy of a committed run."""
    (folder / name).mkdir(parents=True)
    for record, content in committed(name).items():
        (folder / name / record).write_bytes(content)
    return folder / name


@pytest.fixture
def trained(tmp_path) -> Path:
    """Three finished runs as they lie where they were trained, and one that has only begun."""
    for name in NAMES:
        run = copied(name, tmp_path / "trained")
        for beside in ("weights.pt", "epoch-0001.pt", "log.txt", ".lock", "scores.json.1-ab.tmp"):
            (run / beside).write_bytes(b"no record")
    shutil.copytree(run, tmp_path / "trained" / "begun", ignore=shutil.ignore_patterns("manifest.json"))
    return tmp_path / "trained"


@pytest.fixture
def packed(trained, tmp_path) -> Path:
    pack(trained, tmp_path / "runs.tar.gz")
    return tmp_path / "runs.tar.gz"


@pytest.fixture
def here(tmp_path) -> Path:
    """A folder with one run that the archive has not."""
    return copied(next(path.name for path in sorted(LAPTOP.glob("digits-a1-*"))), tmp_path / "here").parent


def content(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder; a file's bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(path: Path, folder: Path, message: str) -> None:
    """Nothing changes in the folder, and nothing appears beside it."""
    before = content(folder.parent)
    with pytest.raises(ValueError, match=message):
        unpack(path, folder)
    assert content(folder.parent) == before


def edit(directory: Path, name: str, change: Callable) -> None:
    """Change a JSON record and seal it again, by hand."""
    changed = json.dumps(change(json.loads((directory / name).read_text())), indent=1) + "\n"
    (directory / name).write_text(changed)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(changed.encode()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def test_an_archive_holds_what_manifests_seal_and_nothing_else(trained, tmp_path):
    assert pack(trained, tmp_path / "runs.tar.gz") == NAMES
    with tarfile.open(tmp_path / "runs.tar.gz", "r:gz") as tar:
        members = tar.getmembers()
        found = {member.name: hashlib.sha256(tar.extractfile(member).read()).hexdigest() for member in members}
    expected = {}
    for name in NAMES:
        sealed = json.loads((LAPTOP / name / "manifest.json").read_text())["files"]
        expected |= {f"{name}/{record}": digest for record, digest in sealed.items()}
        for record in UNSEALED:
            expected[f"{name}/{record}"] = hashlib.sha256((LAPTOP / name / record).read_bytes()).hexdigest()
    assert found == expected
    assert [member.name for member in members] == sorted(expected)
    about = {(member.type, member.mode, member.mtime, member.uid, member.gid) for member in members}
    assert about == {(tarfile.REGTYPE, 0o644, 0, 0, 0)}
    assert {(member.uname, member.gname) for member in members} == {("", "")}
    assert not any(name.endswith(".pt") for name in found)


def test_the_same_records_give_the_same_bytes(trained, tmp_path):
    pack(trained, tmp_path / "first.tar.gz")
    again = Path(shutil.copytree(trained, tmp_path / "again", copy_function=shutil.copyfile))
    for path in again.rglob("*"):
        path.chmod(0o700)
    pack(again, tmp_path / "second.tar.gz")
    first, second = ((tmp_path / f"{name}.tar.gz").read_bytes() for name in ("first", "second"))
    assert first == second
    assert first[4:8] == bytes(4)  # gzip's time


def test_what_comes_out_is_what_went_in(packed, here):
    before = content(here)
    assert unpack(packed, here) == NAMES
    new = {f"{name}/{record}": value for name in NAMES for record, value in committed(name).items()}
    assert content(here) == before | new | dict.fromkeys(NAMES)


def test_what_was_unpacked_packs_to_the_same_archive(packed, tmp_path):
    unpack(packed, tmp_path / "new" / "laptop")
    pack(tmp_path / "new" / "laptop", tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == packed.read_bytes()


def test_unpacking_twice_changes_nothing(packed, here):
    unpack(packed, here)
    (here / ONE / "timing.jsonl").write_text("")  # of another machine: nothing seals it
    (here / ONE / "weights.pt").write_bytes(b"made here")
    before = content(here)
    times = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    assert unpack(packed, here) == NAMES
    assert content(here) == before
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == times


def test_a_folder_without_a_finished_run_is_named(trained, tmp_path):
    for name in NAMES:
        shutil.rmtree(trained / name)
    with pytest.raises(ValueError, match=r"trained has no finished run to pack"):
        pack(trained, tmp_path / "runs.tar.gz")
    assert not (tmp_path / "runs.tar.gz").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.png", "scores.json", "manifest.json"])
def test_a_damaged_run_is_not_packed(trained, tmp_path, name):
    (tmp_path / "runs.tar.gz").write_bytes(b"an older archive")
    path = trained / NAMES[-1] / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{NAMES[-1]}.*{name}.*restore"):
        pack(trained, tmp_path / "runs.tar.gz")
    assert (tmp_path / "runs.tar.gz").read_bytes() == b"an older archive"
    assert not list(tmp_path.glob("*.tmp"))


def test_what_unpack_would_refuse_is_not_packed(trained, tmp_path, monkeypatch):
    (trained / ONE).rename(trained / "a name with spaces")
    with pytest.raises(ValueError, match="a name with spaces: config.json is no name that an archive takes; rename"):
        pack(trained, tmp_path / "runs.tar.gz")
    (trained / "a name with spaces").rename(trained / ONE)
    edit(trained / ONE, "config.json", lambda config: config)
    (trained / ONE / "manifest.json").write_text(
        (trained / ONE / "manifest.json").read_text().replace('"config.json"', '"weights.pt": "1",\n"config.json"')
    )
    with pytest.raises(ValueError, match="weights.pt is no name that an archive takes"):
        pack(trained, tmp_path / "runs.tar.gz")
    shutil.rmtree(trained / ONE)
    monkeypatch.setattr(archive, "LARGEST", 30_000)
    with pytest.raises(ValueError, match=r"trained has .* MB of records, and unpack takes 0.03: part it"):
        pack(trained, tmp_path / "runs.tar.gz")
    assert not (tmp_path / "runs.tar.gz").exists()


# ------------------------------------------------------------------------------------------ archives that mean harm


def member(name: str, kind: bytes = tarfile.REGTYPE, text: bytes = b"harm", **about) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(text) if kind == tarfile.REGTYPE else 0
    for field, value in about.items():
        setattr(info, field, value)
    return info, text


def archived(path: Path, folder: Path, *more: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Whatever lies in the run directories of a folder, and more, by tarfile alone."""
    with tarfile.open(path, "w:gz") as tar:
        for file in sorted(folder.glob("*/*")):
            tar.add(file, str(file.relative_to(folder)))
        for info, text in more:
            tar.addfile(info, io.BytesIO(text))
    return path


@pytest.fixture
def records(packed, tmp_path) -> Path:
    """Records alone, by tarfile, to make other archives of."""
    with tarfile.open(packed) as tar:
        tar.extractall(tmp_path / "records", filter="data")
    return tmp_path / "records"


def test_an_archive_by_another_program_is_taken(records, here, tmp_path):
    assert unpack(archived(tmp_path / "other.tar.gz", records), here) == NAMES


SPARSE = {"GNU.sparse.map": "0,4", "GNU.sparse.size": "4", "GNU.sparse.numblocks": "1"}
HOSTILE = {
    "up": member("../evil"),
    "up inside": member(f"{ONE}/../../evil"),
    "up at the end": member(f"{ONE}/.."),
    "absolute": member("/tmp/evil"),
    "absolute run": member("/evil"),
    "no run": member("evil"),
    "deeper": member(f"{ONE}/deep/evil"),
    "hidden run": member(".git/config"),
    "hidden file": member(f"{ONE}/.lock"),
    "weights": member(f"{ONE}/weights.pt"),
    "space": member(f"{ONE}/an evil"),
    "newline": member(f"{ONE}/evil\n"),
    "backslash": member(f"{ONE}/..\\evil"),
    "empty": member(f"{ONE}//evil"),
    "folder": member(ONE, tarfile.DIRTYPE),
    "folder in a run": member(f"{ONE}/evil", tarfile.DIRTYPE),
    "link": member(f"{ONE}/evil", tarfile.SYMTYPE, linkname="/etc/passwd"),
    "link as a run": member("evil", tarfile.SYMTYPE, linkname="/tmp"),
    "hard link": member(f"{ONE}/evil", tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": member(f"{ONE}/evil", tarfile.CHRTYPE, devmajor=1, devminor=5),
    "disk": member(f"{ONE}/evil", tarfile.BLKTYPE),
    "pipe": member(f"{ONE}/evil", tarfile.FIFOTYPE),
    "twice": member(f"{ONE}/config.json"),
    "sparse": member(f"{ONE}/evil", pax_headers=SPARSE),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_record_by_its_name_or_kind_is_refused(records, here, tmp_path, kind):
    name = HOSTILE[kind][0].name.rstrip("\n").replace("\\", "\\\\")
    path = archived(tmp_path / "hostile.tar.gz", records, HOSTILE[kind])
    refused(path, here, rf"hostile.tar.gz is no archive of records, .*{name}\n? is no plain file <run>/<record>")


def test_a_file_that_no_manifest_seals_is_refused(records, here, tmp_path):
    path = archived(tmp_path / "hostile.tar.gz", records, member(f"{ONE}/log.txt"))
    refused(path, here, rf"hostile.tar.gz holds {ONE} damaged \(no manifest seals log.txt\)")


@pytest.mark.parametrize("name", ["/dev/zero", "../../secret", "weights.pt"])
def test_a_manifest_that_names_what_must_not_be_read_is_refused_before_it_is(records, here, tmp_path, name):
    """/dev/zero has no end, and a digest tells whether a file elsewhere is what a stranger thinks."""
    path = records / ONE / "manifest.json"
    sealed = json.loads(path.read_text())
    secret = hashlib.sha256(b"secret").hexdigest()
    (tmp_path / "secret").write_text("secret")
    path.write_text(json.dumps(sealed | {"files": sealed["files"] | {name: secret}}))
    refused(archived(tmp_path / "hostile.tar.gz", records), here, rf"hostile.tar.gz holds {ONE} .*{name} is no name")


@pytest.mark.parametrize("back", [512, 1024])
def test_a_size_below_zero_does_not_read_for_ever(here, tmp_path, back):
    """It leads tarfile back to a member before."""
    info, _ = member(f"{ONE}/config.json")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (2**96 - back).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "hostile.tar.gz"
    path.write_bytes(gzip.compress(member(f"{ONE}/a")[0].tobuf()[:512] + bytes(512) + bytes(header) + bytes(1024)))
    refused(path, here, f"hostile.tar.gz is no archive of records, .*{ONE}/config.json is no plain file")


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_read(records, here, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LARGEST", 10**6)
    monkeypatch.setattr(archive, "_members", None)  # whoever looks for members fails
    path = archived(tmp_path / "bomb.tar.gz", records, member(f"{ONE}/evil", text=bytes(10**6)))
    assert path.stat().st_size < 200_000
    path.write_bytes(path.read_bytes()[:-10])  # whoever reads to the end finds that it was cut short
    refused(path, here, "bomb.tar.gz is no archive of records, .*unpacks to more than 1 MB")


@pytest.mark.parametrize("share", [0, 0.00005, 0.3, 0.9, 0.9999])
def test_an_archive_that_was_cut_short_is_named(packed, here, share):
    whole = packed.read_bytes()
    packed.write_bytes(whole[: int(share * len(whole))])
    refused(packed, here, r"runs.tar.gz is no archive of records, or damaged")


def test_a_changed_byte_is_found(packed, here):
    whole = packed.read_bytes()
    for place in range(10, len(whole), len(whole) // 25):
        packed.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(packed, here, r"runs.tar.gz is no archive of records, or damaged")


@pytest.mark.parametrize(
    "text",
    [b"text", gzip.compress(b"text" * 1000), gzip.compress(b""), gzip.compress(bytes(10240))],
    ids=["text", "packed text", "nothing", "zeros"],  # gzip writes the time: two processes would name them otherwise
)
def test_what_is_no_archive_is_named(here, tmp_path, text):
    (tmp_path / "wrong.tar.gz").write_bytes(text)
    refused(tmp_path / "wrong.tar.gz", here, r"wrong.tar.gz is no archive of records, or damaged")


def test_an_archive_that_is_not_there_is_not_called_damaged(here, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.tar.gz"):
        unpack(tmp_path / "nowhere.tar.gz", here)


@pytest.mark.parametrize("name", ["config.json", "environment.json", "metrics.jsonl", "scores.json", "samples.png"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_run_that_is_not_as_its_manifest_says_is_refused_with_all_others(records, here, tmp_path, name, how):
    path = records / NAMES[-1] / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"1", b"2") + b" ")
    message = rf"other.tar.gz holds {NAMES[-1]} damaged \({NAMES[-1]}.*{name}.*\); pack it anew where it was made"
    refused(archived(tmp_path / "other.tar.gz", records), here, message)


def test_a_run_without_a_manifest_is_refused(records, here, tmp_path):
    (records / ONE / "manifest.json").unlink()
    refused(archived(tmp_path / "other.tar.gz", records), here, rf"{ONE} has no manifest: the run is not finished")


@pytest.mark.parametrize("scores", [7, {}, ["row"], [{"value": float("nan")}]])
def test_scores_that_are_none_are_refused(records, here, tmp_path, scores):
    edit(records / ONE, "scores.json", lambda _: scores)
    refused(archived(tmp_path / "other.tar.gz", records), here, rf"other.tar.gz holds {ONE} damaged")


# -------------------------------------------------------------------------------------------- runs that are there

WAY_OUT = r"remove or move .*{}, or unpack into another folder"


def changed(directory: Path, record: str) -> None:
    """The same run with something else in one record, sealed."""
    if record == "metrics.jsonl":
        lines = (directory / record).read_text().replace('"loss": ', '"loss": 1')
        assert lines != (directory / record).read_text()
        (directory / record).write_text(lines)
        manifest = json.loads((directory / "manifest.json").read_text())
        manifest["files"][record] = hashlib.sha256(lines.encode()).hexdigest()
        (directory / "manifest.json").write_text(json.dumps(manifest))
    elif record == "scores.json":
        edit(directory, record, lambda rows: [rows[0] | {"value": rows[0]["value"] + 1}, *rows[1:]])
    elif record == "config.json":
        edit(directory, record, lambda config: config | {"seed": config["seed"] + 1})
    else:
        edit(directory, record, lambda about: about | {"commit": "0" * 40})


@pytest.mark.parametrize("record", ["config.json", "environment.json", "metrics.jsonl", "scores.json"])
def test_another_run_of_the_same_name_is_refused_and_none_is_unpacked(packed, here, record):
    last = NAMES[-1]
    changed(copied(last, here), record)
    refused(packed, here, rf"{last} is there and not as in the archive: {record}; {WAY_OUT.format(last)}")


def test_scores_that_the_archive_lacks_stay_beside_those_that_are_gained(packed, here):
    """Two checkouts that each added their own."""
    last = NAMES[-1]
    rows = json.loads(committed(last)["scores.json"])
    own = rows[0] | {"seed": 1}
    copied(last, here)
    edit(here / last, "scores.json", lambda rows: [*rows[:-1], own])
    assert unpack(packed, here) == NAMES
    assert json.loads((here / last / "scores.json").read_text()) == [*rows[:-1], own, rows[-1]]
    Run(here / last, open_run(here / last).config).verify()


def test_a_run_that_is_damaged_here_is_named(packed, here):
    last = NAMES[-1]
    copied(last, here)
    (here / last / "samples.png").write_bytes(b"")
    refused(packed, here, rf"here/{last}: not as its manifest says: samples.png; restore them, or remove")


@pytest.mark.parametrize("what", ["begun", "empty", "file", "link to nothing"])
def test_a_run_that_is_not_finished_here_is_not_touched(packed, here, what):
    there = here / NAMES[-1]
    if what == "begun":
        there.mkdir()
        (there / "checkpoint.pt").write_bytes(b"hours of training")
        shutil.copy(LAPTOP / NAMES[-1] / "config.json", there)
    elif what == "empty":
        there.mkdir()
    elif what == "file":
        there.write_text("notes")
    else:
        there.symlink_to("nowhere")
    refused(packed, here, rf"{NAMES[-1]} is there and is no finished run: {WAY_OUT.format(NAMES[-1])}")
    assert there.is_symlink() == (what == "link to nothing")


def older(directory: Path, rows: int) -> None:
    """As a run was before its last scoring: fewer rows, and without the grid of an epoch."""
    edit(directory, "scores.json", lambda found: found[:rows])
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["files"]["samples-epoch-0001.png"]
    if not rows:
        del manifest["files"]["scores.json"]
        (directory / "scores.json").unlink()
    (directory / "samples-epoch-0001.png").unlink()
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


KEPT = next(name for name in NAMES if (LAPTOP / name / "samples-epoch-0001.png").exists())


@pytest.mark.parametrize("rows", [0, 5])
def test_a_run_gains_the_rows_and_grids_that_it_lacks(packed, here, rows):
    copied(KEPT, here)
    older(here / KEPT, rows)
    (here / KEPT / "weights.pt").write_bytes(b"made here")
    (here / KEPT / "timing.jsonl").unlink()  # nothing seals it, before or after
    unpack(packed, here)
    (here / KEPT / ".lock").unlink(missing_ok=True)
    expected = committed(KEPT) | {"weights.pt": b"made here"}
    del expected["timing.jsonl"]
    assert content(here / KEPT) == expected


def test_a_run_that_would_gain_does_not_where_another_is_refused(packed, here):
    other = next(name for name in NAMES if name != KEPT)
    copied(KEPT, here)
    older(here / KEPT, 5)
    changed(copied(other, here), "config.json")
    refused(packed, here, rf"{other} is there and not as in the archive: config.json")


def test_rows_that_another_process_adds_meanwhile_are_not_added_twice(packed, here, monkeypatch):
    """It holds the run's lock until it has added them."""
    copied(KEPT, here)
    older(here / KEPT, 5)
    locked = Run.locked

    @contextlib.contextmanager
    def late(self):
        if self.directory == here / KEPT:
            for name, content in committed(KEPT).items():
                (self.directory / name).write_bytes(content)
        with locked(self):
            yield

    monkeypatch.setattr(Run, "locked", late)
    unpack(packed, here)
    (here / KEPT / ".lock").unlink()
    assert content(here / KEPT) == committed(KEPT)


def test_the_shell_packs_and_unpacks_and_says_what(trained, tmp_path, capsys):
    archived, folder = tmp_path / "records.tar.gz", tmp_path / "there"
    assert main(["pack", str(archived), "--runs", str(trained)]) == 0
    assert main(["unpack", str(archived), "--runs", str(folder)]) == 0
    told = capsys.readouterr().out
    assert all(told.count(name) == 2 for name in NAMES)
    assert f"3 runs of {trained}" in told
    assert f"3 runs in {folder}" in told
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    for wrong, told in (("none.tar.gz", "none.tar.gz is no file; name the archive"), ("", "is no file")):
        assert main(["unpack", str(tmp_path / wrong), "--runs", str(folder)]) == 1
        assert told in capsys.readouterr().err
    assert main(["pack", str(tmp_path), "--runs", str(trained)]) == 1
    assert "is a folder; name the file to write" in capsys.readouterr().err
    assert main(["unpack", str(archived), "--scale", "workstation"]) == 1
    assert f"{NAMES[0]} is no run of workstation scale" in capsys.readouterr().err
    assert main(["pack", str(archived), "--jobs", "2"]) == 1
    assert "pack: --jobs would be ignored; it takes --runs, --scale" in capsys.readouterr().err
    for alone in (["pack"], ["unpack", "a", "b", "--scale", "workstation"]):
        assert main(alone) == 1
        assert f"{alone[0]}: name one file, as in" in capsys.readouterr().err
    assert main(["figures", "laptop"]) == 1
    assert "figures stands alone, without laptop" in capsys.readouterr().err
