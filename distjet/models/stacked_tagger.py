"""How do the members of an ensemble of taggers train in one process, on the same batches?

Their networks stand in one, whose logits have the member as the first dimension; everything around them (inputs, scales, what
is made on the host) is there once.
"""

from collections.abc import Sequence

from torch import Tensor

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork
from distjet.nn.stacked import StackedEnsemble


class StackedTagger(TaggerNetwork):
    """Networks of one architecture, as one network with logits (M, B, C)."""

    def __init__(self, members: Sequence[TaggerNetwork]) -> None:
        super().__init__()
        self.stack, self.first = StackedEnsemble(members), (members[0],)
        self.makes_nodes, self.reads_edges = members[0].makes_nodes, members[0].reads_edges  # type: ignore[misc]

    def on_host(self, batch: GraphBatch) -> GraphBatch:
        """Make what the networks need: the same for all, which no weight has a part in."""
        return self.first[0].on_host(batch)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch to the logits of every member, shape (M, B, num_classes)."""
        return self.stack(batch)

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Clip the gradient of each member as if it trained alone, and return the largest norm before, shape ().

        The loss is the mean over the members, so that the gradient of each is smaller than its own by their number.
        """
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.stack.num_members)
        return self.stack.clip_gradients(max_norm).max()
