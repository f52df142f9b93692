"""What lies elsewhere: URLs, ranged requests, and the copies of shards that a node keeps."""
