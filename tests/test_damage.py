"""Files that were cut short, or in which one byte is another: found by whoever reads them, never a wrong number."""

import hashlib
import itertools
import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Stopped, stopped, tiny

from mocalib import RunConfig, Scoring, evaluate, load, train
from mocalib.__main__ import main
from mocalib.config import paths
from mocalib.data import cache, datasets
from mocalib.evaluation import features
from mocalib.paper import results
from mocalib.storage import files, manifest
from mocalib.storage.run import Run, open_run
from mocalib.sweep.verify import verify

PLACES = 30
RECORDS = ("config.json", "environment.json", "metrics.jsonl", "scores.json")
DECODED = paths.CACHE  # of all tests, before one is given a place of its own


def damages(path: Path, length: int | None = None) -> Iterator[bytes]:
    """Cut a file at 30 places, and change one byte at 30, the last and the first among them; then restore it.

    Of its first `length` bytes, if given. Each time that the file is another, what it was is yielded.
    """
    generator, content = np.random.default_rng(0), path.read_bytes()
    first = content[:length]
    rest = content[len(first) :]
    for place in np.linspace(0, len(first) - 1, PLACES).astype(int).tolist():
        path.write_bytes(first[:place] + rest)
        yield content
        other = bytes([first[place] ^ int(generator.integers(1, 256))])
        path.write_bytes(first[:place] + other + first[place + 1 :] + rest)
        yield content
    path.write_bytes(content)


def flip(path: Path, place: int) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def told(function: Callable, *arguments: Any) -> tuple[str, Any]:
    """What a call says was wrong, "" if nothing, and what it returned."""
    try:
        return "", function(*arguments)
    except (ValueError, TypeError) as error:
        return str(error), None


def refusals(path: Path, read: Callable[[], Any], whole: Any, named: str, length: int | None = None) -> int:
    """Of a file's damages, those that a reader refuses by a name; from the others it must read what is whole."""
    refused = 0
    for _ in damages(path, length):
        wrong, found = told(read)
        assert named in wrong if wrong else found == whole
        refused += bool(wrong)
    return refused


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Run:
    run = train(tiny(epochs=1), tmp_path_factory.mktemp("scored"))
    evaluate(run, Scoring(n=100))
    return run


@pytest.fixture
def copy(scored, tmp_path) -> Path:
    return Path(shutil.copytree(scored.directory, tmp_path / "run"))


def answers(directory: Path) -> dict:
    """All that anyone reads of a finished run."""
    run = open_run(directory)
    row = results.frame([run]).to_json()
    return {"config": run.config, "metrics": run.metrics, "scores": run.scores, "about": run.environment, "row": row}


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_of_a_finished_run_is_named_by_whoever_reads_it(copy, name):
    for _ in damages(copy / name):
        with pytest.raises(ValueError, match=rf"{name} is damaged \(manifest.json has another checksum\); restore it"):
            answers(copy)
        with pytest.raises(ValueError, match=name):
            open_run(copy).verify()


def test_a_damaged_manifest_is_named_or_harmless(copy):
    """It has no digest: what it says of others, and of the run's end, is compared with them."""
    manifest = copy / "manifest.json"
    refusals(manifest, lambda: answers(copy), answers(copy), str(copy))
    assert refusals(manifest, lambda: open_run(copy).verify(), None, str(copy)) >= PLACES + PLACES // 2
    whole = json.loads(manifest.read_text("utf-8"))
    for field, other in (("step", 9), ("epoch", 2)):
        manifest.write_text(json.dumps(whole | {field: other}), "utf-8")
        with pytest.raises(ValueError, match="step or epoch differs from the last line of metrics.jsonl"):
            answers(copy)
    for text in ("[]", "null", '{"step": 1, "epoch": 1, "files": 7}', '{"step": 1}'):
        manifest.write_text(text, "utf-8")
        with pytest.raises(ValueError, match="manifest.json is damaged"):
            answers(copy)


def test_damaged_weights_are_named(copy):
    def numbers() -> dict:
        return {name: value.tolist() for name, value in load(copy).objective.state_dict().items()}

    assert refusals(copy / "weights.pt", numbers, numbers(), "weights.pt does not load") > PLACES


@pytest.fixture
def begun(tmp_path) -> Run:
    """A run that died in its second epoch, with checkpoints of two steps and logs beyond them."""
    return Run(stopped(tmp_path / "begun", 12, tiny(epochs=2)), tiny(epochs=2))


@pytest.fixture
def restored(begun) -> Callable[[], tuple]:
    """What goes on from a checkpoint, and the config and environment that the run then has."""
    expected = files.read_tensors(begun.directory / "previous.pt")["objective"]

    def again() -> tuple[dict, tuple[RunConfig, dict]]:
        run = Run(begun.directory, begun.config)
        return run.restore(torch.device("cpu"), expected), (run.config, run.environment)

    return again


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(begun, restored):
    last, _ = restored()
    for _ in damages(begun.directory / "checkpoint.pt"):
        with warnings.catch_warnings(record=True, action="always") as said:
            found, _ = restored()
        if said:
            assert "checkpoint.pt does not load" in str(said[0].message)
            assert found["step"] == last["step"] - 1
        else:  # a byte that torch does not read
            assert found["step"] == last["step"]
            assert same(found["objective"], last["objective"])


def test_damaged_logs_of_a_run_that_resumes_are_written_anew(begun, restored):
    """From the checkpoint, whatever the disk has made of them."""
    logs = [begun.directory / name for name in ("metrics.jsonl", "timing.jsonl")]
    restored()
    for whole in zip(*map(damages, logs)):
        restored()
        assert tuple(path.read_bytes() for path in logs) == whole
        assert all(whole)


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_a_damaged_config_of_a_run_that_resumes_is_refused_or_harmless(begun, restored, name):
    assert refusals(begun.directory / name, lambda: restored()[1], restored()[1], name) > PLACES


@pytest.fixture
def decoded(digits, scratch) -> Path:
    [whole] = [path for path in DECODED.glob("digits-*/cache.json") if digits.fingerprint in path.read_text("utf-8")]
    return Path(shutil.copytree(whole.parent, paths.CACHE / whole.parent.name))


@pytest.mark.parametrize("name", ["train.npy", "test-labels.npy"])
def test_a_cache_that_was_cut_short_is_refused_at_the_next_start(decoded, monkeypatch, name):
    """By its size, as a large one is."""
    monkeypatch.setattr(cache, "READ_WHOLE", 0)
    for _ in itertools.islice(damages(decoded / name), 0, None, 2):  # of which every second is a cut
        with pytest.raises(ValueError, match=rf"images in .*digits-\w+ are damaged \({name}.*\); remove them to"):
            datasets.load(RunConfig())


def test_a_cache_with_another_header_is_refused_or_harmless(decoded, digits, monkeypatch):
    monkeypatch.setattr(cache, "READ_WHOLE", 0)

    def opened() -> tuple[bytes, str, dict]:
        found = datasets.load(RunConfig())
        return found.train.images.numpy().tobytes(), found.fingerprint, found.about

    whole = (digits.train.images.numpy().tobytes(), digits.fingerprint, {})
    assert refusals(decoded / "train.npy", opened, whole, f"{decoded} are damaged", length=100) > PLACES


def test_a_changed_pixel_is_found_at_the_next_start_or_by_verifying(decoded, monkeypatch, capsys):
    """Of a small set, or of a large one."""
    assert main(["verify"]) == 0
    datasets.load(RunConfig())
    size = (decoded / "train.npy").stat().st_size
    for place in np.linspace(200, size - 1, PLACES).astype(int).tolist():
        flip(decoded / "train.npy", place)
        with pytest.raises(ValueError, match="are damaged .its fingerprint is"):
            cache.verify(decoded)
        flip(decoded / "train.npy", place)
    flip(decoded / "train.npy", size - 1)
    assert main(["verify"]) == 1
    assert f"the decoded images in {decoded} are damaged (its fingerprint is" in capsys.readouterr().out
    said = r"are damaged \(its fingerprint is .*; remove them to .* also remove .*features"
    with pytest.raises(ValueError, match=said):
        datasets.load(RunConfig())
    monkeypatch.setattr(cache, "READ_WHOLE", 1_000)
    datasets.load(RunConfig())


def test_damaged_features_of_real_images_are_taken_anew(scratch, digits):
    extractor = features.build("classifier", digits, "digits")
    real = digits.test.images[:50], "f" * 64, "test"
    whole = features.cached_features(extractor, *real)
    [path] = (paths.CACHE / "features").glob("*.pt")
    for _ in itertools.islice(damages(path), 0, None, 6):
        assert torch.equal(features.cached_features(extractor, *real), whole)


def test_verifying_names_every_damaged_run_and_weights_file(copy, begun, capsys):
    assert main(["verify", str(copy), str(begun.directory)]) == 0
    flip(copy / "weights.pt", 1000)
    flip(begun.directory / "previous.pt", 1000)
    (copy / "samples.png").unlink()
    assert main(["verify", str(copy), str(begun.directory)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == ["restore what is named above, or move it away, then start again", "2 checked, 2 damaged"]
    assert any("missing or changed since manifest.json: samples.png" in line for line in printed)
    assert any("previous.pt is damaged: its part 'archive/data.pkl' does not" in line for line in printed)


TENSORS = {
    "a": torch.arange(60.0).reshape(3, 4, 5),
    "b": torch.linspace(0, 1, 7, dtype=torch.float64),
    "c": torch.arange(64).reshape(2, 2, 4, 4).bfloat16().to(memory_format=torch.channels_last),
    "d": torch.arange(9),
}


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in expected.items()
    )


def with_digest(content: bytes) -> bytes:
    """As files of tensors once ended: a mark, and the sha256 of what stands before it."""
    return content + b"sha256:" + hashlib.sha256(content).digest()


@pytest.fixture
def tensors(tmp_path) -> Path:
    files.write_tensors(tmp_path / "others.pt", {name: value + 1 for name, value in TENSORS.items()})
    files.write_tensors(tmp_path / "tensors.pt", TENSORS)
    return tmp_path / "tensors.pt"


@pytest.mark.parametrize("ending", [bytes, with_digest])
def test_a_flipped_bit_never_gives_other_numbers(tensors, ending):
    """At every seventh byte, and at each of the zip's directory, of which torch reads other fields than zipfile."""
    content, generator, refused = ending(tensors.read_bytes()), np.random.default_rng(0), 0
    directory = content.index(b"PK\1\2")
    places = [*range(0, directory, 7), *range(directory, len(content))]
    for place in places:
        flipped = content[place] ^ (1 << int(generator.integers(8)))
        tensors.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        files.read_tensors(tensors.with_name("others.pt"))  # whose numbers lie in memory that nobody sets
        wrong, found = told(files.read_tensors, tensors)
        assert str(tensors) in wrong or same(found, TENSORS), place
        refused += bool(wrong)
    assert refused > len(places) // 2


def test_a_part_that_is_marked_as_a_folder_is_refused(tensors):
    """Its checksum is right, yet torch would take it for empty."""
    content, refused = tensors.read_bytes(), 0
    for entry in re.finditer(re.escape(b"PK\1\2"), content):
        marked = bytearray(content)
        marked[entry.start() + 38] |= 0x10  # the external attributes, by PKWARE's APPNOTE 4.3.12 and 4.4.15
        tensors.write_bytes(marked)
        with pytest.raises(ValueError, match=r"tensors.pt is damaged: its part 'archive/\S+' does not match"):
            files.read_tensors(tensors)
        refused += 1
    assert refused == len(zipfile.ZipFile(tensors).namelist())


def test_a_cut_file_of_tensors_never_loads(tensors):
    content = tensors.read_bytes()
    cuts = [content[:length] for length in (*range(0, len(content), 7), 2, len(content) - 1)]
    for other in (*cuts, b"text"):
        tensors.write_bytes(other)
        with pytest.raises(ValueError, match=r"tensors.pt is cut short or not a file of tensors \("):
            files.read_tensors(tensors)


def test_files_that_end_in_a_digest_still_load(tensors):
    content = tensors.read_bytes()
    for ended in (with_digest(content), with_digest(content)[:-9]):  # cut within it, too: the zip is whole
        tensors.write_bytes(ended)
        assert same(files.read_tensors(tensors), TENSORS)


def test_torch_itself_reads_what_is_written(copy, tensors):
    assert same(torch.load(tensors, weights_only=True), TENSORS)
    ours, torchs = files.read_tensors(copy / "weights.pt"), torch.load(copy / "weights.pt", weights_only=True)
    assert same(ours["objective"], torchs["objective"])


@pytest.mark.parametrize("rows", ["scored before", "never scored"])
def test_a_kill_between_manifest_and_scores_leaves_the_old_rows_readable(copy, tmp_path, monkeypatch, rows):
    """The manifest goes first; until the rows follow, it takes the old ones, too, or none."""
    if rows == "never scored":
        copy = train(tiny(epochs=1), tmp_path / "new").directory
    run, before = open_run(copy), open_run(copy).scores
    write = files.write

    def dying(path, *rest):
        if path.name == "scores.json":
            raise Stopped
        write(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", dying)
        with pytest.raises(Stopped):
            evaluate(run, Scoring(n=50))
    assert open_run(copy).scores == before
    open_run(copy).verify()
    evaluate(open_run(copy), Scoring(n=50))
    assert len(open_run(copy).scores) > len(before)
    assert "replacing" not in open_run(copy).manifest
    open_run(copy).verify()


def test_a_record_that_is_replaced_while_it_is_read_is_not_called_damaged(copy, monkeypatch):
    """Another process ends its scoring between the rows and the manifest that a reader takes."""
    read, scored = manifest._manifest, []

    def late(directory):
        if not scored:
            scored.append(directory)
            evaluate(open_run(copy), Scoring(n=50))
        return read(directory)

    before = len(json.loads((copy / "scores.json").read_text("utf-8")))
    monkeypatch.setattr(manifest, "_manifest", late)
    assert len(json.loads(manifest.read(copy, "scores.json"))) > before


def test_what_a_run_is_sealed_with_is_what_it_knows(tmp_path, monkeypatch):
    """Not what the disk made of its records meanwhile."""
    whole = train(tiny(epochs=1), tmp_path / "whole")
    append = Run.append

    def spoiling(self, name, line):
        append(self, name, line)
        for record in RECORDS[:3]:
            path = self.directory / record
            path.write_text(path.read_text("utf-8").replace("1", "2"), "utf-8")

    monkeypatch.setattr(Run, "append", spoiling)
    run = train(tiny(epochs=1), tmp_path / "spoiled")
    run.verify()
    for name in RECORDS[:3]:
        assert (run.directory / name).read_bytes() == (whole.directory / name).read_bytes()


@pytest.mark.parametrize("name", ["metrics.jsonl", "scores.json", "config.json"])
def test_a_record_that_is_missing_is_not_an_empty_one(copy, name):
    (copy / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is damaged \(it is missing\); restore it, or move"):
        answers(copy)
    with pytest.raises(ValueError, match=rf"changed since manifest.json: {name}; restore them, or move .* away"):
        open_run(copy).verify() if name != "config.json" else manifest.verify(copy)


def test_a_run_that_lost_its_manifest_is_named_and_made_again_with_its_scores(copy):
    """Scores without a manifest are not taken for its own."""
    before = open_run(copy).scores
    (copy / "manifest.json").unlink()
    (copy / "scores.json").write_text((copy / "scores.json").read_text("utf-8").replace("1", "7"), "utf-8")
    [(_, wrong)] = verify([copy])
    assert "has scores but no manifest.json; restore it, or start the run again" in wrong
    run = train(open_run(copy).config, directory=copy)
    assert run.scores == []
    evaluate(run, Scoring(n=100))
    assert run.scores == before


def test_a_folder_of_runs_is_verified_run_by_run_and_what_is_none_is_no_damage(copy, tmp_path):
    assert [path for path, _ in verify([tmp_path])] == [copy]
    with pytest.raises(FileNotFoundError, match="nowhere has no runs; pass a run directory"):
        list(verify([tmp_path / "nowhere"]))
