"""Which batches of a training are changed at random, and with which random numbers?

Those of the training split, in the thread that reads ahead. The numbers follow from the seed of the run and the jets of a
batch: an epoch, whose batches are others than those of the one before, sees other changes, and a training that was interrupted
sees the same. As for dropout, they depend on the number of processes.
"""

import dataclasses

import torch
import xxhash

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger_configs import AugmentationConfig
from distjet.nn.augmentation import augment, kinematic_inputs


class Augmentation:
    """Changes the constituents of batches, and the inputs that are made of them alone."""

    def __init__(self, config: AugmentationConfig, node_names: tuple[str, ...], seed: int) -> None:
        """Prepare.

        Args:
            config: How much is changed.
            node_names: Columns of constituents of the dataset, in its order.
            seed: Of the run.
        """
        self.config, self.node_names, self.seed = config, node_names, seed

    def __call__(self, batch: GraphBatch) -> GraphBatch:
        """Return other jets; without edges, which would be others."""
        p4 = batch.p4.contiguous()
        state = xxhash.xxh3_64_intdigest(p4.numpy().data, seed=self.seed)
        changed = augment(p4, batch.ptr, self.config, torch.Generator().manual_seed(state % 2**63))
        made = kinematic_inputs(changed.p4, changed.ptr)
        kept = batch.take_nodes(changed.places, changed.ptr)
        columns = [made.get(name, column) for name, column in zip(self.node_names, kept.x.unbind(1), strict=True)]
        return dataclasses.replace(kept, x=torch.stack(columns, 1) if columns else kept.x, p4=changed.p4)
