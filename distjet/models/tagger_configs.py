"""Configurations of the taggers, and the table of their names.

They stand apart from the networks so that a typo in a key is reported without importing torch.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from distjet.config import Component, ComponentConfig, Config

KINEMATICS = ("delta_eta", "delta_phi", "log_pt", "log_energy", "log_pt_fraction", "log_energy_fraction", "delta_r")
"The seven inputs of a constituent in the published comparisons on top tagging (arXiv:1902.08570)."


HIGH_LEVEL = (
    *("tau1", "tau2", "tau3", "tau4", "sqrt_d12", "sqrt_d23", "ecf1", "ecf2", "ecf3", "c2", "d2", "q_w", "l2", "l3"),
    "thrust_major",
)
"Substructure that the high-level network of arXiv:2407.20127 reads; see distjet.physics.substructure."


class TaggerConfig(ComponentConfig):
    """What every tagger has: it gives each jet a score for each class.

    A tagger of one's own derives its Config from this.
    """

    is_ordered: ClassVar[bool] = False
    "Whether the network reads constituents in order of falling pT; they are sorted before it."
    inputs: tuple[str, ...] = KINEMATICS
    "Columns of constituents that it reads, in this order."
    jet_inputs: tuple[str, ...] = ()
    "Columns that it reads of the jet, of the graph, or of the spectators."
    scaling: Literal["dataset", "none"] = "dataset"
    "dataset: (value - mean) / deviation of the training split; none: columns are taken as they are."
    max_scaled: float = Field(default=10.0, gt=0)
    "Scaled inputs are clipped to this size."
    max_constituents: int | None = Field(default=None, ge=1)
    "Only so many constituents of a jet are read, those with the highest pT; null: all."

    @field_validator("inputs", "jet_inputs")
    @classmethod
    def _are_different(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"expected different columns (got {list(names)})")
        return names


class FourMomentaTaggerConfig(TaggerConfig):
    """What taggers share that make their inputs of four-momenta alone."""

    inputs: tuple[str, ...] = ()
    "None: what it reads of constituents is made from their four-momenta."

    @field_validator("inputs")
    @classmethod
    def _are_none(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names:
            raise ValueError(f"expected [], because this tagger reads four-momenta alone (got {list(names)})")
        return names


class ParticleFlowNetworkConfig(TaggerConfig):
    """Deep sets: a dense network on the sum of what another one makes of each constituent."""

    name: str = "particle_flow_network"
    inputs: tuple[str, ...] = ()
    "Columns read beside the share of the pT and the angles to the jet axis, which are made from four-momenta."
    constituent_hidden: tuple[int, ...] = Field(default=(100, 100, 256), min_length=1)
    "Widths of the network on constituents; these are the published ones."
    jet_hidden: tuple[int, ...] = (100, 100, 100)
    "Widths of the network on their sum; these are the published ones."


class EnergyFlowNetworkConfig(FourMomentaTaggerConfig):
    """Deep sets in directions, weighted with the share of the pT: infrared and collinear safe."""

    name: str = "energy_flow_network"
    constituent_hidden: tuple[int, ...] = Field(default=(100, 100, 256), min_length=1)
    "Widths of the network on directions; these are the published ones."
    jet_hidden: tuple[int, ...] = (100, 100, 100)
    "Widths of the network on the weighted sum; these are the published ones."


class LolaConfig(FourMomentaTaggerConfig):
    """Combinations of four-momenta, their Lorentz invariants, and a dense network."""

    is_ordered: ClassVar[bool] = True
    name: str = "lola"
    max_constituents: int = Field(default=60, ge=1)
    "Only so many constituents of a jet are read, those with the highest pT; fewer are filled up with zeros."
    num_combinations: int = Field(default=39, ge=0)
    "Trained combinations. With 60 constituents, 39 of them give the 127k parameters that are published; they are not."
    num_sums: int = Field(default=2, ge=0)
    "Trained sums of distances for each four-momentum."
    num_minima: int = Field(default=2, ge=0)
    "Minima of weighted distances for each four-momentum."
    hidden: tuple[int, ...] = (100, 50)
    "Widths of the dense layers; these are the published ones."
    unit_gev: float = Field(default=100.0, gt=0)
    "Four-momenta are read in this unit, so that their products are of order one."


class PCnnConfig(TaggerConfig):
    """A residual network of convolutions along the constituents in order of pT."""

    is_ordered: ClassVar[bool] = True
    name: str = "p_cnn"
    inputs: tuple[str, ...] = Field(default=KINEMATICS, min_length=1)
    "Columns of constituents that it reads, in this order."
    max_constituents: int = Field(default=100, ge=1)
    "Only so many constituents of a jet are read, those with the highest pT; fewer are filled up with zeros."
    width: int = Field(default=32, ge=1)
    "Channels of the first convolution."
    stages: tuple[tuple[Annotated[int, Field(ge=1)], ...], ...] = Field(default=((64, 64), (64, 64), (128, 128)), min_length=1)
    "Channels of each residual unit, stage by stage; every stage but the first halves the length."
    hidden: int = Field(default=512, ge=1)
    "Width of the dense layer."
    dropout: float = Field(default=0.2, ge=0, lt=1)
    "Share of the dense layer that is dropped in training."

    @field_validator("stages")
    @classmethod
    def _have_units(cls, stages: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        if not all(stages):
            raise ValueError(f"expected at least one unit in each stage (got {[list(widths) for widths in stages]})")
        return stages


class JetImageResnetConfig(FourMomentaTaggerConfig):
    """A residual network on jet images; by default ResNet-50 with a quarter of its channels."""

    name: str = "jet_image_resnet"
    image_size: int = Field(default=64, ge=8)
    "Pixels along each side."
    image_width: float = Field(default=1.6, gt=0)
    "Extent of the image in rapidity and azimuth."
    stem: int = Field(default=64, ge=1)
    "Channels of the first convolution."
    depths: tuple[int, ...] = Field(default=(3, 4, 6, 3), min_length=1)
    "Bottlenecks of each stage; every stage but the first halves the image and doubles the channels."
    width: int = Field(default=64, ge=1)
    "Channels behind a bottleneck of the first stage."
    bottleneck: int = Field(default=16, ge=1)
    "Channels inside a bottleneck of the first stage; 32 for ResNeXt-50."
    groups: int = Field(default=1, ge=1)
    "Groups of channels inside a bottleneck, which must divide them; 32 for ResNeXt-50."

    @model_validator(mode="after")
    def _groups_divide_bottleneck(self) -> "JetImageResnetConfig":
        if self.bottleneck % self.groups:
            raise ValueError(f"groups must divide bottleneck (got groups={self.groups}, bottleneck={self.bottleneck})")
        return self


class ConstituentDnnConfig(TaggerConfig):
    """Dense layers on the hardest constituents in one row."""

    is_ordered: ClassVar[bool] = True
    name: str = "constituent_dnn"
    inputs: tuple[str, ...] = ()
    "Columns read beside the seven numbers of each constituent that are made from its four-momentum."
    max_constituents: int = Field(default=80, ge=3)
    "Only so many constituents of a jet are read, those with the highest pT; fewer are filled up with zeros."
    hidden: tuple[int, ...] = (400, 400, 400, 400, 400)
    "Widths of the hidden layers; these are the published ones."
    dropout: float = Field(default=0.0, ge=0, lt=1)
    "Share of each hidden layer that is dropped in training."


class HighLevelDnnConfig(FourMomentaTaggerConfig):
    """Dense layers on high-level variables of the jet."""

    name: str = "high_level_dnn"
    jet_inputs: tuple[str, ...] = Field(default=HIGH_LEVEL, min_length=1)
    "Columns that it reads of the jet, of the graph, or of the spectators; these are the published fifteen."
    hidden: tuple[int, ...] = (180, 180, 180, 180, 180)
    "Widths of the hidden layers; these are the published ones."


class ParticleNextConfig(TaggerConfig):
    """Multi-scale message passing with attention on a graph of nearest neighbours, with pairwise features of its edges."""

    name: str = "particle_next"
    max_constituents: int = Field(default=128, ge=1)
    "Only so many constituents of a jet are read, those with the highest pT."
    node_width: int = Field(default=32, ge=1)
    "Width to which the inputs of a constituent are mapped."
    edge_width: int = Field(default=8, ge=1)
    "Width to which the four pairwise features of an edge are mapped."
    num_layers: int = Field(default=3, ge=1)
    "Layers of message passing."
    width: int = Field(default=256, ge=16)
    "Width of constituents after each layer."
    message_width: int = Field(default=64, ge=16)
    "Width of the message along an edge."
    scales: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(4, 8, 16, 32), min_length=1)
    "Numbers of nearest neighbours, rising, of which each has an attention of its own."
    num_heads: int = Field(default=8, ge=1)
    "Heads of the attention over neighbours."
    num_pooling_heads: int = Field(default=4, ge=1)
    "Heads of the attention over the constituents of a jet."
    hidden: int = Field(default=256, ge=1)
    "Width of the hidden layer that reads the jet."
    dropout: float = Field(default=0.1, ge=0, lt=1)
    "Share of the hidden layer that is dropped in training."

    @model_validator(mode="after")
    def _fits_together(self) -> "ParticleNextConfig":
        if list(self.scales) != sorted(set(self.scales)):
            raise ValueError(f"scales must rise (got {list(self.scales)})")
        _check_multiple("message_width", self.message_width, "num_heads", self.num_heads)
        _check_multiple("message_width", self.message_width, "2", 2)
        _check_multiple("width", self.width, "num_pooling_heads", self.num_pooling_heads)
        return self


class ParticleTransformerConfig(TaggerConfig):
    """Attention among all constituents of a jet, with a bias that a network of their pairwise features gives."""

    name: str = "particle_transformer"
    max_constituents: int = Field(default=128, ge=1)
    "Only so many constituents of a jet are read, those with the highest pT."
    embed_hidden: tuple[int, ...] = (128, 512)
    "Widths of the hidden layers that embed a constituent."
    width: int = Field(default=128, ge=1)
    "Width of a constituent in the blocks of attention."
    pair_hidden: tuple[int, ...] = (64, 64, 64)
    "Widths of the hidden layers from pairwise features to the bias of the attention."
    num_heads: int = Field(default=8, ge=1)
    "Heads of the attention."
    num_blocks: int = Field(default=8, ge=1)
    "Blocks of attention among constituents."
    num_class_blocks: int = Field(default=2, ge=1)
    "Blocks in which a token of the jet attends to its constituents."
    expansion: int = Field(default=4, ge=1)
    "Width of the hidden layer of a block, in units of `width`."
    dropout: float = Field(default=0.1, ge=0, lt=1)
    "Share that is dropped in training, in the blocks among constituents: of attention, of hidden layers and of outputs."

    @model_validator(mode="after")
    def _heads_share_channels(self) -> "ParticleTransformerConfig":
        _check_multiple("width", self.width, "num_heads", self.num_heads)
        return self


class AugmentationConfig(Config):
    """How constituents are changed at random while a tagger learns; all zero: not at all.

    Four-momenta, and the inputs that are made of them alone, are changed; others stay.
    """

    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    "Share of the constituents that are left out."
    pt_dropout_gev: float = Field(default=0.0, ge=0)
    "Constituents below a threshold are left out, which is drawn for each jet from a normal distribution of this width."
    scale: float = Field(default=0.0, ge=0)
    "Deviation from 1 of a factor on all four-momenta of a jet, one for each jet."
    smear: float = Field(default=0.0, ge=0)
    "Deviation from 1 of a factor on the four-momentum of each constituent."
    shift: float = Field(default=0.0, ge=0)
    "Deviation of a shift of rapidity, and of one of the azimuth in radians, of each constituent."

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        return any(self.model_dump().values())


def _check_multiple(key: str, value: int, divisor_key: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"{key} must be a multiple of {divisor_key} (got {value}, {divisor})")


class LundNetConfig(TaggerConfig):
    """Edge convolutions on the tree of declusterings of a jet (arXiv:2012.08526)."""

    name: str = "lund_net"
    inputs: tuple[str, ...] = ()
    "It reads the four-vectors of the constituents; no columns."
    coordinates: Literal[5, 3] = 5
    "5: ln z, ln Delta, psi, ln m, ln kT of a declustering (LundNet-5); 3: ln z, ln Delta, ln kT (LundNet-3, more robust)."
    min_ln_kt: float | None = None
    """Declusterings with a smaller ln(kT / GeV) are passed over along the harder branch: a scan of it trades performance for
    resilience against what is not perturbative. Null: all are kept."""
    convolutions: tuple[tuple[int, ...], ...] = ((32, 32), (32, 32), (64, 64), (64, 64), (128, 128), (128, 128))
    "Widths of the layers of each edge convolution."
    hidden: int = Field(default=256, ge=1)
    "Width of the layer between the mean over the tree and the scores."
    dropout: float = Field(default=0.1, ge=0, lt=1)
    "Share of that layer that is left out in training."

    @field_validator("inputs")
    @classmethod
    def _reads_no_columns(cls, inputs: tuple[str, ...]) -> tuple[str, ...]:
        if inputs:
            raise ValueError(f"reads declusterings and no columns of constituents; leave it out (got {list(inputs)})")
        return inputs


class LorentzNetConfig(TaggerConfig):
    """Lorentz-equivariant attention between all constituents of a jet and the two beams (arXiv:2201.08187)."""

    name: str = "lorentz_net"
    inputs: tuple[str, ...] = ()
    "It reads the four-vectors of the constituents; no columns."
    num_blocks: int = Field(default=6, ge=1)
    "Blocks of messages."
    width: int = Field(default=72, ge=1)
    "Width of the scalars of a particle, and of messages."
    coordinate_step: float = Field(default=5e-3, gt=0)
    "What the messages to a four-vector are multiplied with: published 5e-3 for top tagging and 1e-3 for quarks and gluons."
    coordinate_update: Literal["mean_difference", "sum"] = "mean_difference"
    """mean_difference: mean over j of phi_x (x_i - x_j), clamped to +-100, as in the authors' code; sum: the sum over j of
    phi_x x_j, as in their paper."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    "Share of the last hidden layer that is left out in training."
    padded_length: int | None = Field(default=None, ge=1)
    """Null: the mean over the particles and beams of a jet is read. A number: their sum divided by it, as the authors' code
    does with the length of its padded batch, beams included; their scores need theirs."""

    @field_validator("inputs")
    @classmethod
    def _reads_no_columns(cls, inputs: tuple[str, ...]) -> tuple[str, ...]:
        if inputs:
            raise ValueError(f"reads four-vectors and no columns of constituents; leave it out (got {list(inputs)})")
        return inputs


class ParticleNetConfig(TaggerConfig):
    """ParticleNet: edge convolutions, each among neighbours in the space that the one before has made (arXiv:1902.08570)."""

    name: str = "particle_net"
    "A name from the table TAGGERS or an import path."
    max_constituents: int | None = Field(default=100, ge=1)
    "Only so many constituents of a jet are read, those with the highest pT; null: all."
    points: tuple[str, str] | None = None
    """Two of the inputs, scaled as they are, in whose plane the first neighbours are sought; null: pseudorapidity and azimuth
    relative to the jet's axis."""
    num_neighbours: int = Field(default=16, ge=1)
    "Nearest constituents that a constituent looks at."
    blocks: tuple[Annotated[tuple[int, ...], Field(min_length=1)], ...] = Field(
        default=((64, 64, 64), (128, 128, 128), (256, 256, 256)), min_length=1
    )
    "Widths of the layers of each edge convolution."
    hidden: tuple[int, ...] = (256,)
    "Widths of the layers behind the mean over the constituents."
    dropout: float = Field(default=0.1, ge=0, lt=1)
    "Share of each of these layers that is left out in training."
    use_fusion: bool = False
    "Whether a layer reads the constituents as they are behind every block, not behind the last one alone."

    @model_validator(mode="after")
    def _reads_its_points(self) -> "ParticleNetConfig":
        if missing := [name for name in self.points or () if name not in self.inputs]:
            raise ValueError(f"points: expected two of the inputs {list(self.inputs)} (got {missing[0]!r})")
        return self


class ParticleNetLiteConfig(ParticleNetConfig):
    """ParticleNet-Lite: two small blocks, with 7 neighbours (arXiv:1902.08570)."""

    name: str = "particle_net_lite"
    "A name from the table TAGGERS or an import path."
    num_neighbours: int = Field(default=7, ge=1)
    "Nearest constituents that a constituent looks at."
    blocks: tuple[Annotated[tuple[int, ...], Field(min_length=1)], ...] = Field(
        default=((32, 32, 32), (64, 64, 64)), min_length=1
    )
    "Widths of the layers of each edge convolution."
    hidden: tuple[int, ...] = (128,)
    "Widths of the layers behind the mean over the constituents."


TAGGERS: dict[str, Component] = {
    name: Component(f"distjet.models.tagger_configs:{config}", f"distjet.models.{network}")
    for name, config, network in (
        ("particle_net", "ParticleNetConfig", "particle_net:ParticleNet"),
        ("particle_net_lite", "ParticleNetLiteConfig", "particle_net:ParticleNetLite"),
        ("lund_net", "LundNetConfig", "lund_net:LundNet"),
        ("lorentz_net", "LorentzNetConfig", "lorentz_net:LorentzNet"),
        ("particle_next", "ParticleNextConfig", "particle_next:ParticleNext"),
        ("particle_transformer", "ParticleTransformerConfig", "particle_transformer:ParticleTransformer"),
        ("particle_flow_network", "ParticleFlowNetworkConfig", "particle_flow_network:ParticleFlowNetwork"),
        ("energy_flow_network", "EnergyFlowNetworkConfig", "energy_flow_network:EnergyFlowNetwork"),
        ("lola", "LolaConfig", "lola:Lola"),
        ("p_cnn", "PCnnConfig", "p_cnn:PCnn"),
        ("jet_image_resnet", "JetImageResnetConfig", "jet_image_resnet:JetImageResnet"),
        ("constituent_dnn", "ConstituentDnnConfig", "constituent_dnn:ConstituentDnn"),
        ("high_level_dnn", "HighLevelDnnConfig", "high_level_dnn:HighLevelDnn"),
    )
}
