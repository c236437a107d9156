"""What a run did and what came of it, from the files in its folder: one page, and tables of one run or of several."""

from lessen.report.comparison import Comparison, compare, write_comparison
from lessen.report.frames import frame, log_frame, records_frame
from lessen.report.page import write_report
from lessen.report.shown import shown_looks, shown_records
from lessen.report.summary import summary, told

__all__ = [
    "Comparison",
    "compare",
    "frame",
    "log_frame",
    "records_frame",
    "shown_looks",
    "shown_records",
    "summary",
    "told",
    "write_comparison",
    "write_report",
]
