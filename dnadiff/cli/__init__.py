"""The command line: one typed function per verb, whose docstring describes its flags."""
