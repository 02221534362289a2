"""From ROOT ntuples to shuffled batches: recipe, graphs, shards, manifest, stream."""
