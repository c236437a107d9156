"""Exporters that keep quiet."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from lessen.deploy.registry import one_registry
from lessen.measure.timing import no_collection
from lessen.surgery.tracing import traceable


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Without what exporters print, log and warn about themselves: what matters comes as an exception.

    Also without the garbage collector: it would look again and again at the growing graph, a fifth of the whole time.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quiet, still = contextlib.redirect_stdout(io.StringIO()), no_collection()
        with warnings.catch_warnings(), quiet, still, one_registry(), traceable():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
