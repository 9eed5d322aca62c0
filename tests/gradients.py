"""The gradients of one training step on the world of training_world.py, by one process or several.

As a program, started by torchrun in each process: gradients.py FOLDER OUT CHUNK_SIZE DROPOUT writes
the gradients of every case into the file OUT.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import train
import xlt

# Every batching, every kind of perturbation, both towers, points of several views
CASES = [
    ("en-en", "none"),
    ("x-x", "typos"),
    ("x-x-mono", "none"),
    ("x-y", "none"),
    ("x-y", "rs-rp:perturb=both"),
    ("x-y", "rs-da"),
    ("x-x-mono", "code-switch"),
    ("x-y", "adv:how=pgd"),
    ("x-x", "adv:how=freelb,steps=2,perturb=both"),
    ("x-y", "rs-da+self-teaching"),
    ("x-y", "rs-rp+rs-da+adv:how=fgm"),
]


@dataclass
class Step:
    """One training step, ready to be made."""

    encoder: xlt.Encoder
    batch: xlt.Batch
    flags: train.RunFlags
    perturber: train.Perturber

    def run(self, number=3):
        """The report of the step; the gradients lie in the weights."""
        return train.training_step(self.encoder, self.batch, self.flags, self.perturber, number)


def make_step(folder, batching, robust, chunk_size=0, dropout=0.1, *more):
    """Eight pairs of the world in `folder`, its encoder in training mode."""
    encoder, data = xlt.load_encoder(folder / "model"), xlt.load_data(folder)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    argv = ["--data", str(folder), "--train-langs", "en", "de", *more]
    flags = replace(
        train.single_runs(train.parse(argv))[0],
        batching=batching,
        robust=robust,
        chunk_size=chunk_size,
    )
    pairs = xlt.TrainingPairs(data, ["en", "de"])
    batch = next(iter(xlt.batches(pairs, batching, 8, 1)))
    train.make_optimizer(encoder, flags)
    return Step(encoder.train(), batch, flags, train.make_perturber(flags, data, encoder))


def gradients_of(encoder):
    """Name of a weight -> its gradient, of those that have one."""
    grads = {}
    for name, weight in encoder.named_parameters():
        if weight.grad is not None:
            grads[name] = weight.grad.clone()
    return grads


def main(folder, out, chunk_size, dropout):
    """All cases; the first process writes."""
    torch.set_num_threads(1)
    train.start_processes("cpu")
    content = {}
    for batching, robust in CASES:
        step = make_step(Path(folder), batching, robust, int(chunk_size), float(dropout))
        report = step.run()
        counts = step.perturber.counts
        content[f"{batching} {robust}"] = {
            "gradients": gradients_of(step.encoder),
            "loss": report.losses.loss.item(),
            "noise": [counts.tokens, counts.norm],
            "edited": counts.edited,
        }
    if train.process_number() == 0:
        torch.save(content, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
