"""Tables 1 and 2 of the paper, and what pre-training brings a detector: nets, trainings, results."""
