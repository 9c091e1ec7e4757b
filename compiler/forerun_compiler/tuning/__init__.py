"""`build-engine tune`: the drafter's precision, chosen by measured tokens per second."""
