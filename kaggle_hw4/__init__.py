"""kaggle-hw4: a workbench for Kaggle's speaker identification competition `ml2023springhw4`."""

__version__ = "0.1.0"
