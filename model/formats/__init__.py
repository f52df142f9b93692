"""An encoder as other libraries load it: a file for each format."""
