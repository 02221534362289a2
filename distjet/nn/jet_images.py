"""What does a jet look like as a picture?

A jet is centred on its axis, turned until its major axis points along the second coordinate, and flipped so that most of its pT
is at positive values of both; then pT is collected in pixels. All of that are sums over ragged constituents on the device.
"""

import torch
from torch import Tensor

from distjet.nn.jet_frame import to_jet_frame
from distjet.nn.segments import segment_sum


def jet_images(p4: Tensor, batch: Tensor, num_jets: int, size: int, width: float) -> Tensor:
    """Fill the image of each jet.

    Args:
        p4: Constituents (px, py, pz, energy) in GeV, shape (N, 4).
        batch: Jet of each constituent, shape (N,).
        num_jets: Number of jets B.
        size: Pixels S along each coordinate.
        width: Extent of the image in rapidity and azimuth; what is outside is dropped.

    Returns:
        Share of the jet's pT in each pixel, shape (B, 1, S, S).

    Reference:
        J. Cogan et al., "Jet-images", arXiv:1407.5675; S. Macaluso, D. Shih, "Pulling out all the tops with computer vision and
        deep learning", arXiv:1803.00107.
    """
    frame = to_jet_frame(p4, batch, num_jets)
    points = _rotate(torch.stack([frame.delta_y, frame.delta_phi], dim=1), frame.share, batch, num_jets)
    heavier = segment_sum(frame.share.unsqueeze(1) * points.sign(), batch, num_jets)
    points = points * torch.where(heavier < 0, -1.0, 1.0).index_select(0, batch)
    # the axis is the middle of a pixel: at an edge, rounding would decide on which side a jet of two constituents is drawn
    pixel = (points * (size / width)).round().long() + size // 2
    is_inside = ((pixel >= 0) & (pixel < size)).all(1)
    row, column = pixel.unbind(1)
    outside = num_jets * size**2
    place = torch.where(is_inside, (batch * size + row) * size + column, outside)
    image = segment_sum(frame.share, place, outside + 1)
    return image[:-1].view(num_jets, 1, size, size)


def _rotate(points: Tensor, share: Tensor, batch: Tensor, num_jets: int) -> Tensor:
    """Turn points (N, 2) of each jet until their major axis is along the second coordinate."""
    x, y = points.unbind(1)
    moments = segment_sum(torch.stack([share * x * y, share * (x**2 - y**2)], dim=1), batch, num_jets)
    angle = torch.pi / 2 - 0.5 * torch.atan2(2 * moments[:, 0], moments[:, 1])
    cosine, sine = angle.cos().index_select(0, batch), angle.sin().index_select(0, batch)
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], dim=1)
