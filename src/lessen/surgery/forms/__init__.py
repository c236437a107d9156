"""How parameters are stored: one file for each form, and what they have in common."""
