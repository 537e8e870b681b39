"""Scaling laws: forms, estimation, uncertainty, and the checks that may say no. Plain numpy and
scipy on a table."""
