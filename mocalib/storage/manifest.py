"""A run directory's records as its manifest sealed them: whoever reads one learns whether it was damaged."""

import hashlib
import json
from pathlib import Path

from mocalib.storage import files

SEALED = ("config.json", "environment.json", "metrics.jsonl")  # when training ends; scores and grids follow
REPLACING = "replacing"  # of a manifest: digests that hold, too, while the files they are of are being replaced


def read(directory: Path, name: str) -> str | None:
    """A record's text, None if it is not there.

    Raises ValueError if it is not what the manifest sealed; before there is a manifest, nothing is sealed.
    """
    path, seen = directory / name, None
    while path.exists():
        content, sealed = path.read_bytes(), _manifest(directory)
        if not sealed or (found := hashlib.sha256(content).hexdigest()) in _digests(sealed, name):
            break
        if seen == (found, sealed):
            raise damaged(path, "it is not what manifest.json sealed")
        seen = found, sealed  # another process may have written both in between: look again
    else:
        if _is_missing(path, _manifest(directory)):
            raise damaged(path, "it is missing")
        return None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise damaged(path, error) from None


def read_json(directory: Path, name: str, default: dict | list) -> dict | list:
    """A record as JSON, `default` if it is not there. Raises ValueError as `read`, and for what is no JSON."""
    text = read(directory, name)
    try:
        return default if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise damaged(directory / name, error) from None


def lines(text: str | None) -> list[dict]:
    """JSON lines up to the first that a kill cut short."""
    found = []
    for line in (text or "").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def load(directory: Path) -> dict:
    """Steps, epoch and digests of a finished run; {} before it has ended.

    Raises ValueError for a damaged one: no digest covers it, but its numbers stand in the last line of the metrics.
    """
    found = _manifest(directory)
    if found:
        logged = lines(read(directory, "metrics.jsonl"))
        if not logged or any(logged[-1].get(name) != found[name] for name in ("step", "epoch")):
            raise damaged(directory / "manifest.json", "step and epoch are not those of metrics.jsonl's last line")
    return found


def verify(directory: Path) -> None:
    """Raise ValueError naming every record that is missing or is not what the manifest sealed."""
    sealed = _manifest(directory)
    if not sealed:
        raise ValueError(f"{directory} has no manifest: the run is not finished")
    wrong = [name for name in sealed["files"] if not _is_sealed(directory / name, sealed)]
    if wrong:
        way_out = f"restore them, or remove {directory} to make it again"
        raise ValueError(f"{directory}: not as its manifest says: {', '.join(wrong)}; {way_out}")
    load(directory)


def _is_sealed(path: Path, sealed: dict) -> bool:
    if not path.exists():
        return not _is_missing(path, sealed)
    return files.sha256(path) in _digests(sealed, path.name)


def _is_missing(path: Path, sealed: dict) -> bool:
    """Whether a file that is not there should be: a scoring that was killed may have announced it only."""
    announced = REPLACING in sealed and path.name not in sealed[REPLACING]
    return path.name in sealed.get("files", {}) and not announced


def damaged(path: Path, reason: object) -> ValueError:
    """The error for a record that cannot be relied on."""
    return ValueError(f"{path} is damaged ({reason}); restore it, or remove {path.parent} to make it again")


def _digests(sealed: dict, name: str) -> tuple[str, ...]:
    return tuple(found[name] for found in (sealed["files"], sealed.get(REPLACING, {})) if name in found)


def _manifest(directory: Path) -> dict:
    path = directory / "manifest.json"
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or no UTF-8
        raise damaged(path, error) from None
    fields = {"step", "epoch", "files"}
    if not isinstance(found, dict) or not fields <= found.keys() <= {*fields, REPLACING}:
        raise damaged(path, "it has other fields than a manifest")
    if not isinstance(found["files"], dict) or not set(SEALED) <= found["files"].keys():
        raise damaged(path, "it lacks the config, environment or metrics")
    return found
