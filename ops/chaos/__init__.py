"""Kills runs and looks at what comes out."""
