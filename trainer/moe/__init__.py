"""Mixture-of-Experts layers: `router.py` decides, `experts.py` computes."""
