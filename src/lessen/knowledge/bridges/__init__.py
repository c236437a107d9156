"""Bridges (the field also says adapters or projectors): what makes the shapes of student and teacher meet."""
