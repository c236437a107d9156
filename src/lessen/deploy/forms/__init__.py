"""Stored forms in files that run: one twin for each form of `lessen.surgery.forms` that is not baked.

A form from elsewhere brings its twin with `register`, when the module that defines it is imported.
"""

from lessen.deploy.forms.base import Twin, register

__all__ = ["Twin", "register"]
