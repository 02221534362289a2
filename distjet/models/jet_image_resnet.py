"""A residual network on jet images.

ResNet-50 with a quarter of its channels: sixteen bottlenecks in four stages on images of one channel. With two classes it has
1,482,498 parameters; ATLAS states 1.49M, which it has with the 6,624 biases that Keras puts before normalisations, which take
them away again. `bottleneck: 32, groups: 32` is ResNeXt-50 with a quarter of its channels behind the first layer, as in the
comparison of top taggers (1.45M here, 1.46M stated there). Images of 64 x 64 pixels over 1.6 x 1.6 are made on the device from
four-momenta; ATLAS took 224 x 224.

Reference:
    K. He et al., "Deep residual learning for image recognition", arXiv:1512.03385; S. Xie et al., "Aggregated residual
    transformations", arXiv:1611.05431; on jets: G. Kasieczka et al., "The machine learning landscape of top taggers",
    arXiv:1902.09914; ATLAS, "Constituent-based top-quark tagging", ATL-PHYS-PUB-2022-039.
"""

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import JetImageResnetConfig
from distjet.nn.batch_norm import BatchNorm
from distjet.nn.jet_images import jet_images


class JetImageResnet(TaggerNetwork):
    """Images, bottlenecks in stages, the mean over the last pixels, one dense layer."""

    Config = JetImageResnetConfig

    def __init__(self, config: JetImageResnetConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.size, self.width = config.image_size, config.image_width
        self.stem = nn.Sequential(_convolution(1, config.stem, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        blocks: list[nn.Module] = []
        before, inner, after = config.stem, config.bottleneck, config.width
        for number, depth in enumerate(config.depths):
            for place in range(depth):
                stride = 2 if number and not place else 1
                blocks.append(Bottleneck(before, inner, after, stride, config.groups))
                before = after
            inner, after = 2 * inner, 2 * after
        self.blocks = nn.Sequential(*blocks)
        self.classify = nn.Linear(before + spec.num_jet, spec.num_classes)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch to logits of shape (B, num_classes)."""
        with torch.autocast(batch.p4.device.type, enabled=False):
            images = jet_images(batch.p4, batch.batch, batch.num_graphs, self.size, self.width)
        channels = self.blocks(self.stem(images)).mean((2, 3))
        return self.classify(torch.cat([channels, batch.u], dim=1))


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 x 3 and 1 pixels, the middle one narrow and in groups, and a shortcut."""

    def __init__(self, num_inputs: int, inner: int, num_outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.convolve = nn.Sequential(
            _convolution(num_inputs, inner, 1),
            nn.ReLU(),
            _convolution(inner, inner, 3, stride, groups),
            nn.ReLU(),
            _convolution(inner, num_outputs, 1),
        )
        fits = num_inputs == num_outputs and stride == 1
        self.shortcut = nn.Identity() if fits else _convolution(num_inputs, num_outputs, 1, stride)

    def forward(self, channels: Tensor) -> Tensor:
        """Map (B, num_inputs, S, S) to (B, num_outputs, S / stride, S / stride)."""
        return (self.shortcut(channels) + self.convolve(channels)).relu()


def _convolution(num_inputs: int, num_outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without the bias that the normalisation behind it takes away."""
    convolve = nn.Conv2d(num_inputs, num_outputs, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(convolve, BatchNorm(num_outputs))
