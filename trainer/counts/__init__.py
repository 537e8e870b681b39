"""Parameters of a configuration without torch: `parameters.py` adds up what the families say."""
