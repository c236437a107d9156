"""What several operations share: scores, allocations, patterns, second derivatives, passes that wait."""
