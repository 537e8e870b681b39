"""The flight recorder, and the autopsy that reads its record and a replay: how an alert came about,
and why.
"""
