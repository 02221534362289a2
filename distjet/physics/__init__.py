"""Pure formulas and the FastJet wrappers: no configuration, no files, no torch."""
