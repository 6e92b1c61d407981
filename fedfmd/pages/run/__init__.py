"""The page of federated runs."""
