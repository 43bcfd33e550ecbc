"""The embedded competition: synthetic voices, and a server that the official client takes for Kaggle."""
