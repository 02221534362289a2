"""Runs at work: calibrated jets of ntuples, events made of calibrated constituents, and models for other programs."""
