"""An encoder file -> numbers and pictures."""
