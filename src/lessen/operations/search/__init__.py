"""Searches over settings of single layers."""
