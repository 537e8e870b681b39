"""How an optimizer step is computed: in parts, and with less kept for the way back."""
