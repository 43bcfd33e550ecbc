"""`kaggle-hw4 report`: one page of pictures and tables, from the artefacts of a workspace alone."""
