"""Training weights through their rounding: gradients, the model in training, checkpoints, and the job."""
