"""What a run did and what came of it, from the files in its folder: one page, and a table for the terminal."""

from lessen.report.page import write_report
from lessen.report.summary import summary, told

__all__ = ["summary", "told", "write_report"]
