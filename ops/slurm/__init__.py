"""Batch files for Slurm, and a check of them on a cluster that lives as long as the check."""
