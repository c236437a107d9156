"""Objectives on outputs: logits and soft targets."""
