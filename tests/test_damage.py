"""Files that were cut short, or in which one byte is another: found by whoever reads them, never a wrong number."""

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny

from mocalib import (
    Compute,
    RunConfig,
    Scoring,
    __main__,
    data,
    evaluate,
    features,
    files,
    integrity,
    load,
    paths,
    records,
    seals,
    train,
)
from mocalib.runs import Run, RunMismatch, open_run

PLACES = 30
RECORDS = ("config.json", "environment.json", "metrics.jsonl", "scores.json")
DECODED = paths.CACHE  # of all tests, before one is given a place of its own


def damages(content: bytes) -> Iterator[bytes]:
    """Cut at 30 places, and with one byte changed at 30; the last byte and the first are among them."""
    generator = np.random.default_rng(0)
    for place in np.linspace(0, len(content) - 1, PLACES).astype(int).tolist():
        yield content[:place]
        yield content[:place] + bytes([content[place] ^ int(generator.integers(1, 256))]) + content[place + 1 :]


def told(function: Callable, *arguments: Any) -> tuple[str, Any]:
    """What a call says was wrong, "" if nothing, and what it returned."""
    try:
        return "", function(*arguments)
    except (ValueError, TypeError) as error:
        return str(error), None


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Run:
    run = train(tiny(epochs=1), tmp_path_factory.mktemp("scored"), Compute(threads=1))
    evaluate(run, Scoring(n=100))
    return run


@pytest.fixture
def copy(scored, tmp_path) -> Path:
    return Path(shutil.copytree(scored.directory, tmp_path / "run"))


def answers(directory: Path) -> dict:
    """All that anyone reads of a finished run."""
    run = open_run(directory)
    row = records.frame([run]).to_json()
    return {"config": run.config, "metrics": run.metrics, "scores": run.scores, "about": run.environment, "row": row}


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_of_a_finished_run_is_named_by_whoever_reads_it(copy, name):
    content = (copy / name).read_bytes()
    for damaged in damages(content):
        (copy / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name} is damaged \(it is not what manifest.json sealed\); restore it"):
            answers(copy)
        with pytest.raises(ValueError, match=name):
            open_run(copy).verify()


def test_a_damaged_manifest_is_named_or_harmless(copy):
    """It has no digest: what it says of others, and of the run's end, is compared with them."""
    content, whole = (copy / "manifest.json").read_bytes(), answers(copy)
    refused = 0
    for damaged in damages(content):
        (copy / "manifest.json").write_bytes(damaged)
        wrong, _ = told(lambda: open_run(copy).verify())
        reading, found = told(answers, copy)
        assert reading or found == whole
        assert all(str(copy) in error for error in (wrong, reading) if error)
        refused += bool(wrong)
    assert refused >= PLACES + PLACES // 2
    for field, other in (("step", 9), ("epoch", 2)):
        (copy / "manifest.json").write_text(json.dumps(json.loads(content) | {field: other}))
        with pytest.raises(ValueError, match="step and epoch are not those of metrics.jsonl's last line"):
            answers(copy)


def test_damaged_weights_are_named(copy):
    content = (copy / "weights.pt").read_bytes()
    whole = load(copy).objective.state_dict()
    for damaged in damages(content):
        (copy / "weights.pt").write_bytes(damaged)
        wrong, found = told(load, copy)
        if found:  # a byte that torch does not read
            assert all(torch.equal(value, whole[name]) for name, value in found.objective.state_dict().items())
        else:
            assert "weights.pt does not load" in wrong


class Stopped(BaseException):
    pass


@pytest.fixture
def begun(tmp_path, monkeypatch) -> Run:
    """A run that died in its second epoch, with checkpoints of two steps and logs beyond them."""
    config, batch = tiny(epochs=2), data.ResidentImages.batch

    def dying(self, step):
        if step == 12:
            raise Stopped
        return batch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(data.ResidentImages, "batch", dying)
        with pytest.raises(Stopped):
            train(config, directory=tmp_path / "begun", compute=Compute(threads=1, checkpoint_seconds=0))
    return Run(tmp_path / "begun", config)


def restored(run: Run) -> dict:
    expected = files.read_tensors(run.directory / "previous.pt")["objective"]
    return Run(run.directory, run.config).restore(torch.device("cpu"), expected)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(begun):
    content = (begun.directory / "checkpoint.pt").read_bytes()
    last = restored(begun)
    for damaged in damages(content):
        (begun.directory / "checkpoint.pt").write_bytes(damaged)
        try:
            with pytest.warns(UserWarning, match="checkpoint.pt does not load"):
                assert restored(begun)["step"] == last["step"] - 1
        except pytest.fail.Exception:  # nothing was warned of: a byte that torch does not read
            found = restored(begun)
            assert found["step"] == last["step"]
            assert all(torch.equal(found["objective"][name], last["objective"][name]) for name in last["objective"])


@pytest.mark.filterwarnings("ignore:.*does not load")
def test_two_damaged_checkpoints_are_refused_with_the_way_out(begun):
    for path in begun.directory.glob("*.pt"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(RunMismatch, match=r"checkpoint.pt and previous.pt do not load; remove them to train from the"):
        train(begun.config, directory=begun.directory)


def test_damaged_logs_of_a_run_that_resumes_are_written_anew(begun):
    """From the checkpoint, whatever the disk has made of them."""
    for name in ("metrics.jsonl", "timing.jsonl"):
        restored(begun)
        content = (begun.directory / name).read_bytes()
        assert content
        for damaged in damages(content):
            (begun.directory / name).write_bytes(damaged)
            restored(begun)
            assert (begun.directory / name).read_bytes() == content


@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_a_damaged_config_of_a_run_that_resumes_is_refused_or_harmless(begun, name):
    expected = files.read_tensors(begun.directory / "checkpoint.pt")["objective"]

    def resumed() -> tuple[RunConfig, dict]:
        run = Run(begun.directory, begun.config)
        run.restore(torch.device("cpu"), expected)
        return run.config, run.environment

    content, whole, refused = (begun.directory / name).read_bytes(), resumed(), 0
    for damaged in damages(content):
        (begun.directory / name).write_bytes(damaged)
        wrong, found = told(resumed)
        assert name in wrong or found == whole
        refused += bool(wrong)
    assert refused > PLACES


# --------------------------------------------------------------------------------------------------- decoded images


@pytest.fixture
def cache(digits, scratch) -> Path:
    [whole] = [path for path in DECODED.glob("digits-*/cache.json") if digits.fingerprint in path.read_text()]
    return Path(shutil.copytree(whole.parent, paths.CACHE / whole.parent.name))


@pytest.mark.parametrize("name", ["train.npy", "test-labels.npy"])
def test_a_cache_that_was_cut_short_is_refused_at_the_next_start(cache, monkeypatch, name):
    """By its size, as a large one is."""
    monkeypatch.setattr(data, "READ_WHOLE", 0)
    content = (cache / name).read_bytes()
    for place in np.linspace(0, len(content) - 1, PLACES).astype(int).tolist():
        (cache / name).write_bytes(content[:place])
        with pytest.raises(ValueError, match=rf"images in .*digits-\w+ are damaged \({name}.*\); remove it, to decode"):
            data.load(RunConfig())


@pytest.mark.parametrize("name", ["train.npy", "cache.json"])
def test_a_cache_with_another_header_is_refused_or_harmless(cache, digits, monkeypatch, name):
    """The .npy header's first bytes, and all of what it is compared with."""
    monkeypatch.setattr(data, "READ_WHOLE", 0)
    content = (cache / name).read_bytes()
    length, refused = min(len(content), 100), 0
    for damaged in damages(content[:length]):
        (cache / name).write_bytes(damaged + content[length:])
        wrong, found = told(data.load, RunConfig())
        if found:
            assert torch.equal(found.train.images, digits.train.images)
            assert (found.fingerprint, found.left_out) == (digits.fingerprint, [])
        else:
            assert f"{cache} are damaged" in wrong
        refused += bool(wrong)
    assert refused > PLACES


def test_a_changed_pixel_is_found_by_verifying(cache, capsys):
    assert __main__.main(["verify"]) == 0
    content = bytearray((cache / "train.npy").read_bytes())
    for place in np.linspace(200, len(content) - 1, PLACES).astype(int).tolist():
        content[place] ^= 4
        (cache / "train.npy").write_bytes(content)
        with pytest.raises(ValueError, match="are damaged .its fingerprint is"):
            data.verify(cache)
        content[place] ^= 4
    (cache / "train.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert __main__.main(["verify"]) == 1
    assert f"the decoded images in {cache} are damaged (its fingerprint is" in capsys.readouterr().out


def test_damaged_features_of_real_images_are_taken_anew(scratch, digits):
    extractor = features.build("classifier", digits, "digits")
    whole = features.cached_features(extractor, digits.test.images[:50], "f" * 64, "test")
    [path] = (paths.CACHE / "features").glob("*.pt")
    content = path.read_bytes()
    for damaged in list(damages(content))[::6]:
        path.write_bytes(damaged)
        assert torch.equal(features.cached_features(extractor, digits.test.images[:50], "f" * 64, "test"), whole)


def test_verifying_names_every_damaged_run_and_weights_file(copy, begun, capsys):
    assert __main__.main(["verify", str(copy), str(begun.directory)]) == 0
    for path in (copy / "weights.pt", begun.directory / "previous.pt"):
        content = bytearray(path.read_bytes())
        content[1000] ^= 1
        path.write_bytes(content)
    (copy / "samples.png").unlink()
    assert __main__.main(["verify", str(copy), str(begun.directory)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == ["restore what is named, or remove it, and start again", "2 read whole, 2 damaged"]
    assert any("not as its manifest says: samples.png" in line for line in printed)
    assert any("previous.pt is damaged: 'archive/data.pkl' in it is not what its" in line for line in printed)


# ------------------------------------------------------------------------------------------------- files of tensors

TENSORS = {
    "a": torch.arange(60.0).reshape(3, 4, 5),
    "b": torch.linspace(0, 1, 7, dtype=torch.float64),
    "c": torch.arange(64).reshape(2, 2, 4, 4).bfloat16().to(memory_format=torch.channels_last),
    "d": torch.arange(9),
}
OTHERS = {name: value + 1 for name, value in TENSORS.items()}


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in expected.items()
    )


def with_digest(content: bytes) -> bytes:
    """As files of tensors once ended: a mark, and the sha256 of what stands before it."""
    return content + b"sha256:" + hashlib.sha256(content).digest()


@pytest.fixture
def tensors(tmp_path) -> Path:
    files.write_tensors(tmp_path / "others.pt", OTHERS)
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
        with pytest.raises(ValueError, match=r"tensors.pt is damaged: 'archive/\S+' in it is not what its checksum"):
            files.read_tensors(tensors)
        refused += 1
    assert refused == len(zipfile.ZipFile(tensors).namelist())


def test_a_cut_file_of_tensors_never_loads(tensors):
    content = tensors.read_bytes()
    for length in [*range(0, len(content), 7), len(content) - 1]:
        tensors.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"tensors.pt is cut short or no file of tensors \("):
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
        copy = train(tiny(epochs=1), tmp_path / "new", Compute(threads=1)).directory
    run, before = open_run(copy), open_run(copy).scores
    write = files.write

    def dying(path, *rest):
        if path.name == "scores.json":
            raise Stopped
        write(path, *rest)

    monkeypatch.setattr(files, "write", dying)
    with pytest.raises(Stopped):
        evaluate(run, Scoring(n=50))
    monkeypatch.setattr(files, "write", write)
    assert open_run(copy).scores == before
    open_run(copy).verify()
    evaluate(open_run(copy), Scoring(n=50))
    assert len(open_run(copy).scores) > len(before)
    assert "replacing" not in open_run(copy).manifest
    open_run(copy).verify()


def test_a_record_that_is_replaced_while_it_is_read_is_not_called_damaged(copy, monkeypatch):
    """Another process ends its scoring between the rows and the manifest that a reader takes."""
    read, scored = seals._manifest, []

    def late(directory):
        if not scored:
            scored.append(directory)
            evaluate(open_run(copy), Scoring(n=50))
        return read(directory)

    before = len(json.loads((copy / "scores.json").read_text()))
    monkeypatch.setattr(seals, "_manifest", late)
    assert len(json.loads(seals.read(copy, "scores.json"))) > before


def test_what_a_run_is_sealed_with_is_what_it_knows(tmp_path, monkeypatch):
    """Not what the disk made of its records meanwhile."""
    whole = train(tiny(epochs=1), tmp_path / "whole", Compute(threads=1))
    append = Run.append

    def spoiling(self, name, line):
        append(self, name, line)
        for record in ("metrics.jsonl", "environment.json", "config.json"):
            path = self.directory / record
            path.write_text(path.read_text().replace("1", "2"))

    monkeypatch.setattr(Run, "append", spoiling)
    run = train(tiny(epochs=1), tmp_path / "spoiled", Compute(threads=1))
    run.verify()
    for name in ("metrics.jsonl", "environment.json", "config.json"):
        assert (run.directory / name).read_bytes() == (whole.directory / name).read_bytes()


@pytest.mark.parametrize("text", ["[]", "null", '{"step": 1, "epoch": 1, "files": 7}', '{"step": 1}'])
def test_a_manifest_that_is_none_is_named(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        answers(copy)


@pytest.mark.parametrize("name", ["metrics.jsonl", "scores.json", "config.json"])
def test_a_record_that_is_missing_is_not_an_empty_one(copy, name):
    (copy / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is damaged \(it is missing\); restore it, or remove"):
        answers(copy)
    with pytest.raises(ValueError, match=rf"not as its manifest says: {name}; restore them, or remove .* to make it"):
        open_run(copy).verify() if name != "config.json" else seals.verify(copy)


def test_a_run_that_lost_its_manifest_is_named_and_made_again_with_its_scores(copy):
    """Scores that nothing seals are not taken for its own."""
    before = open_run(copy).scores
    (copy / "manifest.json").unlink()
    (copy / "scores.json").write_text((copy / "scores.json").read_text().replace("1", "7"))
    [(_, wrong)] = integrity.verify([copy])
    assert "has scores and no manifest.json; restore it, or start the run again" in wrong
    run = train(open_run(copy).config, directory=copy, compute=Compute(threads=1))
    assert run.scores == []
    evaluate(run, Scoring(n=100))
    assert run.scores == before


@pytest.mark.parametrize("content", [b"", b"PK", b"text"])
def test_weights_that_are_none_are_named_with_what_is_wrong(copy, content):
    (copy / "weights.pt").write_bytes(content)
    [(_, wrong)] = integrity.verify([copy])
    assert f"{copy / 'weights.pt'} is cut short or no file of tensors (" in wrong


def test_a_folder_of_runs_is_verified_run_by_run_and_what_is_none_is_no_damage(copy, tmp_path):
    assert [path for path, _ in integrity.verify([tmp_path])] == [copy]
    with pytest.raises(FileNotFoundError, match="nowhere is no run directory and no folder of them"):
        list(integrity.verify([tmp_path / "nowhere"]))


def test_a_changed_pixel_of_a_small_set_is_found_at_the_next_start(cache, monkeypatch):
    data.load(RunConfig())
    content = bytearray((cache / "test.npy").read_bytes())
    content[5_000] ^= 1
    (cache / "test.npy").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"are damaged \(its fingerprint is .*; remove it, .* and .*features, whose files"
    ):
        data.load(RunConfig())
    monkeypatch.setattr(data, "READ_WHOLE", 1_000)
    data.load(RunConfig())  # of a large one, by verifying alone
