"""Closed windows of steps: packed columns, roll-ups, what makes them and what forgets them.

A window is 1,024 steps, aligned to its multiples. Once it is closed, `compaction` moves its rows
into one chunk per signal (and layer) and two levels of roll-ups; nothing is lost by that. What is
written later to a step of such a window is a row again, which counts more than the chunk until the
next compaction takes it in. `retention` forgets chunks of vectors by rule; their roll-ups stay.
"""
