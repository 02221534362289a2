"""distjet: from ROOT ntuples with 100 million jets to calibrated, tagged, uncertainty-aware jets."""

from importlib.metadata import version

__version__ = version("distjet")
