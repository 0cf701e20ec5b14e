"""Wrong versions of DC-VAE and of a few other parts, one at a time: tests must find each, and must pass without one.

Each mutant is a change of one text, which must stand exactly once in its file. The change is made in a copy of the
library, where its test file then runs until the first failure.

    python tests/mutants.py [NAME ...]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("mocalib", "tests", "data/features", "pyproject.toml")
METHOD, LOSSES, QUEUE, NETS = "methods/dcvae.py", "methods/losses.py", "methods/queue.py", "models/autogan.py"
MOCA, WAE, VAE, METRICS = "methods/moca.py", "methods/wae.py", "methods/vae.py", "evaluation/metrics.py"
EVALUATE = "evaluation/evaluate.py"
DIAGONAL = ".masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -math.inf)"


SUM = """\
        for conv, skip in zip(self.skips, skips):
            h = h + self.resize(conv(skip), side)
        y = self.conv2(F.relu(h))
"""


class Mutant(NamedTuple):
    """What is wrong, and where: `old` becomes `new` in a file of the library. `tests` is the file that must find it."""

    name: str
    file: str
    old: str
    new: str
    tests: str = "test_dcvae"


MUTANTS = [
    # losses
    Mutant("hinge sign", LOSSES, "F.relu(1 + logits)", "F.relu(1 - logits)"),
    Mutant("hinge margin", LOSSES, "F.relu(1 + logits)", "F.relu(logits)"),
    Mutant("generator's sign", LOSSES, "-fake if hinge", "fake if hinge"),
    Mutant("a half becomes one", LOSSES, "wrong(fake).mean() for fake in fakes) / len(fakes)",
           "wrong(fake).mean() for fake in fakes)"),
    Mutant("a generator's half becomes one", LOSSES, "penalty.mean() for penalty in penalties) / len(fakes)",
           "penalty.mean() for penalty in penalties)"),
    Mutant("KL summed over images", LOSSES, "- log_variance - 1).sum() / (2 * len(mean))",
           "- log_variance - 1).sum() / 2"),
    Mutant("KL averaged over the latent", LOSSES, "- log_variance - 1).sum() / (2 * len(mean))",
           "- log_variance - 1).mean() / 2"),
    Mutant("the positive is not in the denominator", LOSSES, "F.softplus(decoupled_of(parts) + parts.log_size)",
           "decoupled_of(parts) + parts.log_size"),
    Mutant("always the hinge", METHOD, 'c.critic == "hinge"', "True"),
    Mutant("tau 1", METHOD, "self.config.temperature, queries", "1.0, queries"),
    Mutant("a sum over layers", METHOD, "sum(nce.values()) / len(nce)", "sum(nce.values())"),
    Mutant("no KL beside the distance", METHOD, "distance + self.config.kl_weight * kl", "distance"),
    Mutant("no KL beside the critic", METHOD, "deceived + self.config.kl_weight * losses.kl_divergence(*posterior)",
           "deceived"),
    Mutant("features of the first block", METHOD, "self.discriminator(x_hat).maps[-1]",
           "self.discriminator(x_hat).maps[0]"),
    # who is asked, and who learns
    Mutant("queries of the key net", METHOD, "self._embedded(self.discriminator, x_hat, place)",
           "self._embedded(self.key_discriminator, x_hat, place)"),
    Mutant("keys of the discriminator", METHOD, "self._embedded(self.key_discriminator, x, place)",
           "self._embedded(self.discriminator, x, place)"),
    Mutant("keys of reconstructions", METHOD, "self._embedded(self.key_discriminator, x, place)",
           "self._embedded(self.key_discriminator, x_hat, place)"),
    Mutant("contrast leaves the trunk", METHOD, 'name != "critic"', 'name not in ("critic", "trunk")'),
    Mutant("contrast leaves the heads", METHOD, 'name != "critic"', 'name not in ("critic", "heads")'),
    Mutant("features step the trunk", METHOD, "if self.contrasts else nets",
           'if self.contrasts else (*nets, "trunk") if c.adversarial else nets'),
    Mutant("the generator steps the critic", METHOD, 'Turn("generator", nets, every)',
           'Turn("generator", (*nets, "critic"), every)'),
    Mutant("the discriminator leaves its trunk", METHOD, 'Turn("discriminator", ("trunk", "critic"))',
           'Turn("discriminator", ("critic",))'),
    Mutant("Adam's usual betas", METHOD, "(0.0, 0.9)", "(0.9, 0.999)"),
    # noise
    Mutant("z of the generator is z of the discriminator", METHOD, "parts[3].reshape(-1, self.latent_dim)",
           "parts[1].reshape(-1, self.latent_dim)"),
    Mutant("eps of the generator is eps of the discriminator", METHOD, "self._generator(x, parts[2],",
           "self._generator(x, parts[0],"),
    Mutant("as many samples as images", METHOD, "parts[3].reshape(-1, self.latent_dim)",
           "parts[3][:, : self.latent_dim]"),
    # averages and queues
    Mutant("the averaged decoder's BatchNorm left alone", METHOD, "self.config.averaging, STATISTICS)",
           "self.config.averaging)"),
    Mutant("the live decoder decodes", METHOD, "return self.averaged(z)", "return self.decoder(z)"),
    Mutant("the key net a step late", METHOD, 'turn == "generator" if self.config.adversarial else last', "last"),
    Mutant("the key net averaged at every step", METHOD, 'turn == "generator" if self.config.adversarial else last',
           "True"),
    Mutant("the decoder's average takes the key net's momentum", METHOD, "self.config.averaging",
           "self.config.momentum"),
    Mutant("an average the wrong way round", QUEUE, "torch._foreach_mul_(targets, m)",
           "torch._foreach_mul_(targets, 1 - m)"),
    Mutant("a queue that moves a key too few", QUEUE, "self.head.add_(keys.shape[0])",
           "self.head.add_(keys.shape[0] - 1)"),
    Mutant("a queue that starts a key too late", QUEUE, "(self.head + skip +", "(self.head + 1 + skip +"),
    # turns
    Mutant("every one off", METHOD, "every, start = c.every if", "every, start = c.every + 1 if"),
    Mutant("the discriminator as rare as the rest", METHOD, 'Turn("discriminator", ("trunk", "critic"))',
           'Turn("discriminator", ("trunk", "critic"), every)'),
    Mutant("the patch from the start", METHOD, 'Turn("instance_patch", updates, every, start=start)',
           'Turn("instance_patch", updates, every)'),
    # places
    Mutant("the next block's places", METHOD, "seen.maps[self.config.local - 1]", "seen.maps[self.config.local % 4]"),
    Mutant("the last place is never drawn", METHOD, "(noise) * maps.shape[2])", "(noise) * (maps.shape[2] - 1))"),
    Mutant("places a normal number apart", METHOD, "torch.special.ndtr(noise)", "torch.sigmoid(noise)"),
    Mutant("a patch of full weight", METHOD, "self.config.local_weight * sum(local.values())",
           "sum(local.values())"),
    # nets
    Mutant("mean pool", NETS, "F.relu(x).sum(dim=(2, 3))", "F.relu(x).mean(dim=(2, 3))"),
    Mutant("no ReLU before the pool", NETS, "F.relu(x).sum(dim=(2, 3))", "x.sum(dim=(2, 3))"),
    Mutant("pixels not centred", NETS, "2 * x - 1 if self.first", "x if self.first"),
    Mutant("pixels rectified", NETS, "x if self.first else F.relu(x))))", "F.relu(x))))"),
    Mutant("a shortcut of the rectified input", NETS, "self.shortcut(self.pool(x))",
           "self.shortcut(self.pool(F.relu(x)))"),
    Mutant("block 3 halves the side too", NETS, "Block(maps, maps), *(Block(maps, maps, pool=False) for _ in range(2))",
           "Block(maps, maps), Block(maps, maps), Block(maps, maps, pool=False)"),
    Mutant("a head of the next block", NETS, "seen.maps[int(name) - 1]", "seen.maps[int(name)]"),
    Mutant("a critic without a spectral norm", NETS, "spectral_norm(nn.Linear(DCVAE.embedding, 1))",
           "nn.Linear(DCVAE.embedding, 1)"),
    Mutant("a head with a spectral norm", NETS, "nn.Conv2d(maps, 1, 1), nn.Flatten()",
           "spectral_norm(nn.Conv2d(maps, 1, 1)), nn.Flatten()"),
    Mutant("skip before the sum", NETS, SUM, SUM.replace("h = h +", "s = s +").replace("relu(h)", "relu(s)")
           .replace("for conv", "s = h\n        for conv")),
    Mutant("cell 2 doubles by nearest pixels", NETS, 'Cell(maps, "bilinear", 1)', 'Cell(maps, "nearest", 1)'),
    Mutant("cell 3 has a shortcut", NETS, 'Cell(maps, "nearest", 2, shortcut=False)', 'Cell(maps, "nearest", 2)'),
    Mutant("cell 3 without cell 1's skip", NETS, "zip(self.skips, skips)", "zip(self.skips, skips[-1:])"),
    Mutant("a plain sigmoid", NETS, "Pixels(gain=2.0)", "Pixels()"),
    Mutant("a decoder that starts by torch's rule", NETS, "nn.init.xavier_uniform_(layer.weight)", "pass"),
    Mutant("a head that starts by torch's rule", NETS, "nn.init.xavier_uniform_(head[0].weight)", "pass"),
    # losses of the latents of one batch
    Mutant("a latent is its own key", LOSSES, DIAGONAL, "", "test_equations"),
    Mutant("keys of a batch are not trained", LOSSES, "return (z @ z.T).", "return (z @ z.detach().T).",
           "test_equations"),
    Mutant("a mean over as many keys as latents", LOSSES, "math.log(len(q) - 1)", "math.log(len(q))",
           "test_equations"),
    Mutant("points in the order of the batch", LOSSES, "(points @ directions.T).sort(dim=0).values",
           "(points @ directions.T)", "test_equations"),
    Mutant("points are the directions", MOCA, "losses.sliced_wasserstein(q, points, directions)",
           "losses.sliced_wasserstein(q, directions, points)", "test_methods"),
    # other settings of methods
    Mutant("the constant momentum rises", MOCA, 'self.config.schedule == "cosine"', "True", "test_queue"),
    Mutant("running statistics ignored", WAE, 'if self.config.statistics == "running" else None', "if False else None",
           "test_baselines"),
    Mutant("the penalty leaves the net in evaluation", WAE, "self.encoder.train()", "self.encoder", "test_baselines"),
    Mutant("the KL's weight ignored", VAE, "self.config.kl_weight * kl", "kl", "test_baselines"),
    # scores
    Mutant("KID adds its cross term", METRICS, "return within - 2 *", "return within + 2 *", "test_evaluation"),
    Mutant("KID keeps the diagonal", METRICS, "(_kernel_sum(x, x) - _diagonal(x))", "_kernel_sum(x, x)",
           "test_evaluation"),
    Mutant("a point is its own neighbour", METRICS, "topk(NEIGHBOURS + 1,", "topk(NEIGHBOURS,", "test_evaluation"),
    Mutant("precision is recall", METRICS, '"precision": _covered(found, reference)',
           '"precision": _covered(reference, found)', "test_evaluation"),
    Mutant("sharpness of one channel", METRICS, "part.float().mean(dim=1, keepdim=True)", "part.float()[:, :1]",
           "test_evaluation"),
    Mutant("one floor for every n", EVALUATE, '"floor", len(subject))', '"floor", 0)', "test_evaluation"),
    Mutant("a path length makes any n scored", EVALUATE, ' and row["metric"] != perception.PATH_LENGTH', "",
           "test_evaluation"),
]  # fmt: skip


def tested(folder: Path, *names: str) -> tuple[bool, str]:
    """Whether these tests of the copy pass, and the line that says which one fails first, and how."""
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += [f"tests/{name}.py" for name in names]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8")
    if done.returncode not in (0, 1):  # 1: a test failed; else nothing was tested
        raise SystemExit(f"pytest did not run its tests:\n{done.stdout}{done.stderr}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 0, "".join(failed[:1])


def mutated(library: Path, mutant: Mutant) -> tuple[Path, str, str]:
    """The file, its text, and its text with the change; exits where `old` does not stand there exactly once."""
    path = library / mutant.file
    text = path.read_text("utf-8")
    if (count := text.count(mutant.old)) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.old!r} stands {count} times in {mutant.file}; mend it in MUTANTS")
    return path, text, text.replace(mutant.old, mutant.new)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of mutants; none: all")
    names = parser.parse_args().names
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        parser.error(f"no mutant is named {', '.join(map(repr, sorted(unknown)))}")
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    with tempfile.TemporaryDirectory(prefix="mocalib-mutants-") as scratch:
        folder = Path(scratch)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        changes = [mutated(folder / "mocalib", mutant) for mutant in chosen]
        green, said = tested(folder, *dict.fromkeys(mutant.tests for mutant in chosen))
        if not green:
            raise SystemExit(f"the tests fail without any mutant: {said}")
        survived = []
        for mutant, (path, text, wrong) in zip(chosen, changes):
            path.write_text(wrong, "utf-8")
            green, said = tested(folder, mutant.tests)
            path.write_text(text, "utf-8")
            survived += [mutant.name] if green else []
            print(f"{'SURVIVED' if green else 'found':8}  {mutant.name}  {said}", flush=True)
    print(f"mutants: {len(chosen)}, survived: {len(survived)}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
