"""Pythia 8, pileup, a parametrised detector and FastJet, written as ROOT ntuples like those of an experiment."""
