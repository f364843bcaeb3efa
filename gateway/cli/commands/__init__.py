"""One module per command of `tunesmith`, found by its file name."""
