"""A network as a user of PyTorch Geometric would write it: it takes the whole batch and knows nothing of distjet."""

import torch
from torch import nn
from torch_geometric.nn import TransformerConv


class TransformerStack(nn.Module):
    """Two TransformerConv layers with edge features."""

    def __init__(self, in_channels: int, out_channels: int, edge_dim: int, hidden: int = 16) -> None:
        super().__init__()
        self.first = TransformerConv(in_channels, hidden, heads=2, concat=False, edge_dim=edge_dim)
        self.second = TransformerConv(hidden, out_channels, heads=1, edge_dim=edge_dim)

    def forward(self, data) -> torch.Tensor:
        hidden = self.first(data.x, data.edge_index, data.edge_attr).relu()
        return self.second(hidden, data.edge_index, data.edge_attr)
