"""A run's records, checked on each read against the checksums in its manifest."""

import hashlib
import json
from pathlib import Path

from mocalib.storage import files

RECORDED = ("config.json", "environment.json", "metrics.jsonl")  # in every manifest; scores and grids come later
REPLACING = "replacing"  # a manifest's key for digests of old files, valid too while they are being replaced


def read(directory: Path, name: str) -> str | None:
    """A record's text, None if it does not exist. Raises ValueError if the manifest has another checksum for it."""
    path, seen = directory / name, None
    while path.exists():
        content, recorded = path.read_bytes(), _manifest(directory)
        if not recorded or (found := hashlib.sha256(content).hexdigest()) in _digests(recorded, name):
            break
        if seen == (found, recorded):
            raise damaged(path, "manifest.json has another checksum")
        seen = found, recorded  # another process may have written both between the two reads: look again
    else:
        if _is_missing(path, _manifest(directory)):
            raise damaged(path, "it is missing")
        return None
    return content.decode(errors="replace")  # of an unfinished run; whoever parses it finds the damage


def read_json(directory: Path, name: str, default: dict | list) -> dict | list:
    """A record as JSON, `default` if it does not exist. Raises ValueError as `read`, and for text that is not JSON."""
    text = read(directory, name)
    try:
        return default if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise damaged(directory / name, error) from None


def lines(text: str | None) -> list[dict]:
    """The JSON lines of a log, up to the first that a kill cut short."""
    found = []
    for line in (text or "").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def load(directory: Path) -> dict:
    """A finished run's step, epoch and checksums; {} for an unfinished run.

    Raises ValueError if the manifest is damaged. It has no checksum itself, but step and epoch are also in the metrics.
    """
    if found := _manifest(directory):
        logged = lines(read(directory, "metrics.jsonl"))
        if not logged or any(logged[-1].get(name) != found[name] for name in ("step", "epoch")):
            raise damaged(directory / "manifest.json", "step or epoch differs from the last line of metrics.jsonl")
    return found


def verify(directory: Path) -> None:
    """Raise ValueError naming every record that is missing or fails its checksum in the manifest."""
    if not (recorded := _manifest(directory)):
        raise ValueError(f"{directory} has no manifest: the run is not finished")
    if wrong := [name for name in recorded["files"] if not _is_whole(directory / name, recorded)]:
        way_out = f"restore them, or move {directory} away and run it again"
        raise ValueError(f"{directory}: files missing or changed since manifest.json: {', '.join(wrong)}; {way_out}")
    load(directory)


def _is_whole(path: Path, recorded: dict) -> bool:
    if not path.exists():
        return not _is_missing(path, recorded)
    return files.sha256(path) in _digests(recorded, path.name)


def _is_missing(path: Path, recorded: dict) -> bool:
    """Whether a file that does not exist should. A killed evaluation may have recorded scores before writing them."""
    unwritten = REPLACING in recorded and path.name not in recorded[REPLACING]
    return path.name in recorded.get("files", {}) and not unwritten


def damaged(path: Path, reason: object) -> ValueError:
    """The error for a damaged record."""
    return ValueError(f"{path} is damaged ({reason}); restore it, or move {path.parent} away and run it again")


def _digests(recorded: dict, name: str) -> tuple[str, ...]:
    return tuple(found[name] for found in (recorded["files"], recorded.get(REPLACING, {})) if name in found)


def _manifest(directory: Path) -> dict:
    if not (path := directory / "manifest.json").exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:  # not JSON, or not UTF-8
        raise damaged(path, error) from None
    fields = {"step", "epoch", "files"}
    if not isinstance(found, dict) or not fields <= found.keys() <= {*fields, REPLACING}:
        raise damaged(path, "its fields are not those of a manifest")
    if not isinstance(found["files"], dict) or not set(RECORDED) <= found["files"].keys():
        raise damaged(path, "it lacks the config, environment or metrics")
    return found
