"""The fuzzers are programs of their own, which the tests start."""

collect_ignore = ["disks.py", "fuzz.py", "mutate.py", "targets.py"]
