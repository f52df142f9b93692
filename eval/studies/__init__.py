"""The studies of Chen et al. 2020: what is trained, by which budget, and the tables and figures of it."""
