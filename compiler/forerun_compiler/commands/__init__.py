"""The commands of the command line, by what they begin with; `cli.py` joins them."""
