"""Measurements: speed against the course's way and the floor, scale, ablations, ensembles."""
