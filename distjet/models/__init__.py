"""Published models, one a file, and the wrappers that turn a network into a calibrator."""
