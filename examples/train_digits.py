"""Train a classifier on handwritten digits, data-parallel, without torch: run me under ``rallypoint run``.

Every worker holds its share of scikit-learn's bundled digits (1,797 images of 8 x 8 pixels) and a copy of a small
network. After each batch the workers average their gradients through the rallypoint store. Rank 0 keeps a
checkpoint, so that the job goes on where it was after a worker, or a whole node, is lost::

    rallypoint run --nproc-per-node 2 examples/train_digits.py --checkpoint /tmp/digits.npz
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.datasets import load_digits

import rallypoint
from rallypoint.rendezvous import rendezvous

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

PIXELS, HIDDEN, CLASSES = 64, 64, 10
LEARNING_RATE, MOMENTUM, BATCH_SIZE = 0.05, 0.9, 32
TEST_SHARE = 5  # every fifth image is kept for the test


@dataclass
class Team:
    """The workers of this round, and what they share."""

    store: rallypoint.Store
    rank: int
    world_size: int
    step: int = 0

    def exchange(self, value: bytes) -> list[bytes]:
        """Give one value, get everybody's in rank order.

        Whoever has read all values of this step knows that all have read those of the step before, so the
        old key can go and the store stays small.
        """
        self.step += 1
        self.store.set(f"step{self.step}/{self.rank}", value)
        values = self.store.multi_get([f"step{self.step}/{rank}" for rank in range(self.world_size)])
        self.store.delete_key(f"step{self.step - 1}/{self.rank}")
        return values

    def mean(self, array: Array) -> Array:
        """Average one array over all workers."""
        parts = [np.frombuffer(part, dtype=np.float32) for part in self.exchange(array.tobytes())]
        total: Array = np.sum(parts, axis=0, dtype=np.float32)
        return total / self.world_size


class Network:
    """Two dense layers with a ReLU between them; all weights in one flat array, so that one exchange moves them."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shapes = [(PIXELS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,)]
        self.sizes = [int(np.prod(shape)) for shape in shapes]
        self.shapes = shapes
        self.weights: Array = np.concatenate(
            [
                rng.normal(0, np.sqrt(2 / shape[0]) if len(shape) == 2 else 0, size).astype(np.float32)
                for shape, size in zip(shapes, self.sizes, strict=True)
            ]
        )
        self.velocity: Array = np.zeros_like(self.weights)

    def parts(self, flat: Array) -> list[Array]:
        """Give the matrices and vectors that a flat array holds."""
        pieces = np.split(flat, np.cumsum(self.sizes)[:-1])
        return [piece.reshape(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def scores(self, images: Array) -> tuple[Array, Array]:
        """Give the hidden activations and the scores of each class."""
        w1, b1, w2, b2 = self.parts(self.weights)
        hidden: Array = np.maximum(images @ w1 + b1, 0)
        return hidden, hidden @ w2 + b2

    def gradient(self, images: Array, labels: NDArray[np.int64]) -> Array:
        """Give the gradient of the mean cross-entropy, flat."""
        hidden, scores = self.scores(images)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = scores / scores.sum(axis=1, keepdims=True)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        _, _, w2, _ = self.parts(self.weights)
        back = (error @ w2.T) * (hidden > 0)
        pieces = [images.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        return np.concatenate([piece.ravel() for piece in pieces]).astype(np.float32)

    def update(self, gradient: Array) -> None:
        """Take one step of stochastic gradient descent with momentum."""
        self.velocity = MOMENTUM * self.velocity - LEARNING_RATE * gradient
        self.weights = self.weights + self.velocity

    def accuracy(self, images: Array, labels: NDArray[np.int64]) -> float:
        """Give the share of images that are classified rightly, 0 to 1."""
        return float((self.scores(images)[1].argmax(axis=1) == labels).mean())


def load(path: Path, network: Network) -> int:
    """Take the weights of the checkpoint, if there is one; give the number of epochs already trained."""
    if not path.exists():
        return 0
    with np.load(path) as saved:
        network.weights, network.velocity = saved["weights"], saved["velocity"]
        return int(saved["epochs"])


def save(path: Path, network: Network, epochs: int) -> None:
    """Write the checkpoint whole or not at all."""
    draft = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(draft, weights=network.weights, velocity=network.velocity, epochs=epochs)
    draft.replace(path)


def report(event: str, **fields: object) -> None:
    """Print one line that a program can read."""
    print(json.dumps({"event": event, **fields}), flush=True)


def train(team: Team, epochs: int, checkpoint: Path) -> None:
    """Train until ``epochs`` epochs are done, from wherever the checkpoint stands."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    is_test = np.arange(len(labels)) % TEST_SHARE == 0
    train_images, train_labels = images[~is_test], labels[~is_test]

    network = Network(seed=0)
    done = load(checkpoint, network)
    # Rank 0's checkpoint counts: on another host the file may be older, or missing.
    done = int(team.exchange(str(done).encode())[0])
    network.weights = np.frombuffer(team.exchange(network.weights.tobytes())[0], dtype=np.float32)
    network.velocity = np.frombuffer(team.exchange(network.velocity.tobytes())[0], dtype=np.float32)

    steps = len(train_labels) // (BATCH_SIZE * team.world_size)
    for epoch in range(done, epochs):
        order = np.random.default_rng(epoch).permutation(len(train_labels))
        for step in range(steps):
            first = (step * team.world_size + team.rank) * BATCH_SIZE
            batch = order[first : first + BATCH_SIZE]
            network.update(team.mean(network.gradient(train_images[batch], train_labels[batch])))
        if team.rank == 0:
            save(checkpoint, network, epoch + 1)
            report("epoch", epoch=epoch + 1, accuracy=network.accuracy(images[is_test], labels[is_test]))
    if team.rank == 0:
        report("trained", epochs=epochs, accuracy=network.accuracy(images[is_test], labels[is_test]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--checkpoint", type=Path, required=True)
    options = parser.parse_args()

    store, rank, world_size = next(rendezvous("env://"))
    team = Team(store, rank, world_size)
    mine = {"rank": rank, "node": int(os.environ["GROUP_RANK"]), "pid": os.getpid()}
    members = [json.loads(member) for member in team.exchange(json.dumps(mine).encode())]
    if rank == 0:
        report("round", round=int(os.environ["RALLYPOINT_ROUND"]), members=members)
    train(team, options.epochs, options.checkpoint)


if __name__ == "__main__":
    main()
