"""Raw images -> shards: sources, the plan, and the workers that write it."""
