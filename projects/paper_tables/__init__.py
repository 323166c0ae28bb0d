"""Tables 1 and 2 of the paper, and whether pre-training helps a detector."""
