"""One training, or several of a variant as one: the loop, what it uses, what it leaves."""
