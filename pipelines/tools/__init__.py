"""Data sets that exist: foreign shards indexed in place, sets looked at, cut and verified."""
