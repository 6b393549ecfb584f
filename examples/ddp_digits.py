"""Train the same digits with torch's DistributedDataParallel (gloo), launched by ``rallypoint run``.

Nothing here knows rallypoint: torch's own ``env://`` rendezvous meets at the store that the agents serve::

    rallypoint run --nproc-per-node 2 examples/ddp_digits.py
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel

BATCH_SIZE, LEARNING_RATE, MOMENTUM = 32, 0.05, 0.9
TEST_SHARE = 5  # every fifth image is kept for the test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    torch.set_num_threads(1)

    images, labels = load_digits(return_X_y=True)
    is_test = np.arange(len(labels)) % TEST_SHARE == 0
    all_images = torch.tensor(images / 16, dtype=torch.float32)
    all_labels = torch.tensor(labels)
    train_images, train_labels = all_images[~is_test], all_labels[~is_test]

    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    steps = len(train_labels) // (BATCH_SIZE * world_size)
    for epoch in range(options.epochs):
        order = np.random.default_rng(epoch).permutation(len(train_labels))
        for step in range(steps):
            first = (step * world_size + rank) * BATCH_SIZE
            batch = torch.from_numpy(order[first : first + BATCH_SIZE])
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(train_images[batch]), train_labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        right = (network(all_images[is_test]).argmax(dim=1) == all_labels[is_test]).float().mean().item()
    if rank == 0:
        print(
            f"trained {options.epochs} epochs on {world_size} workers: {right:.1%} of the test images right", flush=True
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
