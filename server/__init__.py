"""The Flower ServerApp, the grid executor and the launcher of simulations."""
