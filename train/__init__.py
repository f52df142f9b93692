"""One update, many times: configuration, checkpoints, the entry point."""
