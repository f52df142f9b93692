"""Runs on Kubernetes: Kustomize folders, and what their pods start before the ranks."""
