"""The classical calibration of jets: pileup subtraction, numerical inversion, eta correction, sequential correction."""
