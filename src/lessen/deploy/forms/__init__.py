"""Stored forms in files that run: one file for each form of `lessen.surgery.forms`."""
