"""Numbers in a range, as the types of settings: one definition for each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""How many of something, at least one."""

Share = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole that is not empty."""

AnyShare = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, from nothing to all."""

InnerShare = Annotated[float, Field(gt=0, lt=1)]
"""A part of a whole that leaves something, and is not empty."""
