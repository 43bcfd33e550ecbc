"""`python -m kaggle_hw4` is the same as the command `kaggle-hw4`."""

from kaggle_hw4.cli import main

if __name__ == "__main__":
    main()
