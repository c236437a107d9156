"""Tasks: what outputs and labels mean, the loss on labels, and the figures by which networks are judged."""
