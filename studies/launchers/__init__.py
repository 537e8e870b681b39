"""Sees to it that a study has workers: in slots of this machine, or as jobs of a cluster."""
