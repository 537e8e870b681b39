"""How an optimizer step is computed: in parts, compiled, and with less kept for the way
back."""
