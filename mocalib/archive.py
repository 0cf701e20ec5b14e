"""Records of finished runs as one file, to bring them from the machine that trained them: no weights, nothing unsealed.

An archive is not trusted: it is read in memory, and what it holds is checked whole before a run takes its place.
"""

import gzip
import io
import json
import os
import re
import tarfile
import tempfile
from pathlib import Path

from mocalib import files
from mocalib.runs import Run, open_run

LARGEST = 200_000_000  # bytes unpacked, 15 times the records of 178 runs: a small file can hold more than a disk does
UNSEALED = ("manifest.json", "timing.jsonl")  # records without a digest
MEMBER = re.compile(r"(?!\.)[A-Za-z0-9._-]+/(?!\.)(?![^/]*\.pt$)[A-Za-z0-9._-]+")  # <run>/<file>


def pack(folder: Path, path: Path) -> list[str]:
    """Write the records of every finished run of a folder to a .tar.gz; the names of those runs.

    The same records give the same bytes. Raises ValueError, with nothing written, if there is no finished run, if one
    has a damaged record or a name that `unpack` refuses, and if they are more than it takes.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file to write, like {path / 'records.tar.gz'}")
    runs = [open_run(found.parent) for found in sorted(folder.glob("*/manifest.json"))]
    if not runs:
        raise ValueError(f"{folder} has no finished run to pack: finish one, or name the folder that holds them")
    contents = {f"{run.directory.name}/{name}": content for run in runs for name, content in _locked(run).items()}
    content = _tar(contents)
    if len(content) > LARGEST:
        raise ValueError(
            f"{folder} has {len(content) / 1e6:g} MB of records, and unpack takes {LARGEST / 1e6:g}: part it"
        )
    files.write(path, gzip.compress(content, mtime=0))
    return [run.directory.name for run in runs]


def unpack(path: Path, folder: Path) -> list[str]:
    """Put the runs of an archive into a folder; the names of those runs.

    A run that is there with the same records stays as it is, and gains what score rows and grids it lacks; those that
    the archive lacks stay. Raises ValueError, with no run changed, for an archive that is damaged, too large, or has
    members that are no records, and if a run that is there is unfinished, damaged, or another one.
    """
    contents = _read(path)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacked-", suffix=".tmp") as temporary:
        for name, content in contents.items():
            files.write(Path(temporary) / name, content)
        runs = [_checked(path, directory) for directory in sorted(Path(temporary).iterdir())]
        for run in runs:
            _refuse_other(folder / run.directory.name, run)
        for run in runs:
            _place(folder / run.directory.name, run)
    return [run.directory.name for run in runs]


def names(path: Path) -> list[str]:
    """The runs of an archive. Raises as `unpack` for one that is damaged."""
    return sorted({name.split("/")[0] for name in _read(path)})


def _records(run: Run) -> dict[str, bytes]:
    """A finished run's records, verified. Names come first: a manifest that means harm names what must not be read."""
    names = [*run.manifest.get("files", {}), *UNSEALED]
    if strange := [name for name in names if not MEMBER.fullmatch(f"{run.directory.name}/{name}")]:
        raise ValueError(f"{run.directory}: {strange[0]} is no name that an archive takes; rename the run, or move it")
    run.verify()
    return {name: (run.directory / name).read_bytes() for name in sorted(names) if (run.directory / name).exists()}


def _locked(run: Run) -> dict[str, bytes]:
    with run.locked():  # no scoring replaces what was just verified
        return _records(run)


def _tar(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)  # of mode 0644, time 0 and nobody
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _read(path: Path) -> dict[str, bytes]:
    """Content by member. Raises ValueError with the path if it is damaged, too large, or holds anything but records."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; name the archive that `pack` has written")
    with path.open("rb") as file:
        try:
            content = gzip.GzipFile(fileobj=file).read(LARGEST + 1)
            if len(content) > LARGEST:
                raise ValueError(f"unpacks to more than {LARGEST / 1e6:g} MB, and records are small; pack them alone")
            return _members(content)
        except Exception as error:  # gzip and tarfile raise EOFError, zlib.error, TarError, RecursionError and more
            raise ValueError(f"{path} is no archive of records, or damaged: {error}") from None


def _members(content: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:  # refused before the next: a size below 0 leads back to the same member for ever
            plain = member.isreg() and not member.issparse() and member.size >= 0
            if not plain or not MEMBER.fullmatch(member.name) or member.name in found:
                raise ValueError(f"{member.name} is no plain file <run>/<record>, or is there twice; pack it anew")
            found[member.name] = tar.extractfile(member).read()
    if not found:
        raise ValueError("it holds no run")
    return found


def _checked(path: Path, directory: Path) -> Run:
    """An unpacked run. Raises ValueError if its records are not what its manifest sealed, or not all that it holds."""
    try:
        run = open_run(directory)
        if unsealed := {found.name for found in directory.iterdir()} - _records(run).keys():
            raise ValueError(f"no manifest seals {sorted(unsealed)[0]}")
        if not isinstance(run.scores, list) or not all(isinstance(row, dict) for row in run.scores):
            raise ValueError("scores.json holds no rows")
        files.json_bytes(run.scores)
    except Exception as error:  # JSON that means harm raises AttributeError, RecursionError and more
        reason = str(error).replace(f"{directory.parent}{os.sep}", "")
        raise ValueError(f"{path} holds {directory.name} damaged ({reason}); pack it anew where it was made") from None
    return run


def _refuse_other(directory: Path, new: Run) -> None:
    """Raise ValueError unless the place is free, or holds the same run with no other scores than the new one."""
    if not os.path.lexists(directory):
        return
    way_out = f"remove or move {directory}, or unpack into another folder"
    if not (directory / "manifest.json").exists():
        raise ValueError(f"{directory} is there and is no finished run: {way_out}")
    run = open_run(directory)
    there, here = _records(run), _records(new)
    differ = [name for name in there if name not in (*UNSEALED, "scores.json") and there[name] != here.get(name)]
    differ += ["scores.json"] * _contradict(run.scores, new.scores)
    if differ:
        raise ValueError(f"{directory} is there and not as in the archive: {', '.join(differ)}; {way_out}")


def _contradict(rows: list[dict], others: list[dict]) -> bool:
    """Whether a score has two values; that one side has scores which the other lacks is no contradiction."""
    known = {_identity(row): row.get("value") for row in rows}
    return any(known.get(_identity(row), row.get("value")) != row.get("value") for row in others)


def _identity(row: dict) -> str:
    return json.dumps({name: value for name, value in row.items() if name != "value"}, sort_keys=True)


def _place(directory: Path, new: Run) -> None:
    """Move a new run into place whole; one that is there gains what it lacks, as a scoring adds it."""
    if not os.path.lexists(directory):
        new.directory.rename(directory)
    elif any(_lacking(run := open_run(directory), new)):
        with run.locked():  # what it lacks by then: it may be in a scoring
            run.add_scores(*_lacking(run, new))


def _lacking(run: Run, new: Run) -> tuple[list[dict], dict[str, bytes]]:
    there = {*_records(run), *UNSEALED, "scores.json"}
    records = {name: content for name, content in _records(new).items() if name not in there}
    return [row for row in new.scores if row not in run.scores], records
