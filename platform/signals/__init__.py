"""The words of every signal, a file for each kind; `catalogue.py` has their names and puts them
together."""
