"""scikit-learn's 1797 scanned digits, 8x8 pixels, half to train on and half to test on."""

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits

Data = tuple[np.ndarray, np.ndarray]
"""float32 images [N, 8, 8, 1] between 0 and 1, int labels [N]."""


def split(seed: int) -> tuple[Data, Data]:
    """The training half and the test half, shuffled by the seed."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = np.split(order, [len(order) // 2])
    return (images[train], labels[train]), (images[test], labels[test])


def epoch(data: Data, batch_size: int, rng: np.random.Generator) -> Iterator[Data]:
    """Batches in a new random order; what does not fill a batch is left out."""
    images, labels = data
    order = rng.permutation(len(images))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield images[chosen], labels[chosen]
