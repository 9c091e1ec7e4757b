"""Engines: compiled graphs -> the files that an execution library opens; one file per library."""
