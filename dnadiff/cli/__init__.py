"""The command line: one file per verb, each a typed function whose docstring describes its flags."""
