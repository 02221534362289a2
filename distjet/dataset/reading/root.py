"""Which reader has a tree of a ROOT file?

`std::vector`, C arrays, nested vectors and RNTuple collections all end as one flat array and the offsets of each level of
nesting. uproot's caches are off, because no basket is read twice. Offsets are trimmed to start at zero: a slice of a jagged
array otherwise keeps the content of its neighbours.
"""

import uproot

from distjet.config import did_you_mean
from distjet.dataset.reading.byte_source import ByteSource
from distjet.dataset.reading.rntuple import NTupleReader
from distjet.dataset.reading.sources import Opened
from distjet.dataset.reading.ttree import TreeReader
from distjet.errors import DataError

TREE_CLASSES = ("TTree", "TNtuple", "TNtupleD")


def open_root(opened: Opened, tree: str) -> TreeReader | NTupleReader:
    """Find a tree.

    Args:
        opened: The file.
        tree: Name of the TTree or RNTuple.

    Raises:
        DataError: If the file has no such tree; those that it has are in the message.
    """
    options = {"array_cache": None, "object_cache": None, "handler": ByteSource}
    file = uproot.open({opened.name: None}, reader=opened.reader, size=opened.size, **options)
    try:
        found = file[tree]
    except uproot.KeyInFileError:
        found = None
    if isinstance(found, uproot.TTree):
        return TreeReader(found, file.file.source)
    if isinstance(found, uproot.behaviors.RNTuple.RNTuple):
        return NTupleReader(found, file.file.source)
    classes = {key.partition(";")[0]: name for key, name in file.classnames(recursive=True).items()}
    trees = [key for key, name in classes.items() if name in TREE_CLASSES or "RNTuple" in name]
    raise DataError(f"{opened.name} has no tree {tree!r}{did_you_mean(tree, trees)}; it has {trees or 'no tree at all'}")
