"""Graph passes: one file each; every pass reads as find, check, rewrite, and returns how often it fired."""
