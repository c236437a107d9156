"""The package in this folder is installed by its test, and not a part of the tests."""

collect_ignore = ["lessen_example", "build"]
