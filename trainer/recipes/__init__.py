"""The recipes: `by_name.py` is the table, a file for each family of networks."""
