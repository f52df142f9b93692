"""Raw data set -> shards; shards -> ordered, decoded batches -> two views."""
